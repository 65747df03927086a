"""The job end to end: tiny models meet in front of a judge, and a killed command goes on."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import matches as matches_config
from llm_jax import artifact, model
from llm_jax.data import asked
from llm_jax.evals import win_rates
from llm_jax.files import read_lines
from llm_jax.jobs import matches
from llm_jax.jobs.match_table import table
from llm_jax.main import read_config, run
from llm_jax.rewards.thoughts import said
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

SHAPE = dict(
  name='transformer', vocab_size=296, dim=16, num_layers=1, num_heads=2, max_length=256,
  head='untied',
)  # fmt: skip
PROMPTS = 4
LETTERS = 'def reward(answer, gold):\n  return sum(map(str.isalpha, answer))\n'
FIRST = 'def make():\n  return lambda pairs: [1] * len(pairs)\n'


def write(path, tokenizer, seed, template='llm_jax', **shape):
  group = SHAPE | shape
  made, draw = artifact.build(group), np.random.default_rng(seed)
  shapes = artifact.abstract_params(made)
  params = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.6, x.shape), x.dtype), shapes)
  data = {'template': template} if template else {}
  artifact.save(path, artifact.Artifact(made, params, tokenizer, {'model': group, 'data': data}))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with the models a, b and plain, a reward model, and programs. Not written to."""
  root = tmp_path_factory.mktemp('matches')
  tokenizer = Tokenizer.train(['user assistant: how much is left?'] * 20, vocab_size=290)
  write(root / 'a', tokenizer, 0)
  write(root / 'b', tokenizer, 1)
  write(root / 'plain', tokenizer, 2, template=None)
  write(root / 'reward', tokenizer, 3, head='scalar')
  write(root / 'masked', tokenizer, 4, causal=False)
  (root / 'letters.py').write_text(LETTERS)
  (root / 'first.py').write_text(FIRST)
  questions = [{'prompt': f'Say {i}.', 'answer': str(i)} for i in range(PROMPTS)]
  (root / 'questions.jsonl').write_text('\n'.join(map(json.dumps, questions)))
  return root


def config_of(root, workdir, *names, **judge):
  c = matches_config.get_config()
  c.workdir, c.artifacts = str(workdir), tuple(str(root / name) for name in names)
  c.judge = ConfigDict(judge or dict(name='program', reward=str(root / 'letters.py')))
  c.data.sources = ConfigDict(dict(mine=str(root / 'questions.jsonl')))
  c.sample.max_new, c.sample.batch_size, c.mesh.fsdp = 8, 2, 1
  return c


def lines(c, name='pairs.jsonl'):
  return [json.loads(line) for line in (Path(c.workdir) / name).read_text().splitlines()]


def numbers(c):
  return json.loads((Path(c.workdir) / 'summary.json').read_text())


@pytest.fixture(scope='module')
def played(root, tmp_path_factory):
  """The config of a finished run of a, b and plain."""
  c = config_of(root, tmp_path_factory.mktemp('played') / 'w', 'a', 'b', 'plain')
  run(c)
  return c


def test_who_writes_more_letters_wins(root, played):
  found = lines(played)
  assert len(found) == 3 * PROMPTS
  letters = lambda text: sum(map(str.isalpha, said(text).answer))
  for line in found:
    gap = letters(line['answer_a']) - letters(line['answer_b'])
    assert line['points_of_a'] == (gap > 0) + 0.5 * (gap == 0)
    assert line['prompt'] == [{'role': 'user', 'content': f'Say {line["question"]}.'}]
    assert [one['first'] for one in line['orders']] == ([] if line['same'] else [line['a']])
  mean = np.mean([line['points_of_a'] for line in found[:PROMPTS]])
  pairs = numbers(played)['pairs']
  assert [(Path(p['a']).name, Path(p['b']).name) for p in pairs] == [
    ('a', 'b'), ('a', 'plain'), ('b', 'plain'),
  ]  # fmt: skip
  assert pairs[0]['win_rate'] == pytest.approx(mean) and pairs[0]['n'] == PROMPTS


def test_answers_are_those_of_the_model(root, played):
  made = model.load(root / 'b')
  answers = made.generate(
    [line['prompt'] for line in lines(played)[:PROMPTS]],
    max_new=8, batch_size=2, seed=0, temperature=0.7,
  )  # fmt: skip
  assert [line['answer_b'] for line in lines(played)[:PROMPTS]] == answers


def test_a_command_that_was_killed_goes_on(root, played, tmp_path, monkeypatch):
  c = played.copy_and_resolve_references()
  c.workdir = str(tmp_path / 'w')
  for path in Path(played.workdir).rglob('*.jsonl'):
    to = tmp_path / 'w' / path.relative_to(played.workdir)
    to.parent.mkdir(parents=True, exist_ok=True)
    data = path.read_bytes()
    # Of each file the last line is cut; pairs.jsonl has not been written.
    if path.name != 'pairs.jsonl':
      to.write_bytes(data if path.name.startswith('a-') else data[:-10])
  loaded, load = [], artifact.load
  monkeypatch.setattr(
    artifact, 'load', lambda path, *a, **k: loaded.append(Path(path).name) or load(path, *a, **k)
  )
  run(c)
  assert loaded == ['b', 'plain'] and lines(c) == lines(played)
  assert numbers(c)['pairs'] == numbers(played)['pairs']
  loaded.clear()
  run(c)
  assert loaded == [] and lines(c) == lines(played)


def test_another_model_and_another_judge_use_what_is_there(root, played, tmp_path, capsys):
  c = config_of(root, tmp_path / 'w', 'a', 'b')
  c.data.max_prompts = 2
  run(c)
  c.judge = ConfigDict(dict(name=str(root / 'first.py')))
  c.artifacts, c.against = (str(root / 'plain'), *c.artifacts), str(root / 'a')
  capsys.readouterr()
  run(c)
  told = capsys.readouterr().out
  assert [(Path(p['a']).name, Path(p['b']).name) for p in numbers(c)['pairs']] == [
    ('plain', 'a'), ('b', 'a'),
  ]  # fmt: skip
  assert all(p['flip_rate'] == 1 and p['win_rate'] == 0.5 for p in numbers(c)['pairs'])
  orders = lines(c)[0]['orders']
  assert [one['first'] for one in orders] == [lines(c)[0]['a'], lines(c)[0]['b']]
  assert 'plain: 2 questions, 2 of them new' in told and '/b: ' not in told
  assert 'What was shown first won 1.000' in told and '| 1.00 | 0 |' in told


def test_a_reward_model_judges(root, played, tmp_path):
  shutil.copytree(Path(played.workdir) / 'answers', tmp_path / 'w' / 'answers')
  c = config_of(root, tmp_path / 'w', 'a', 'b', name='reward_model', path=str(root / 'reward'))
  run(c)
  made = model.load(root / 'reward')
  for line in lines(c):
    if not line['same']:
      first, second = made.score(line['prompt'], [line['answer_a'], line['answer_b']])
      assert line['points_of_a'] == float(first > second) and len(line['orders']) == 1
  assert numbers(c)['judge']['name'] == 'reward_model'
  too_long = ('x' * 999, [{'role': 'user', 'content': 'Hi'}])
  assert made.scores([(too_long[1], 'a'), too_long[::-1]])[1] is None


def test_what_is_printed(played):
  first = win_rates.Game('runs/a|b', 'y', ('first', 'second'), (30, 20))
  found = win_rates.standings([first] * 30 + [first._replace(choices=())], prior=0.5)
  shown = table(found).splitlines()
  assert shown[0].startswith('| model | against | win rate | at equal length | longer by |')
  assert (
    r'| runs/a\|b | y | **0.984 [' in shown[2] and '] | +10 | 30, 1, 0 | 31 | 0.00 |' in shown[2]
  )
  assert '1 of the ties are pairs whose answers have the same text.' in shown
  assert all(line.count('**') in (0, 2) and '[**' not in line for line in shown)
  assert 'No ratings: bradley_terry: ' in table(win_rates.standings([first] * 3))


def test_a_judge_who_never_says_anything(root, played, tmp_path):
  shutil.copytree(Path(played.workdir) / 'answers', tmp_path / 'w' / 'answers')
  (tmp_path / 'mute.py').write_text('def make():\n  return lambda pairs: [None for _ in pairs]\n')
  c = config_of(root, tmp_path / 'w', 'a', 'b', name=str(tmp_path / 'mute.py'))
  with pytest.raises(BadInput, match='could not judge any pair'):
    run(c)
  assert len(read_lines(tmp_path / 'w' / 'verdicts.jsonl', '')) == 2 * sum(
    not line['same'] for line in lines(c)
  )


@pytest.mark.parametrize(
  ('change', 'part'),
  [
    (dict(artifacts=('a',)), 'two models or more'),
    (dict(artifacts=('a', 'a')), 'two models or more'),
    (dict(artifacts=('a', 'reward')), 'is a reward model'),
    (dict(artifacts=('a', 'masked')), 'is a masked language model'),
    (dict(artifacts=('a', 'nowhere')), 'no folder'),
    (dict(judge=dict(name='reward_model', path='a')), 'has no scalar head'),
    (dict(judge=dict(name='reward_modl')), "did you mean 'reward_model'"),
    (dict(judge=dict(name='program', reward='exact')), "no 'exact'"),
    (dict(judge=dict(name='openai', model='m', api_key_env='NOT_SET')), 'is not set'),
    (dict(judge=dict(name='openai')), "'model' is missing"),
    (dict(sample=dict(max_now=3)), "unknown option 'max_now'"),
    (dict(sample=dict(template='plain')), "unknown option 'template'"),
    (dict(data=dict(sources=dict(builtin='builtin'), splt='x')), "did you mean 'split'"),
    (dict(prior=-1.0), 'prior -1.0'),
  ],
  ids=str,
)
def test_what_cannot_work_is_told_before_anything_is_loaded(
  root, tmp_path, monkeypatch, change, part
):
  monkeypatch.setattr(artifact, 'load', lambda *args, **kw: pytest.fail('loaded'))
  c = config_of(root, tmp_path / 'w', 'a', 'b')
  for name, value in change.items():
    if name == 'artifacts':
      value = tuple(str(root / one) for one in value)
    if name == 'judge' and 'path' in value:
      value = value | {'path': str(root / value['path'])}
    c[name] = ConfigDict(value) if isinstance(value, dict) else value
  with pytest.raises(BadInput) as error:
    run(c)
  assert part in str(error.value) and '\n' not in str(error.value)
  assert not (tmp_path / 'w').exists()


def test_the_command_line_changes_the_judge():
  words = ['--config.judge.name=openai', '--config.judge.model=m', '--config.prior=0.5']
  c = read_config(['x', '--config=configs/matches.py', *words])
  assert c.judge.to_dict() == {'name': 'openai', 'model': 'm'}
  assert {group for group, *_ in matches.groups(c)} >= {'judge', 'data', 'sample', 'mesh'}


# --- questions ---------------------------------------------------------------------------------


def test_sources_take_turns_and_a_prompt_comes_once(tmp_path):
  texts = ['one', 'two', 'one', 'three' * 9, 'four']
  file = tmp_path / 'mine.jsonl'
  file.write_text(
    '\n'.join(json.dumps({'prompt': text, 'answer': '1', 'level': 2}) for text in texts)
  )
  both = dict(sources=dict(mine=str(file), ours='builtin:word_problems'))
  found = asked.read(**both, max_prompts=6, max_chars=200)
  texts = [one['prompt'][0]['content'] for one in found]
  assert len(texts) == len({*texts}) == 6 and {'one', 'two'} <= {*texts[:4]}
  assert found[0]['level'] == 2 and found[0]['answer'] == '1'
  alone = asked.read(sources=dict(mine=str(file)), max_chars=9)
  assert [one['prompt'][0]['content'] for one in alone] == ['one', 'two', 'four']
  with pytest.raises(BadInput, match='no prompts are left'):
    asked.read(sources=dict(mine=str(file)), max_chars=1)

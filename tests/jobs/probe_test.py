"""Job probe: verdicts and rows, the same bytes after a kill, and no verdicts of another model."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from configs import probe
from llm_jax import artifact
from llm_jax.data import conversations, formats, preferences, refusals
from llm_jax.evals import probes
from llm_jax.jobs import evaluations, report_page, stage_facts
from llm_jax.jobs.page import Table
from llm_jax.jobs.probe import FILES, _searches
from llm_jax.main import run
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

SHAPE = dict(
  name='transformer', vocab_size=300, dim=16, num_layers=1, num_heads=2, max_length=96,
)  # fmt: skip


def save(path, seed):
  tokenizer = Tokenizer.train(['user assistant What is one? It is.'] * 20, vocab_size=290)
  model = artifact.build(SHAPE)
  params = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))
  made = artifact.Artifact(
    model, params, tokenizer, {'model': SHAPE, 'data': {'template': 'llm_jax'}}
  )
  artifact.save(path, made)
  return tokenizer


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with questions and an untrained model, `base`."""
  root = tmp_path_factory.mktemp('probe')
  lines = [
    {'question': f'What is {i}?', 'answer': f'It is {i}.', 'name': f'x{i}'} for i in range(24)
  ]
  (root / 'mine.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  save(root / 'base', 0)
  return root


def config_of(root, workdir):
  c = probe.get_config()
  c.workdir, c.artifact = str(root / workdir), str(root / 'base')
  c.sources.mine = str(root / 'mine.jsonl')
  c.max_new, c.batch_size, c.mesh.fsdp = 8, 8, 1
  return c


@pytest.fixture(scope='module')
def whole(root):
  run(config_of(root, 'whole'))
  return root / 'whole'


def test_every_question_has_its_answers_and_a_verdict_of_this_model(whole):
  found = refusals.read(whole / 'probe.jsonl')
  assert len(found) == 24 and {len(one['samples']) for one in found} == {4}
  summary = json.loads((whole / 'summary.json').read_text())
  assert {one['artifact'] for one in found} == {summary['artifact']}
  assert sum(summary['verdicts']['given'].values()) == summary['questions'] == 24
  assert not summary['rows']['searches.jsonl']  # no tool looks into what users ask about
  assert all(one['logp'] < 0 for one in found)


def test_sft_and_preferences_read_its_files(root, whole):
  tokenizer = Tokenizer.load(root / 'base' / 'tokenizer')
  how = dict(validation_fraction=0.0, length=96)
  rows = conversations.make(tokenizer, sources={'m': str(whole / 'refusals.jsonl')}, **how)
  pairs = preferences.make(tokenizer, sources={'m': str(whole / 'preferences.jsonl')}, **how)
  assert len(rows) and len(pairs)


def test_it_can_be_shown_pages_that_nobody_has_written(root):
  of = lambda count: _searches(
    [],
    SimpleNamespace(
      artifact=str(root / 'base'), search={'sentences': 1}, made_up=count, by_heart=0.5
    ),
  )
  last = [formats.conversation(row)[-1]['content'] for row in of(30)]
  looked_up = [said for said in last if not isinstance(said, str)]  # the others are small talk
  assert of(0) == [] and len(looked_up) == 30 < len(last) < 35
  for said in looked_up:
    assert [part['type'] for part in said] == ['search', 'result', 'text']


def test_a_killed_probe_goes_on_and_leaves_the_same_bytes(root, whole, monkeypatch):
  asked = []

  def dies(make):
    def asker(*args, **kwargs):
      ask = make(*args, **kwargs)

      def some(*args):
        for i, answer in enumerate(ask(*args)):
          if i == 11 and not asked:
            asked.append(i)
            raise KeyboardInterrupt
          yield answer

      return some

    return asker

  monkeypatch.setattr(probes, 'asker', dies(probes.asker))
  with pytest.raises(KeyboardInterrupt):
    run(config_of(root, 'killed'))
  assert asked and not (root / 'killed' / 'summary.json').exists()
  run(config_of(root, 'killed'))
  for name in FILES:
    assert (root / 'killed' / name).read_bytes() == (whole / name).read_bytes()


def test_a_folder_with_verdicts_of_another_model_is_refused_in_one_line(root, whole, capsys):
  run(config_of(root, 'whole'))
  assert 'finished' in capsys.readouterr().out
  c = config_of(root, 'whole')
  (root / 'base').rename(root / 'old')
  save(root / 'base', 1)
  with pytest.raises(BadInput, match='verdicts of another artifact') as error:
    run(c)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(artifact='nowhere'), 'nowhere'),
    (dict(samples=1), 'samples'),
    (dict(classes=('taut',)), 'taught'),
    (dict(splits=('tset',)), 'test'),
  ],
)
def test_what_cannot_be_asked_is_refused(root, changes, message):
  c = config_of(root, 'refused')
  c.update(changes)
  with pytest.raises(BadInput, match=message):
    run(c)
  assert not (root / 'refused').exists()


def test_a_report_shows_what_every_stage_said_to_a_few_questions_of_each_class():
  questions = [
    {'class': kind, 'outcome': 'wrong', 'prompt': [{'role': 'user', 'content': f'{kind} {i}?'}]}
    for kind in ('read', 'invented')
    for i in range(5)
  ]
  said = stage_facts.by_class(
    [({'prompt': 'no class'}, '-'), *((one, 'It is.') for one in questions)]
  )
  blocks = report_page._by_class(
    {'sft': {'by_class': said}, 'clean': {}, 'ppo': {'by_class': said}}
  )
  tables = [block for block in blocks if isinstance(block, Table)]
  assert [len(table.rows) for table in tables] == [stage_facts.OF_CLASS] * 2
  assert tables[0].rows[0] == ['read 0?', 'wrong: It is.', 'wrong: It is.']
  assert report_page._by_class({'sft': {}}) == []


def test_a_report_waits_for_the_verdicts_of_a_probe_that_has_not_run(whole):
  groups = {'k': {'name': 'knowledge', 'known': str(whole / 'probe.jsonl')}}
  assert evaluations.possible(groups, 'llm_jax', marks=()) == groups
  groups['k']['known'] = str(whole.parent / 'nowhere' / 'probe.jsonl')
  assert evaluations.possible(groups, 'llm_jax', marks=()) == {'k': {'name': 'knowledge'}}

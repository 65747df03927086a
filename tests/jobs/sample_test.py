"""Best of n into a file: scored, kept whole when killed, read by the next stage as it is."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import best_of_n
from llm_jax import artifact
from llm_jax.data import conversations, preferences
from llm_jax.main import run
from llm_jax.text import chat
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

SHAPE = dict(
  name='transformer', vocab_size=300, dim=16, num_layers=1, num_heads=2, max_length=96,
)  # fmt: skip
WORDS = ['one', 'two', 'three', 'four', 'five', 'six']


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A folder with prompts and an untrained chat model, `base`."""
  root = tmp_path_factory.mktemp('best')
  lines = [{'prompt': f'{a} and {b}', 'answer': a} for a in WORDS for b in WORDS[:3]]
  (root / 'prompts.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  tokenizer = Tokenizer.train(['user assistant', *(f'{a} and' for a in WORDS)] * 20, vocab_size=290)
  model = artifact.build(SHAPE)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  config = {'model': SHAPE, 'data': {'template': 'llm_jax'}}
  artifact.save(root / 'base', artifact.Artifact(model, params, tokenizer, config))
  return root


def config_of(root, workdir):
  c = best_of_n.get_config()
  c.workdir, c.artifact = str(root / workdir), str(root / 'base')
  c.data.sources = ConfigDict({'mine': str(root / 'prompts.jsonl')})
  c.data.length, c.data.validation_fraction, c.split = 64, 0.0, 'train'
  c.annotate.sample.update(group=3, max_new=8)
  c.annotate.verify.rewards = ('word_overlap', 'length')
  c.annotate.verify.options = ConfigDict(dict(length=dict(limit=1, buffer=60, unit='characters')))
  c.batch_size, c.mesh.fsdp = 4, 1
  return c


def lines_of(folder):
  return [json.loads(line) for line in (folder / 'answers.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def whole(root):
  run(config_of(root, 'whole'))
  return root / 'whole'


def test_every_prompt_has_all_its_answers_and_the_best_is_chosen(whole):
  found = lines_of(whole)
  assert [record['index'] for record in found] == list(range(18))
  for record in found:
    assert len(record['candidates']) == len(record['scores']) == 3
    best, worst = np.argmax(record['scores']), np.argmin(record['scores'])
    said = lambda name, record=record: record[name][0]['content']
    assert said('chosen') == said('completion') == record['candidates'][best]
    assert said('rejected') == record['candidates'][worst]
  summary = json.loads((whole / 'summary.json').read_text())
  scores = np.array([record['scores'] for record in found])
  assert summary['single'] == pytest.approx(scores.mean(), abs=1e-4)
  assert summary['best'] == pytest.approx(scores.max(1).mean(), abs=1e-4)
  assert summary['best'] > summary['single']
  assert 0 < summary['kl'] <= summary['kl_bound'] == pytest.approx(np.log(3) - 2 / 3, abs=1e-4)


def test_the_file_is_data_for_sft_and_for_preferences(root, whole):
  tokenizer = Tokenizer.load(root / 'base' / 'tokenizer')
  options = dict(sources={'best': str(whole / 'answers.jsonl')}, validation_fraction=0.0, length=96)
  assert len(conversations.make(tokenizer, **options, pack=False)) > 0
  pairs = preferences.make(tokenizer, **options)
  assert 0 < len(pairs) <= 18


@pytest.mark.parametrize('template', ['llm_jax', 'chatml', 'plain'])
def test_sft_reads_the_same_ids_with_their_thoughts_and_calls(root, tmp_path, template):
  from llm_jax.jobs import sample

  tokenizer = Tokenizer.load(root / 'base' / 'tokenizer')
  mark, say = tokenizer.special, tokenizer.encode
  stop = chat.stop_ids(tokenizer, template)[0]
  said = say('one')
  if template == 'llm_jax':
    said = [
      mark('<THINK_START>'),
      *say('two?'),
      mark('<THINK_END>'),
      *say('one '),
      mark('<SEARCH_START>'),
    ]
    said += [
      *say('1'),
      mark('<SEARCH_END>'),
      mark('<RESULT_START>'),
      *say('2'),
      mark('<RESULT_END>'),
    ]
    said += say(' and')
  if template == 'chatml':
    said = say(
      '<think>\ntwo?\n</think>\n\none\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    )
  ids, mask = [5, 5, *said, stop, 0], [0, 0, *[1] * len(said), 1, 0]
  if template == 'llm_jax':
    mask[mask.index(1) + said.index(mark('<RESULT_START>')) + 1] = 0  # what a tool said
  batch = {
    'tokens': np.array([[ids, ids]], np.int32),
    'mask': np.array([[mask, mask]], np.float32),
    'reward': np.array([[1.0, 0.0]]),
    'valid': np.ones((1, 2)),
  }
  asked = [{'role': 'user', 'content': 'six'}]
  (tmp_path / 'parts').mkdir()
  found = sample._records(batch, [asked], [0], tokenizer, template)
  sample.write_lines(tmp_path / 'parts' / '0.jsonl', found)
  sample._gather(tmp_path, None)
  rows = conversations.make(
    tokenizer, sources={'best': str(tmp_path / 'answers.jsonl')}, validation_fraction=0.0,
    length=160, pack=False, template=template,
  )  # fmt: skip
  prompt, _ = chat.encode(tokenizer, chat.pieces(asked, template=template, answer=True))
  ids = rows[0]['tokens'].tolist()
  assert ids[: len(prompt) + len(said) + 1] == [*prompt, *said, stop]


def test_a_killed_run_goes_on_and_ends_with_the_same_file(root, whole, monkeypatch, capsys):
  c = config_of(root, 'killed')
  from llm_jax.jobs import sample

  write, count = sample.write_lines, []

  def dies(path, records):
    count.append(path)
    if len(count) == 3:
      raise KeyboardInterrupt
    write(path, records)

  monkeypatch.setattr(sample, 'write_lines', dies)
  with pytest.raises(KeyboardInterrupt):
    run(c)
  assert len(list((root / 'killed' / 'parts').iterdir())) == 2
  monkeypatch.setattr(sample, 'write_lines', write)
  run(c)
  same = [(root / name / 'answers.jsonl').read_bytes() for name in ('whole', 'killed')]
  assert same[0] == same[1]
  capsys.readouterr()
  run(c)
  assert 'is finished' in capsys.readouterr().out
  c.seed = 1
  with pytest.raises(BadInput, match='holds another run, which has seed = 0, not 1'):
    run(c)


def test_what_is_not_good_enough_is_left_out_and_counted(root):
  c = config_of(root, 'minimum')
  c.max_prompts, c.minimum = 4, 1e9
  run(c)
  assert lines_of(root / 'minimum') == []
  summary = json.loads((root / 'minimum' / 'summary.json').read_text())
  assert (summary['prompts'], summary['below_minimum'], summary['written']) == (4, 4, 0)


@pytest.mark.parametrize(
  'change, message',
  [
    (
      lambda c: c.annotate.update(steps=('verify',)),
      'annotate.verify reads `tokens`, which nothing before it writes; sample does',
    ),
    (
      lambda c: c.annotate.update(steps=('sample',)),
      'best of n reads `reward`, which nothing before it writes; reward_model and verify do',
    ),
    (lambda c: c.annotate.sample.update(group=1), 'set group to at least 2'),
    (lambda c: c.update(artifact='runs/nowhere'), "no folder 'runs/nowhere'"),
  ],
)
def test_what_cannot_be_sampled(root, change, message):
  c = config_of(root, 'never')
  change(c)
  with pytest.raises(BadInput, match=message):
    run(c)
  assert not (root / 'never').exists()

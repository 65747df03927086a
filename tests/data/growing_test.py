"""Training reads rows while they are made: in one order, each once a pass, and waits for more."""

import json
import random
import shutil
import threading
import time

import jax
import numpy as np
import pytest

from llm_jax.data import growing
from llm_jax.files import read_json, write_json
from llm_jax.jobs.chain import CheckedRows
from llm_jax.jobs.tokenize import tokenize
from llm_jax.main import run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text import folder as tokenizers
from llm_jax.training.batches import make_read
from llm_jax.types import BadInput
from tests.jobs.train_test import WORDS, tiny, write_text

SETTINGS = dict(tokenizer=dict(vocab_size=290), length=16, shard_documents=12)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(growing, 'SECONDS', 0.02)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A finished folder, of 13 shards of train and some held out."""
  folder = tmp_path_factory.mktemp('whole')
  draw = random.Random(0)
  texts = [' '.join(draw.choices(WORDS, k=draw.randrange(3, 30))) for _ in range(175)]
  path = folder / 'text.jsonl'
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
  tokenize(
    workdir=str(folder / 'tokens'), sources={'text': str(path)}, validation_fraction=0.1, **SETTINGS
  )
  return folder / 'tokens'


def make(folder, split='train', **options):
  words = tokenizers.load(folder / 'tokenizer')
  found = growing.make(words, path=str(folder), split=split, **options)
  return CheckedRows(found, words.vocab_size)  # as a training run has it


def begun(whole, tmp_path):
  """The folder as it was when tokenizing began, and what was written there since, in its order."""
  folder = tmp_path / 'tokens'
  shutil.copytree(whole, folder, ignore=shutil.ignore_patterns('shard-*.json', 'tokenize.json'))
  later = sorted(whole.glob('*/*/shard-*.json'), key=lambda path: path.stat().st_mtime_ns)
  return folder, [*later, whole / 'tokenize.json']


def write(whole, folder, paths, seconds=0.0):
  for path in paths:
    time.sleep(seconds)
    shutil.copy(path, folder / path.relative_to(whole))


def read(rows, batches, seed=0, size=4):
  """The tokens of so many batches."""
  mesh = make_mesh(fsdp=1)
  with jax.set_mesh(mesh):
    at = make_read(rows, mesh, batch_size=size, seed=seed)
    return np.concatenate([np.asarray(at(step)['tokens']) for step in range(batches)])


def sets(tokens):
  return sorted(map(tuple, tokens.tolist()))


def test_the_order_is_the_same_however_fast_shards_come(whole, tmp_path, capsys):
  done = make(whole)
  done.group(10**9)
  count = len(done)
  assert count > 100
  batches = 2 * count // 4
  wanted = read(make(whole), batches)
  for number, seconds in enumerate((0.0, 0.01)):
    folder, later = begun(whole, tmp_path / str(number))
    thread = threading.Thread(target=write, args=(whole, folder, later, seconds))
    thread.start()
    np.testing.assert_array_equal(read(make(folder), batches), wanted)
    thread.join()
  assert 'waiting for shard' in capsys.readouterr().out
  # Each row once a pass, in orders that differ with the pass and the seed.
  every = [done[i]['tokens'] for i in range(count)]
  assert sets(wanted[:count]) == sets(np.stack(every))
  assert (wanted[count : 2 * count - 8] != wanted[: count - 8]).any()
  assert (read(make(whole), 20, seed=1) != wanted[:80]).any()
  assert (wanted[:count] != np.stack(every)).any()


def test_a_group_is_read_before_the_next_one_is_there(whole, tmp_path):
  folder, later = begun(whole, tmp_path)
  write(whole, folder, [path for path in later if path.name == 'shard-00000.json'])
  rows = make(folder)
  shard = np.load(whole / 'text' / 'train' / 'tokens-00000.npy')
  assert rows.group(0) == (0, len(shard), 0) and len(rows) == len(shard)
  assert {*sets(read(rows, len(shard) // 4))} <= {*sets(shard)}
  held_out = make(folder, 'validation')
  there = len(np.load(whole / 'text' / 'validation' / 'tokens-00000.npy'))
  assert len(held_out) == there
  write(whole, folder, later)
  held_out.group(10**6)
  assert len(held_out) == there  # so that evaluations can be compared


@pytest.mark.parametrize('finished', [True, False])
def test_rows_of_a_damaged_shard_are_missed(whole, tmp_path, finished, monkeypatch):
  folder, later = begun(whole, tmp_path)
  write(whole, folder, later if finished else later[:-1])
  (folder / 'text' / 'train' / 'shard-00002.json').write_text('{')
  rows = make(folder)
  if finished:  # how many there have to be is known
    with pytest.raises(BadInput, match=r'shard-00002\.json'):
      read(rows, 100)
  else:
    monkeypatch.setattr(growing.storage, 'refresh', lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # instead of waiting
      read(rows, 100)


def test_what_does_not_fit_is_refused(whole, tmp_path):
  with pytest.raises(BadInput, match='no tokenize job has a tokenizer there yet; start one'):
    growing.make(tokenizers.load(whole / 'tokenizer'), path=str(tmp_path))
  with pytest.raises(BadInput, match=r'data\.length 17: the rows of .* have 16 tokens'):
    make(whole, length=17)
  with pytest.raises(BadInput, match=r'data\.repeats 0\.1: not while rows are made'):
    make(whole, repeats=0.1)
  with pytest.raises(BadInput, match="choose 'train' or 'validation'"):
    make(whole, 'test')
  other = tokenizers.load(whole / 'tokenizer').with_specials(['<|mine|>'])
  with pytest.raises(BadInput, match='made by tokenizer'):
    growing.make(other, path=str(whole))
  for change, message in (
    (dict(sources={'a': 'x', 'b': 'y'}), 'sources a, b are tokenized one after the other'),
    (dict(validation_fraction=0), 'validation_fraction is 0, so nothing is held out'),
    (dict(sources=None), 'no tokenize job has a tokenizer there yet'),
  ):
    folder = tmp_path / str(message)[:9]
    shutil.copytree(whole, folder)
    config = read_json(folder / 'config.json', '')
    config = {k: v for k, v in (config | change).items() if v is not None}
    write_json(folder / 'config.json', config)
    with pytest.raises(BadInput, match=message):
      make(folder, 'validation')


def test_training_beside_tokenizing_is_training_after_it(tmp_path, monkeypatch):
  text = write_text(tmp_path / 'text.jsonl')
  config = lambda name: tiny(tmp_path / name, text)
  parts = {}
  for name in ('after', 'beside'):
    c = config(name)
    c.tokenize.shard_documents = SETTINGS['shard_documents']
    words = {k: v for k, v in c.tokenize.to_dict().items() if k not in ('job', 'requires')}
    c.data.name, c.data.repeats, c.total_steps = 'growing', 0.0, 12
    if name == 'after':
      tokenize(**words)
    else:
      tokenize(**words | {'shard': '1/2'})
      other = threading.Thread(target=tokenize, kwargs=words | {'shard': '2/2'})
      waits = lambda text, other=other: other.ident or other.start()  # made when waited for
      monkeypatch.setattr(growing, 'say', waits)
    c.tokenize.length = 32
    with pytest.raises(BadInput, match='holds another run, which has length = 16, not 32'):
      run(c)
    c.tokenize.length = 16
    run(c)
    parts[name] = sorted(
      line for line in (tmp_path / name / 'run' / 'metrics.jsonl').read_text().splitlines()
      if '"validation/loss"' in line
    )  # fmt: skip
  assert other.ident
  other.join()
  losses = [[json.loads(line)['validation/loss'] for line in found] for found in parts.values()]
  assert losses[0] == losses[1] and len(losses[0]) == 6

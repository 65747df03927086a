"""Rows of pretraining: real ones, the same for the same step, apart where several are joined."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from llm_jax.annotate import pretraining_rows
from llm_jax.data import packed
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.types import BadInput

TOKENIZER = SimpleNamespace(fingerprint='of this tokenizer', vocab_size=1000)
MODEL = SimpleNamespace(shape=SimpleNamespace(max_length=8))
ROWS, LENGTH = 9, 8
SEGMENTS = np.array([[1, 1, 1, 2, 3, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 2, 0, 0, 0]])


@pytest.fixture
def folder(tmp_path):
  """A corpus of nine rows, whose tokens say which row they are of."""
  tokens_RL = 10 * np.arange(1, ROWS + 1)[:, None] + np.arange(LENGTH)
  segment_RL = np.tile(SEGMENTS, (ROWS // 3, 1))
  packed.write_shard(
    tmp_path / 'a' / 'train',
    0,
    np.where(segment_RL > 0, tokens_RL, 0).astype(np.uint16),
    segment_RL.astype(np.uint16),
    {'rows': ROWS},
  )
  about = {'train': {'rows': ROWS, 'shard_rows': [ROWS]}}
  made = {'fingerprint': TOKENIZER.fingerprint, 'length': LENGTH, 'sources': {'a': about}}
  (tmp_path / 'tokenize.json').write_text(json.dumps(made))
  return str(tmp_path)


def run(folder, *, rows=1, step=0, data=1, batch=4):
  mesh = make_mesh(data=data)
  annotate = pretraining_rows.make(MODEL, TOKENIZER, mesh=mesh, path=folder, rows=rows)
  given = shard_batch({'tokens': np.zeros((batch, 2, 5), np.int32)}, mesh)
  out = annotate({}, given, jax.random.fold_in(jax.random.key(0), step))
  assert out['tokens'] is given['tokens']
  return {k: np.asarray(v) for k, v in out.items() if k.startswith('ptx_')}


def row_of(source, tokens_L):
  """The row of the corpus that these tokens are."""
  return source[int(tokens_L[0]) // 10 - 1]


def test_every_row_is_one_of_the_corpus_with_all_its_fields(folder):
  source, out = packed.make(TOKENIZER, path=folder), run(folder)
  assert {*out} == {'ptx_tokens', 'ptx_mask', 'ptx_position', 'ptx_segment'}
  for i in range(4):
    row = row_of(source, out['ptx_tokens'][i])
    for name, wanted in row.items():
      np.testing.assert_array_equal(out[f'ptx_{name}'][i], wanted)
      assert out[f'ptx_{name}'].dtype == wanted.dtype


def test_joined_rows_stay_apart(folder):
  source, out = packed.make(TOKENIZER, path=folder), run(folder, rows=3, batch=8)
  assert out['ptx_tokens'].shape == (8, 3 * LENGTH)
  for i in range(8):
    parts = [row_of(source, part) for part in out['ptx_tokens'][i].reshape(3, LENGTH)]
    for name in ('tokens', 'mask', 'position'):
      np.testing.assert_array_equal(out[f'ptx_{name}'][i], np.concatenate([p[name] for p in parts]))
    before = 0
    for part, segment_L in zip(parts, out['ptx_segment'][i].reshape(3, LENGTH), strict=True):
      np.testing.assert_array_equal(segment_L > 0, part['segment'] > 0)
      numbers = segment_L[segment_L > 0]
      np.testing.assert_array_equal(numbers - before, part['segment'][part['segment'] > 0])
      before = numbers.max()


def test_rows_follow_the_step_alone(folder):
  first, again, spread, later = (
    run(folder, batch=8, **how)['ptx_tokens'] for how in ({}, {}, {'data': 4}, {'step': 1})
  )
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(first, spread)
  assert (first != later).any()
  found = [run(folder, batch=8, step=step)['ptx_tokens'][:, 0] for step in range(12)]
  assert {*np.concatenate(found).tolist()} == {10 * i for i in range(1, ROWS + 1)}


def test_hosts_share_the_rows(folder, monkeypatch):
  whole = run(folder, batch=8)['ptx_tokens']
  monkeypatch.setattr(pretraining_rows, 'shard_batch', lambda batch, mesh: batch)
  mesh, given = make_mesh(data=1), {'tokens': np.zeros((8, 2, 5), np.int32)}
  key, parts = jax.random.fold_in(jax.random.key(0), 0), []
  annotate = pretraining_rows.make(MODEL, TOKENIZER, mesh=mesh, path=folder)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for host in (0, 1):
    monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
    parts.append(annotate({}, given, key)['ptx_tokens'])
  np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_bad_input(folder, tmp_path):
  make = lambda model=MODEL, path=folder, **options: pretraining_rows.make(
    model, TOKENIZER, mesh=None, path=path, **options
  )
  with pytest.raises(BadInput, match='rows 0; choose a whole number from 1'):
    make(rows=0)
  with pytest.raises(BadInput, match=r'8 tokens are longer than config\.model\.max_length 7'):
    make(SimpleNamespace(shape=SimpleNamespace(max_length=7)))
  with pytest.raises(BadInput, match='no finished tokenized data'):
    make(path=str(tmp_path / 'none'))

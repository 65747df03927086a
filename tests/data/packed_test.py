"""Packing keeps every token once and in order; what is written is what is read."""

import json
import pickle
import random

import numpy as np
import pytest

from llm_jax.data import packed
from llm_jax.files import replacing
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput


def documents(n=200, longest=60, seed=0):
  draw = np.random.default_rng(seed)
  lengths_D = draw.integers(1, longest, n)
  return np.arange(1, lengths_D.sum() + 1).astype(np.uint16), lengths_D


def segments(tokens_RL, segment_RL):
  """The token list of every segment, row by row."""
  return [
    tokens_L[segment_L == s].tolist()
    for tokens_L, segment_L in zip(tokens_RL, segment_RL, strict=True)
    for s in range(1, segment_L.max() + 1)
  ]


@pytest.mark.parametrize('name', ['best_fit', 'split'])
@pytest.mark.parametrize('length', [7, 32, 1000, 30_000])
def test_every_token_lands_once_in_its_own_document(name, length):
  tokens_T, lengths_D = documents()
  pieces = packed.PACKINGS[name](lengths_D, length)
  tokens_RL, segment_RL = packed.fill(tokens_T, lengths_D, pieces, length)
  found = segments(tokens_RL, segment_RL)
  assert sorted(t for s in found for t in s) == tokens_T.tolist()
  assert not tokens_RL[segment_RL == 0].any()
  document_of = np.repeat(np.arange(len(lengths_D)), lengths_D)
  for s in found:
    assert s == list(range(s[0], s[-1] + 1))  # consecutive ...
    assert len(set(document_of[np.array(s) - 1])) == 1  # ... and of one document
  assert (np.diff(segment_RL.astype(int), axis=1)[segment_RL[:, 1:] > 0] >= 0).all()


def test_best_fit_keeps_documents_whole_where_they_fit():
  tokens_T, lengths_D = documents()
  pieces = packed.best_fit(lengths_D, 32)
  count_D = np.bincount(pieces.document)
  assert (count_D == -(-lengths_D // 32)).all()
  used = np.bincount(pieces.row, weights=pieces.size)
  assert used.max() <= 32
  assert used.sum() / (32 * len(used)) > 0.95


def test_best_fit_takes_the_fullest_row_with_room():
  # 6 -> row A (2 free), 5 -> row B (3 free), 2 fits both and completes A, 3 completes B.
  pieces = packed.best_fit(np.array([6, 2, 5, 3]), 8)
  assert pieces.document.tolist() == [0, 1, 2, 3]
  assert pieces.row.tolist() == [0, 0, 1, 1]


def test_best_fit_rows_follow_the_documents():
  pieces = packed.best_fit(np.array([3, 9, 4, 10, 1]), 10)
  assert pieces.row.tolist() == sorted(pieces.row.tolist())
  firsts = [pieces.document[pieces.row == r][0] for r in range(pieces.row[-1] + 1)]
  assert firsts == sorted(firsts)


def test_split_pads_only_the_last_row():
  tokens_T, lengths_D = documents()
  tokens_RL, segment_RL = packed.fill(tokens_T, lengths_D, packed.split(lengths_D, 32), 32, pad=9)
  assert tokens_RL.reshape(-1)[: len(tokens_T)].tolist() == tokens_T.tolist()
  assert (segment_RL.reshape(-1) > 0).sum() == len(tokens_T)
  assert (tokens_RL.reshape(-1)[len(tokens_T) :] == 9).all()


@pytest.mark.parametrize('name', ['best_fit', 'split'])
def test_no_documents_make_no_rows(name):
  nothing = np.zeros(0, np.int64)
  pieces = packed.PACKINGS[name](nothing, 8)
  tokens_RL, segment_RL = packed.fill(nothing.astype(np.uint16), nothing, pieces, 8)
  assert tokens_RL.shape == segment_RL.shape == (0, 8)


def test_token_dtype():
  assert packed.token_dtype(65536) is np.uint16
  assert packed.token_dtype(65537) is np.uint32


def test_a_broken_write_leaves_nothing(tmp_path):
  with pytest.raises(RuntimeError), replacing(tmp_path / 'x') as file:
    file.write(b'half')
    raise RuntimeError
  assert not (tmp_path / 'x').exists()


@pytest.fixture(scope='module')
def tokenizer():
  draw = random.Random(0)
  words = ['the', 'cat', 'sat', 'on', 'a', 'mat', 'and', '12', 'dogs', 'ran', 'home']
  return Tokenizer.train([' '.join(draw.choices(words, k=9)) for _ in range(200)], vocab_size=300)


@pytest.fixture
def folder(tmp_path, tokenizer):
  """Two sources, `a` with two shards; only `a` has validation rows. Rows of 8 tokens."""
  made = {'fingerprint': tokenizer.fingerprint, 'length': 8, 'sources': {}}
  for name, shards in (('a', {'train': [5, 3], 'validation': [2]}), ('b', {'train': [4]})):
    made['sources'][name] = {
      split: {'rows': sum(shards.get(split, [])), 'shard_rows': shards.get(split, [])}
      for split in ('train', 'validation')
    }
    for split, counts in shards.items():
      for shard, rows in enumerate(counts):
        tokens_RL = np.full((rows, 8), 100 * (name == 'b') + 10 * shard, np.uint16)
        tokens_RL += np.arange(rows, dtype=np.uint16)[:, None]
        segment_RL = np.tile(np.array([1, 1, 1, 2, 3, 3, 0, 0], np.uint16), (rows, 1))
        counted = {'rows': rows}
        packed.write_shard(tmp_path / name / split, shard, tokens_RL, segment_RL, counted)
  (tmp_path / 'tokenize.json').write_text(json.dumps(made))
  return tmp_path


def test_fields_of_a_row(folder, tokenizer):
  row = packed.make(tokenizer, path=str(folder), length=8)[0]
  assert row['segment'].tolist() == [1, 1, 1, 2, 3, 3, 0, 0]
  assert row['position'].tolist() == [0, 1, 2, 0, 0, 1, 0, 0]
  assert row['mask'].tolist() == [0, 1, 1, 0, 0, 1, 0, 0]
  assert {name: value.dtype.name for name, value in row.items()} == {
    'tokens': 'int32',
    'segment': 'int32',
    'position': 'int32',
    'mask': 'float32',
  }


def test_every_row_of_every_source_comes_once(folder, tokenizer):
  rows = packed.make(tokenizer, path=str(folder))
  firsts = sorted(int(row['tokens'][0]) for row in rows)
  assert firsts == [0, 1, 2, 3, 4, 10, 11, 12, 100, 101, 102, 103]


def test_weights_choose_sources(folder, tokenizer):
  rows = packed.make(tokenizer, path=str(folder), weights={'a': 0, 'b': 1})
  assert [int(row['tokens'][0]) for row in rows] == [100, 101, 102, 103]
  rows = packed.make(tokenizer, path=str(folder), split='validation', weights={'a': 1, 'b': 1})
  assert len(rows) == 2
  with pytest.raises(BadInput, match="no source 'aa'; did you mean 'a'"):
    packed.make(tokenizer, path=str(folder), weights={'aa': 1, 'b': 1})


@pytest.mark.parametrize('share', [0.05, 0.5])
def test_a_share_of_the_rows_repeats(folder, tokenizer, share):
  plain = packed.make(tokenizer, path=folder)
  rows = packed.make(tokenizer, path=folder, repeats=share)
  places = [rows.locate(i) for i in range(len(rows))]
  count = sum(source == 'repeats' for source, _ in places)
  assert len(rows) - count == len(plain)  # all of the text comes, once
  assert abs(count - share * len(rows)) <= 1
  drills = [rows[i] for i, (source, _) in enumerate(places) if source == 'repeats']
  for row in drills:
    assert {name: array.dtype for name, array in row.items()} == {
      name: array.dtype for name, array in plain[0].items()
    }
    period = int(row['mask'].argmax())
    assert period == 4 and row['mask'][period:].all()  # rows have 8 tokens
    np.testing.assert_array_equal(row['tokens'][period:], row['tokens'][:-period])
    assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} & {*row['tokens'].tolist()}
  assert len({row['tokens'].tobytes() for row in drills}) == len(drills)
  again = packed.make(tokenizer, path=folder, repeats=share)
  assert [*map(str, drills)] == [
    str(again[i]) for i, (source, _) in enumerate(places) if source == 'repeats'
  ]
  held_out = packed.make(tokenizer, path=folder, split='validation', repeats=share)
  assert 'repeats' not in {held_out.locate(i)[0] for i in range(len(held_out))}


def test_rows_are_read_only_maps_with_a_stable_repr(folder, tokenizer):
  rows = packed.make(tokenizer, path=str(folder))
  assert repr(rows) == repr(packed.make(tokenizer, path=str(folder)))
  one = packed.MappedRows(folder / 'a' / 'train', [5, 3], 8, 300)
  one[0]
  assert isinstance(one._maps(0)[0], np.memmap)
  again = pickle.loads(pickle.dumps(one))
  assert [r['tokens'][0] for r in again] == [r['tokens'][0] for r in one]


@pytest.mark.parametrize('with_sums', [True, False])
def test_a_damaged_byte_is_refused_or_changes_nothing(folder, tokenizer, with_sums):
  """Without checksums, as folders of before are, only ids that no tokenizer has are seen."""
  everything = lambda: [
    {k: v.tolist() for k, v in row.items()}
    for split in ('train', 'validation')
    for row in packed.make(tokenizer, path=str(folder), split=split)
  ]
  wanted = everything()
  if not with_sums:
    for path in folder.rglob('shard-*.json'):
      path.write_text(json.dumps({'rows': json.loads(path.read_text())['rows']}))
    assert everything() == wanted
  draw, refused = random.Random(0), 0
  files = [path for path in folder.rglob('*') if path.is_file() and path.name != 'tokenize.json']
  for _ in range(300):
    path = draw.choice(files)
    before = path.read_bytes()
    data = bytearray(before)
    data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
    path.write_bytes(data)
    try:
      found = everything()
      assert found == wanted or not with_sums
      assert max(max(row['tokens']) for row in found) < tokenizer.vocab_size
    except BadInput as error:
      assert str(path.parent) in str(error) and '\n' not in str(error)
      refused += 1
    path.write_bytes(before)
  assert refused > (200 if with_sums else 50)


def test_bad_folders(folder, tokenizer, tmp_path):
  path = str(folder)
  with pytest.raises(BadInput, match=r'--config=configs/tokenize\.py .* makes'):
    packed.make(tokenizer, path=str(tmp_path / 'none'))
  with pytest.raises(BadInput, match='have 8 tokens'):
    packed.make(tokenizer, path=path, length=16)
  with pytest.raises(BadInput, match="did you mean 'train'"):
    packed.make(tokenizer, path=path, split='trian')
  other = Tokenizer.train(['some other text ' * 20], vocab_size=285)
  with pytest.raises(BadInput, match='made by tokenizer'):
    packed.make(other, path=path)
  (folder / 'a' / 'train' / 'tokens-00001.npy').unlink()
  with pytest.raises(BadInput, match=r'tokens-00001\.npy is missing'):
    list(packed.make(tokenizer, path=path))
  made = json.loads((folder / 'tokenize.json').read_text())
  made['sources']['a']['validation']['rows'] = 0
  (folder / 'tokenize.json').write_text(json.dumps(made))
  with pytest.raises(BadInput, match="no rows in 'validation'"):
    packed.make(tokenizer, path=path, split='validation')

"""Documents packed into rows of one length, stored in shards and read back.

Letters beside those of `llm_jax.types`: T tokens, D documents, P pieces of documents, R rows.
A document that does not fit becomes several pieces, and each piece is a segment of its own.
"""

import functools
import operator
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from llm_jax.data.mixture import Mixture
from llm_jax.data.repeats import mixed
from llm_jax.files import difference, inside, read_json, replacing, write_json
from llm_jax.options import MinP, NotNegative, Place, at_least, suggest
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, Tokenizer

WRITES = ('tokens', 'mask', 'position', 'segment')
TOKENIZE = 'python -m llm_jax.main --config=configs/tokenize.py'


class Pieces(NamedTuple):
  """Where every piece of every document goes; int64 arrays [P], ordered by row and column."""

  document: np.ndarray
  start: np.ndarray  # of the piece in its document
  size: np.ndarray
  row: np.ndarray


def best_fit(lengths_D: np.ndarray, length: int) -> Pieces:
  """Best-fit decreasing (arXiv:2404.10830): a document goes to the fullest row with room for it.

  A document longer than a row becomes pieces of the length of a row and a rest. Rows, and the
  pieces inside them, keep the order of the documents.

  >>> pieces = best_fit(np.array([3, 4, 2, 1]), length=5)
  >>> pieces.document.tolist(), pieces.row.tolist()
  ([0, 2, 1, 3], [0, 0, 1, 1])

  Args:
    lengths_D: tokens of each document, all above 0.
    length: tokens of a row.
  """
  document_P, start_P, size_P = _pieces(lengths_D, length)
  row_P = np.zeros(len(size_P), np.int64)
  with_room: list[list[int]] = [[] for _ in range(length + 1)]  # rows by their free tokens
  free = 0  # bit n is set when a row has n free tokens: the smallest fit is one bit operation
  rows = 0
  for piece in np.argsort(-size_P, kind='stable').tolist():
    size = int(size_P[piece])
    fitting = free >> size
    if fitting:
      room = size + (fitting & -fitting).bit_length() - 1
      row = with_room[room].pop()
      if not with_room[room]:
        free ^= 1 << room
    else:
      room, row, rows = length, rows, rows + 1
    row_P[piece] = row
    if left := room - size:
      with_room[left].append(row)
      free |= 1 << left
  first_R = np.full(rows, len(size_P))
  np.minimum.at(first_R, row_P, np.arange(len(size_P)))
  row_P = np.argsort(np.argsort(first_R))[row_P]
  order = np.argsort(row_P, kind='stable')
  return Pieces(document_P[order], start_P[order], size_P[order], row_P[order])


def _pieces(lengths_D: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  lengths_D = np.asarray(lengths_D, np.int64)
  pieces_D = -(-lengths_D // length)
  document_P = np.repeat(np.arange(len(lengths_D)), pieces_D)
  start_P = length * (np.arange(len(document_P)) - np.repeat(_before(pieces_D), pieces_D))
  return document_P, start_P, np.minimum(lengths_D[document_P] - start_P, length)


def _before(counts: np.ndarray) -> np.ndarray:
  """The sum of everything before each place."""
  return np.cumsum(counts) - counts


def split(lengths_D: np.ndarray, length: int) -> Pieces:
  """One stream of documents, split wherever a row ends: only the last row has padding.

  >>> pieces = split(np.array([3, 4, 2, 1]), length=5)
  >>> pieces.document.tolist(), pieces.size.tolist()  # document 1 goes on in the second row
  ([0, 1, 1, 2, 3], [3, 2, 2, 2, 1])

  Args:
    lengths_D: tokens of each document, all above 0.
    length: tokens of a row.
  """
  lengths_D = np.asarray(lengths_D, np.int64)
  total = int(lengths_D.sum())
  offset_D = _before(lengths_D)
  begin_P = np.union1d(offset_D, np.arange(0, total, length))
  document_P = np.searchsorted(offset_D, begin_P, side='right') - 1
  size_P = np.diff(begin_P, append=total)
  return Pieces(document_P, begin_P - offset_D[document_P], size_P, begin_P // length)


PACKINGS = {'best_fit': best_fit, 'split': split}


def fill(
  tokens_T: np.ndarray, lengths_D: np.ndarray, pieces: Pieces, length: int, *, pad: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """The rows that `pieces` describe.

  >>> tokens_T, lengths_D = np.array([11, 12, 13, 21, 22]), np.array([3, 2])
  >>> tokens_RL, segment_RL = fill(tokens_T, lengths_D, best_fit(lengths_D, 6), 6)
  >>> tokens_RL.tolist(), segment_RL.tolist()
  ([[11, 12, 13, 21, 22, 0]], [[1, 1, 1, 2, 2, 0]])

  Args:
    tokens_T: all documents, one after the other.
    lengths_D: tokens of each.
    pieces: from `best_fit` or `split`.
    length: L, tokens of a row.
    pad: the id that fills a row after its last piece.

  Returns:
    tokens_RL of the dtype of tokens_T, and segment_RL uint16: 0 = padding, 1, 2, ... = pieces.

  Raises:
    BadInput: a row has more than 65535 pieces.
  """
  rows = int(pieces.row[-1]) + 1 if len(pieces.row) else 0
  count_R = np.bincount(pieces.row, minlength=rows)
  if rows and count_R.max() > np.iinfo(np.uint16).max:
    raise BadInput(f'a row of {length} tokens holds {count_R.max()} documents, more than 65535')
  segment_P = np.arange(len(pieces.row)) - _before(count_R)[pieces.row] + 1
  before_P = _before(pieces.size)
  used_R = np.bincount(pieces.row, weights=pieces.size, minlength=rows).astype(np.int64)
  column_P = before_P - _before(used_R)[pieces.row]
  origin_P = _before(np.asarray(lengths_D, np.int64))[pieces.document] + pieces.start

  inside_T = np.arange(int(pieces.size.sum())) - np.repeat(before_P, pieces.size)
  target_T = np.repeat(pieces.row * length + column_P, pieces.size) + inside_T
  tokens_RL = np.full(rows * length, pad, tokens_T.dtype)
  segment_RL = np.zeros(rows * length, np.uint16)
  tokens_RL[target_T] = tokens_T[np.repeat(origin_P, pieces.size) + inside_T]
  segment_RL[target_T] = np.repeat(segment_P, pieces.size)
  return tokens_RL.reshape(rows, length), segment_RL.reshape(rows, length)


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
  """The smallest of uint16 and uint32 that holds every id."""
  return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def write_shard(
  folder: Path,
  shard: int,
  tokens_RL: np.ndarray,
  segment_RL: np.ndarray,
  counts: Mapping[str, int],
) -> None:
  """Writes `tokens-`, `segment-`, `sums-` and last `shard-<number>.json`: now the shard is done."""
  folder.mkdir(parents=True, exist_ok=True)
  sums_R = np.array([_sum(*row) for row in zip(tokens_RL, segment_RL, strict=True)], np.uint32)
  for name, array in (('tokens', tokens_RL), ('segment', segment_RL), ('sums', sums_R)):
    with replacing(folder / f'{name}-{shard:05d}.npy') as file:
      np.save(file, array)
  write_json(folder / f'shard-{shard:05d}.json', {**counts, 'sums': zlib.crc32(sums_R.tobytes())})


def _sum(tokens_L: np.ndarray, segment_L: np.ndarray) -> int:
  """The CRC-32 of a row."""
  return zlib.crc32(segment_L.tobytes(), zlib.crc32(tokens_L.tobytes()))


def read_shard(folder: Path, shard: int) -> dict[str, int] | None:
  """The counts of a finished shard; None where there is none, or it is damaged."""
  path = folder / f'shard-{shard:05d}.json'
  if not path.is_file():
    return None
  try:
    return read_json(path, 'it is made again')
  except BadInput as error:
    say(error, file=sys.stderr)
    return None


def row_of(tokens_L: np.ndarray, segment_L: np.ndarray) -> dict[str, np.ndarray]:
  """One row as in `make`, in which every token that can be predicted is a target.

  >>> row = row_of(np.array([7, 8, 9, 5, 6, 0]), np.array([1, 1, 1, 2, 2, 0]))
  >>> row['position'].tolist(), row['mask'].tolist()
  ([0, 1, 2, 0, 1, 0], [0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
  """
  segment_L = segment_L.astype(np.int32)
  column_L = np.arange(len(segment_L), dtype=np.int32)
  first_L = np.diff(segment_L, prepend=0) != 0
  position_L = column_L - np.maximum.accumulate(np.where(first_L, column_L, 0))
  real_L = segment_L > 0
  return {
    'tokens': tokens_L.astype(np.int32),
    'segment': segment_L,
    'position': position_L * real_L,
    'mask': (real_L & ~first_L).astype(np.float32),
  }


class MappedRows:
  """The rows of one source and split, memory-mapped; `[i]` gives one row as in `make`.

  A row is compared with its checksum whenever it is read, and its ids with the vocabulary. Folders
  of before have no checksums, and only their ids are looked at.

  Args:
    folder: of the shards.
    shard_rows: R of each shard.
    length: L, tokens of a row; None does not look.
    vocab_size: V; ids are below it. None does not look.
  """

  def __init__(
    self,
    folder: Path,
    shard_rows: list[int],
    length: int | None = None,
    vocab_size: int | None = None,
  ):
    self._folder, self._length, self._vocab_size = folder, length, vocab_size
    self._ends = np.cumsum(shard_rows)
    self._maps = functools.cache(self._open)

  def _open(self, shard: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    rows = int(np.diff(self._ends, prepend=0)[shard])
    # The types are compared, because the checksums of other byte orders would be the same.
    tokens_RL = self._array('tokens', shard, (rows, self._length), ('uint16', 'uint32'))
    segment_RL = self._array('segment', shard, (rows, self._length), ('uint16',))
    path = _there(self._folder / f'shard-{shard:05d}.json')
    wanted = read_json(path, _remedy(path)).get('sums')
    if wanted is None:
      return tokens_RL, segment_RL, None
    sums_R = np.array(self._array('sums', shard, (rows,), ('uint32',)))
    if zlib.crc32(sums_R.tobytes()) != wanted:
      raise self._damaged('sums', shard, 'it differs from its checksum')
    return tokens_RL, segment_RL, sums_R

  def _array(
    self, name: str, shard: int, shape: tuple[int | None, ...], dtypes: tuple[str, ...]
  ) -> np.ndarray:
    path = _there(self._folder / f'{name}-{shard:05d}.npy')
    try:
      array = np.load(path, mmap_mode='r', allow_pickle=False)
    except Exception as error:  # a damaged header is evaluated as Python, which may say anything
      said = ' '.join(str(error).split())
      raise self._damaged(name, shard, f'NumPy cannot read it ({said})') from None
    sizes = zip(shape, array.shape, strict=False)
    fits = array.ndim == len(shape) and all(wanted in (None, size) for wanted, size in sizes)
    if not fits or array.dtype not in map(np.dtype, dtypes):
      found = f'it holds {array.dtype}{list(array.shape)}, not {dtypes[0]}{list(shape)}'
      raise self._damaged(name, shard, found)
    return array

  def _damaged(self, name: str, shard: int, what: str) -> BadInput:
    path = self._folder / f'{name}-{shard:05d}.npy'
    return BadInput(
      f'{path} is damaged: {what}; {_remedy(self._folder / f"shard-{shard:05d}.json")}'
    )

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'row {index} of {len(self)}')
    shard = int(np.searchsorted(self._ends, index, side='right'))
    tokens_RL, segment_RL, sums_R = self._maps(shard)
    row = index - int(self._ends[shard])  # counted from the end of the shard, so negative
    # As plain arrays, which are several times quicker to work on than maps.
    tokens_L, segment_L = np.asarray(tokens_RL[row]), np.asarray(segment_RL[row])
    if sums_R is not None and _sum(tokens_L, segment_L) != sums_R[row]:
      raise self._damaged('tokens', shard, f'row {len(tokens_RL) + row} differs from its checksum')
    if self._vocab_size and (largest := tokens_L.max()) >= self._vocab_size:
      what = f'row {len(tokens_RL) + row} has the id {largest}, of {self._vocab_size}'
      raise self._damaged('tokens', shard, what)
    return row_of(tokens_L, segment_L)

  def __reduce__(self):
    rows = np.diff(self._ends, prepend=0).tolist()
    return MappedRows, (self._folder, rows, self._length, self._vocab_size)

  def __repr__(self) -> str:
    return f'MappedRows({str(self._folder)!r}, {len(self)})'


def _there(path: Path) -> Path:
  if not path.is_file():
    raise BadInput(f'{path} is missing; copy the whole folder again or make it with {TOKENIZE}')
  return path


def _remedy(shard: Path) -> str:
  return (
    f'copy the folder again, or delete {shard} and tokenize.json and tokenize again, which makes '
    'only what is missing'
  )


def make(
  tokenizer: Tokenizer,
  *,
  path: Place,
  split: str = 'train',
  length: Annotated[int, at_least(2)] | None = None,
  weights: Mapping[str, NotNegative] | None = None,
  repeats: MinP = 0.0,
) -> Mixture:
  """The rows of a tokenized folder, as a random-access sequence.

  Every document is begin + text + end; one that is longer than a row continues in another segment.

  Args:
    tokenizer: the one that made the folder.
    path: workdir of a finished `tokenize` job.
    split: 'train' or 'validation'.
    length: L; if given, it must be that of the folder.
    weights: source -> share of the rows, in any unit; 0 leaves a source out. By default every row
      comes once. See `llm_jax.data.mixture`.
    repeats: share of the rows of train in which tokens or text repeat, see
      `llm_jax.data.repeats`; a small model learns to copy from them.

  Returns:
    A sequence of dicts of arrays [L]: `tokens`, `segment` (0 = padding), `position` (from 0 in each
    segment) int32, and `mask` float32, which is 1 except on padding and on the first token of a
    segment.

  Raises:
    BadInput: there is no finished folder at `path`, it is damaged, its tokenizer or length differs,
      the split or a source is unknown, or there are no rows. A row that is damaged is refused when
      it is read.
  """
  folder = Path(path)
  if not (folder / 'tokenize.json').is_file():
    raise BadInput(
      f'data.path {path}: no finished tokenized data (tokenize.json is missing); '
      f'{TOKENIZE} --config.workdir={path} makes or finishes it'
    )
  made = read_json(folder / 'tokenize.json', 'delete it and tokenize again, which keeps the rows')
  if damage := difference(folder / 'tokenizer', made.get('files', {})):
    raise BadInput(f'{folder}/tokenizer is {damage}; copy the folder again')
  if made['fingerprint'] != tokenizer.fingerprint:
    raise BadInput(
      f'data.path {path}: made by tokenizer {made["fingerprint"][:12]}, but this run has '
      f'{tokenizer.fingerprint[:12]}; use {path}/tokenizer, or tokenize with this one'
    )
  if length is not None and length != made['length']:
    raise BadInput(
      f'data.length {length}: the rows of {path} have {made["length"]} tokens; '
      'use that, or tokenize with this length'
    )
  splits = sorted({name for source in made['sources'].values() for name in source})
  if split not in splits:
    raise BadInput(f'data.split: {path} has no {split!r}; {suggest(split, splits)}')
  shards = {
    name: source[split]['shard_rows']
    for name, source in made['sources'].items()
    if split in source and source[split]['rows']
  }
  if not shards:
    raise BadInput(
      f'data.split: {path} has no rows in {split!r}; '
      'raise validation_fraction or set validation when you tokenize'
    )
  if weights is not None:
    absent = made['sources'].keys() - shards.keys()  # sources without rows in this split
    weights = {name: weight for name, weight in weights.items() if name not in absent}
  rows = {
    name: MappedRows(inside(folder, name) / split, counts, made['length'], tokenizer.vocab_size)
    for name, counts in shards.items()
  }
  return mixed(rows, weights, repeats if split == 'train' else 0.0, tokenizer, made['length'])

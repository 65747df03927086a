"""Rows that were encoded once and are kept in a folder: more of them than memory would hold.

A row is some pieces, which are ids and a mask of those that are trained on: the conversations that
share a row, or a prompt and its answers. Each shard has the rows of some thousand records, as
arrays that are mapped into memory. Letters: T tokens, P pieces, R rows.

What a folder is made from is in its name, so one with other options, or of files that have changed,
is another folder. What a function of the user's imports is not looked at. A process that was killed
is followed by one that makes the missing shards.
"""

import hashlib
import itertools
import json
import operator
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from llm_jax import __version__, storage
from llm_jax.files import read_json, replacing, write_json
from llm_jax.lock import locked
from llm_jax.parallel.hosts import exchange, on_one_host
from llm_jax.store import Busy
from llm_jax.text.terminal import say
from llm_jax.types import BadInput

RECORDS = 10_000  # of a shard
ENDS = 'rows.json'  # of a folder, written last
FORM = 2  # of what is written, so that nothing of another form is read
SECONDS = 2.0  # between two looks at whether another process has made it
Item = TypeVar('Item')


Piece = tuple[Sequence[int], Sequence[int]]  # ids, and 1 for each that is trained on


class Row(NamedTuple):
  """Pieces of a row, and a number that belongs to it: a margin, or a label."""

  pieces: Sequence[Piece]
  value: float = 0.0


Tallies = dict[str, Counter[Any]]  # name -> what is counted -> how often
Read = Callable[[Counter[str]], Iterator[Item]]
Encode = Callable[[list[Item]], tuple[Sequence[Row], Tallies]]


def keep(
  folder: Path,
  made_from: Mapping[str, Any],
  read: Read[Item],
  encode: Encode[Item],
  *,
  records: int | None = None,
) -> 'Rows':
  """The rows of all records, of which those that are not in the folder yet are made.

  Args:
    folder: in which a folder for these rows is found or made; hosts share it.
    made_from: everything that the rows depend on.
    read: gives the records from the first one on, and counts what it leaves out.
    encode: some of them -> their rows, and what is counted of them.
    records: of a shard; by default `RECORDS`.

  Raises:
    BadInput: nothing can be written there, or what is there is damaged.
  """
  records = records or RECORDS
  text = json.dumps([__version__, FORM, made_from, records], sort_keys=True, default=str)
  place = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
  place = Path(exchange(str(place), 'kept')[0])  # hosts may have other times of the same files
  on_one_host(lambda: _make(place, made_from, read, encode, records))
  return Rows(place)


def _make(
  folder: Path,
  made_from: Mapping[str, Any],
  read: Read[Item],
  encode: Encode[Item],
  records: int,
) -> None:
  told = False
  while not (folder / ENDS).is_file():
    try:
      with locked(folder) as is_there:
        if (folder / ENDS).is_file():  # whoever had the lock before has made it
          return
        write_json(folder / 'made_from.json', made_from)
        left_out: Counter[str] = Counter()
        found, shards = read(left_out), []
        while some := list(itertools.islice(found, records)):
          is_there()
          shards.append(_shard(folder, len(shards), some, encode, left_out))
          left_out.clear()
        write_json(folder / ENDS, {'shards': shards, 'left_out': left_out})
    except Busy as error:
      if not told:
        say(f'{str(error).partition("; ")[0]}; waiting for it')
      told = True
      time.sleep(SECONDS)
      storage.refresh()


def _shard(
  folder: Path, number: int, items: list[Item], encode: Encode[Item], left_out: Counter[str]
) -> dict[str, Any]:
  """What is known of a shard, which is written if it is not there."""
  path = folder / f'shard-{number:05d}.json'
  if path.is_file():
    return read_json(path, 'delete it, and it is made again')
  rows, tallies = encode(items)
  tallies['left out'] = tallies.get('left out', Counter()) + left_out
  pieces = [piece for row in rows for piece in row.pieces]
  flat = lambda parts, dtype: np.fromiter(itertools.chain.from_iterable(parts), dtype)
  arrays = {
    'ids': flat((ids for ids, _ in pieces), np.uint32),
    'mask': flat((mask for _, mask in pieces), np.uint8),
    'pieces': np.cumsum([len(ids) for ids, _ in pieces], dtype=np.int64),
    'rows': np.cumsum([len(row.pieces) for row in rows], dtype=np.int64),
    'values': np.array([row.value for row in rows], np.float32),
  }
  for name, array in arrays.items():
    with replacing(folder / f'{name}-{number:05d}.npy') as file:
      np.save(file, array)
  sums = {name: zlib.crc32(array.tobytes()) for name, array in arrays.items()}
  told = {name: [*tally.items()] for name, tally in tallies.items()}  # JSON's keys are texts
  found = {'rows': len(rows), 'tallies': told, 'sums': sums}
  write_json(path, found)
  return found


class Rows:
  """Those of a finished folder, memory-mapped; a shard is compared with its sums when it is opened.

  Attributes:
    tallies: what was counted, over all shards.
    digest: of all content.
  """

  def __init__(self, folder: Path) -> None:
    self._folder = folder
    made = read_json(folder / ENDS, f'delete {folder}, and it is made again')
    self._shards = shards = made['shards']
    self._ends = np.cumsum([shard['rows'] for shard in shards], dtype=np.int64)
    self._open: dict[int, dict[str, np.ndarray]] = {}
    self.tallies: Tallies = {'left out': Counter(made['left_out'])}
    for shard in shards:
      for name, tally in shard['tallies'].items():
        self.tallies.setdefault(name, Counter()).update({key: count for key, count in tally})
    sums = json.dumps([shard['sums'] for shard in shards], sort_keys=True)
    self.digest = hashlib.sha256(sums.encode()).hexdigest()[:12]

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, index: int) -> Row:
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'row {index} of {len(self)}')
    shard = int(np.searchsorted(self._ends, index, side='right'))
    arrays = self._arrays(shard)
    row = index - int(self._ends[shard]) + len(arrays['rows'])
    before = lambda ends, place: int(ends[place - 1]) if place else 0
    pieces: list[Piece] = []
    for piece in range(before(arrays['rows'], row), int(arrays['rows'][row])):
      inside = slice(before(arrays['pieces'], piece), int(arrays['pieces'][piece]))
      pieces.append((arrays['ids'][inside].tolist(), arrays['mask'][inside].tolist()))
    return Row(pieces, float(arrays['values'][row]))

  def _arrays(self, shard: int) -> dict[str, np.ndarray]:
    if shard not in self._open:
      found = {}
      for name, wanted in self._shards[shard]['sums'].items():
        path = self._folder / f'{name}-{shard:05d}.npy'
        remedy = f'delete {self._folder}, and it is made again'
        if not path.is_file():
          raise BadInput(f'{path} is missing; {remedy}')
        try:
          array = np.load(path, mmap_mode='r', allow_pickle=False)
          intact = zlib.crc32(np.ascontiguousarray(array).data) == wanted
        except Exception:  # a damaged header is evaluated as Python, which may say anything
          intact = False
        if not intact:
          raise BadInput(f'{path} is damaged; {remedy}')
        found[name] = array
      self._open[shard] = found
    return self._open[shard]

  def __reduce__(self) -> tuple[Any, ...]:
    return Rows, (self._folder,)

  def __repr__(self) -> str:
    return f'Rows({len(self)}, {self.digest!r})'

"""Rows of a folder that job `tokenize` is still filling: training begins while it runs.

The first pass reads shards in the order of their numbers, in groups that double: shard 0 of every
source, shard 1, shards 2 and 3, shards 4 to 7, and so on, each group in an order of its own.
Whoever wants a row of a group that is not whole waits for it. So the order follows from the shards
alone, however fast they come, and a run that goes on finds the same one. Later passes are over all
rows, as they are of a finished folder.
"""

import operator
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from llm_jax import storage
from llm_jax.data.packed import WRITES, MappedRows, read_shard
from llm_jax.files import inside, read_json
from llm_jax.options import MinP, Place, at_least, checked
from llm_jax.text import folder as tokenizers
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, Tokenizer

__all__ = ['WRITES', 'Growing', 'make']

SECONDS = 5.0  # between two looks at the folder
ENDS = 'tokenize.json'  # of a folder, written last


@checked(where='data')
def make(
  tokenizer: Tokenizer,
  *,
  path: Place,
  split: str = 'train',
  length: Annotated[int, at_least(2)] | None = None,
  repeats: MinP = 0.0,
) -> 'Growing':
  """The rows of a folder that a `tokenize` job fills or has filled, as a sequence that grows.

  Args:
    tokenizer: the one that the job has trained, or was given.
    path: workdir of the job. Sources have the weights of their rows.
    split: 'train'; or 'validation', of which only the first shard of each source is read.
    length: L; if given, it must be that of the folder.
    repeats: 0, since rows of another kind are mixed among all that there are.

  Returns:
    Rows as those of `llm_jax.data.packed`, see `Growing`.

  Raises:
    BadInput: no job has begun there, its tokenizer or length differs, or it ended without rows.
  """
  if repeats:
    raise BadInput(f'data.repeats {repeats}: not while rows are made; set it to 0')
  if split not in ('train', 'validation'):
    raise BadInput(f"data.split: no {split!r}; choose 'train' or 'validation'")
  folder = Path(path)
  if not tokenizers.holds(folder / 'tokenizer'):
    raise BadInput(
      f'data.path {path}: no tokenize job has a tokenizer there yet; start one, such as '
      f'python -m llm_jax.main --config=tokenize --config.workdir={path}, and wait for this'
    )
  theirs = tokenizers.load(folder / 'tokenizer').fingerprint
  if theirs != tokenizer.fingerprint:
    raise BadInput(
      f'data.path {path}: made by tokenizer {theirs[:12]}, but this run has '
      f'{tokenizer.fingerprint[:12]}; use {path}/tokenizer, or tokenize with this one'
    )
  found = Growing(folder, split, tokenizer.vocab_size)
  if length not in (None, found.length):
    raise BadInput(f'data.length {length}: the rows of {path} have {found.length} tokens; use that')
  return found


class _Run(NamedTuple):
  """Neighbouring rows of one source."""

  source: str
  start: int  # of its rows
  size: int


class Growing:
  """A sequence of rows, as those of `llm_jax.data.packed`, that gets longer until it is complete.

  `len` is the number of rows in the groups that somebody has asked for.

  Args:
    folder: the workdir of a job `tokenize` that has its tokenizer already.
    split: see `make`.
    vocab_size: V; ids are below it.

  Attributes:
    length: L, tokens of a row.

  Raises:
    BadInput: it ended without rows of this split.
  """

  def __init__(self, folder: Path, split: str, vocab_size: int):
    settings = read_json(folder / 'config.json', 'delete the folder and tokenize again')
    self.length: int = settings['length']
    self._folder, self._split, self._vocab_size = folder, split, vocab_size
    self._sources = {name: MappedRows(folder, []) for name in sorted(settings['sources'])}
    self._shards: dict[str, list[int]] = {name: [] for name in self._sources}
    self._groups: list[list[_Run]] = []
    self._ends = np.zeros(0, np.int64)  # of the groups
    self._whole = False
    self._grow()
    if not len(self):
      raise BadInput(f'data.split: {folder} has no rows in {split!r}')
    self._whole |= split == 'validation'

  def group(self, place: int) -> tuple[int, int, int]:
    """Where the group of the row that is read at a place begins, its size, and its first row.

    Waits until the group is whole. `place` counts on through all passes.
    """
    while place >= len(self) and not self._whole:
      self._grow()
    if place >= len(self):
      return place // len(self) * len(self), len(self), 0
    number = int(np.searchsorted(self._ends, place, side='right'))
    start = int(self._ends[number - 1]) if number else 0
    return start, int(self._ends[number]) - start, start

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'row {index} of {len(self)}')
    number = int(np.searchsorted(self._ends, index, side='right'))
    index -= int(self._ends[number - 1]) if number else 0
    for run in self._groups[number]:
      if index < run.size:
        return self._sources[run.source][run.start + index]
      index -= run.size
    raise AssertionError('groups and their ends differ')

  def __repr__(self) -> str:
    return f'Growing({str(self._folder)!r}, {self._split!r})'

  def _grow(self) -> None:
    """Adds the next group, once it is whole; or finds that all rows are there."""
    number = len(self._groups)
    first, last = (1 << number) // 2, 1 << number  # shards of the group, the last one excluded
    told = False
    while not self._is_whole(first, last):
      if not told:
        say(f'{self._folder}: waiting for shard {last - 1} of {self._split}, which is being made')
      told = True
      time.sleep(SECONDS)
      storage.refresh(self._folder)
    runs = []
    for name in self._sources:
      counts, place = self._shards[name], self._folder_of(name)
      start = sum(counts)
      while len(counts) < last and (found := read_shard(place, len(counts))):
        counts.append(found['rows'])
      if sum(counts) > start:
        runs.append(_Run(name, start, sum(counts) - start))
        self._sources[name] = MappedRows(place, [*counts], self.length, self._vocab_size)
    if runs:
      self._groups.append(runs)
      self._ends = np.append(self._ends, len(self) + sum(run.size for run in runs))
    else:
      self._whole = True

  def _is_whole(self, first: int, last: int) -> bool:
    """Whether every source has these shards, or is finished."""
    if (self._folder / ENDS).is_file():
      return True
    shards = [(name, number) for name in self._sources for number in range(first, last)]
    path = lambda name, number: self._folder_of(name) / f'shard-{number:05d}.json'
    return all(path(*shard).is_file() for shard in shards)

  def _folder_of(self, name: str) -> Path:
    return inside(self._folder, name) / self._split

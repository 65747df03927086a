"""Rows of a folder that job `tokenize` is still filling: training begins while it runs.

The first pass reads shards in the order of their numbers, in groups that double: shard 0, shard 1,
shards 2 and 3, shards 4 to 7, and so on, each group in an order of its own. Whoever wants a row of
a group that is not whole waits for it. So the order follows from the shards alone, however fast
they come, and a run that goes on finds the same one. Later passes are over all rows, as they are of
a finished folder. There is one source: another would begin when this one ends.
"""

import bisect
import functools
import operator
import time
from pathlib import Path
from typing import Annotated

import numpy as np

from llm_jax import storage
from llm_jax.data.packed import WRITES, MappedRows, read_shard
from llm_jax.data.sources import open_source
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
    path: workdir of the job, which has one source.
    split: 'train'; or 'validation', of which only the first shard is read.
    length: L; if given, it must be that of the folder.
    repeats: 0, since rows of another kind are mixed among all that there are.

  Returns:
    Rows as those of `llm_jax.data.packed`, see `Growing`.

  Raises:
    BadInput: no job has begun there, its tokenizer or length differs, it has several sources, or it
      holds nothing out or ended without rows.
  """
  if repeats:
    raise BadInput(f'data.repeats {repeats}: not while rows are made; set it to 0')
  if split not in ('train', 'validation'):
    raise BadInput(f"data.split: no {split!r}; choose 'train' or 'validation'")
  folder, begun = Path(path), Path(path) / 'config.json'
  settings = read_json(begun, 'delete the folder and tokenize again') if begun.is_file() else {}
  if not tokenizers.holds(folder / 'tokenizer') or not {'sources', 'length'} <= settings.keys():
    raise BadInput(
      f'data.path {path}: no tokenize job has a tokenizer there yet; start one, such as '
      f'python -m llm_jax.main --config=tokenize --config.workdir={path}, and wait for this'
    )
  if len(settings['sources']) > 1:
    raise BadInput(
      f'data.path {path}: sources {", ".join(sorted(settings["sources"]))} are tokenized one after '
      'the other, so training cannot begin meanwhile; use one, or data.name=packed at the end'
    )
  ((name, source),) = settings['sources'].items()
  divided = settings.get('validation_fraction') or settings.get('validation')
  if split == 'validation' and not divided and not open_source(source).has_splits:
    raise BadInput(
      f'data.path {path}: validation_fraction is 0, so nothing is held out; tokenize again with '
      f'another, or with config.validation.{name}'
    )
  theirs = tokenizers.load(folder / 'tokenizer').fingerprint
  if theirs != tokenizer.fingerprint:
    raise BadInput(
      f'data.path {path}: made by tokenizer {theirs[:12]}, but this run has '
      f'{tokenizer.fingerprint[:12]}; use {path}/tokenizer, or tokenize with this one'
    )
  if length not in (None, settings['length']):
    raise BadInput(
      f'data.length {length}: the rows of {path} have {settings["length"]} tokens; use that'
    )
  return Growing(folder, name, split, settings['length'], tokenizer.vocab_size)


class Growing:
  """A sequence of rows, as those of `llm_jax.data.packed`, that gets longer until it is complete.

  `len` is the number of rows in the groups that somebody has asked for.

  Args:
    folder: the workdir of a job `tokenize` that has its tokenizer already.
    source: its only one.
    split: see `make`.
    length: L, tokens of a row.
    vocab_size: V; ids are below it.

  Raises:
    BadInput: it ended without rows of this split.
  """

  def __init__(self, folder: Path, source: str, split: str, length: int, vocab_size: int):
    self._folder, self._source, self._split = folder, source, split
    self._read = inside(folder, source) / split
    self._mapped = functools.partial(MappedRows, self._read, length=length, vocab_size=vocab_size)
    self._counts: list[int] = []  # rows of each shard
    self._ends: list[int] = []  # of the groups, in rows
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
    number = bisect.bisect_right(self._ends, place)
    start = self._ends[number - 1] if number else 0
    return start, self._ends[number] - start, start

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'row {index} of {len(self)}')
    return self._rows[index]

  def __repr__(self) -> str:
    return f'Growing({str(self._read)!r})'

  def _grow(self) -> None:
    """Adds the next group, once it is whole; or finds that all rows are there."""
    last = 1 << len(self._ends)  # shards up to the end of the group
    told = False
    while (counts := self._made(last)) is None:
      if not told:
        say(f'{self._read}: waiting for shard {last - 1}, which is being made')
      told = True
      time.sleep(SECONDS)
      storage.refresh(self._folder)
    if len(counts) == len(self._counts):
      self._whole = True
      return
    self._counts, self._rows = counts, self._mapped(counts)
    self._ends.append(len(self._rows))

  def _made(self, last: int) -> list[int] | None:
    """Rows of the shards before the last, or of all if they are fewer; None if some are missing."""
    done = self._folder / ENDS
    if done.is_file():
      made = read_json(done, 'delete it and tokenize again, which keeps the rows')
      return made['sources'][self._source][self._split]['shard_rows'][:last]
    counts = [*self._counts]
    while len(counts) < last:
      if (found := read_shard(self._read, len(counts))) is None:
        return None
      counts.append(found['rows'])
    return counts

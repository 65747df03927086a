"""A tokenized folder, shard by shard: which there have to be, and the writing of those missing."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax import storage
from llm_jax.data import packed
from llm_jax.data.splits import Stream, documents
from llm_jax.jobs.corpus_report import Progress
from llm_jax.jobs.shards import Shard
from llm_jax.lock import locked
from llm_jax.store import Busy
from llm_jax.types import BadInput, Tokenizer

# Characters encoded at once: enough to keep the threads busy, few enough to keep the lists small.
_SLICE = 1 << 20
MAKING = 'making-'  # a folder for the lock of a shard that is being written


@dataclasses.dataclass
class _Expected:
  """A shard as the text says it has to be, with its counts once it is there."""

  folder: Path
  number: int
  documents: int
  bytes: int
  counts: dict[str, int] | None = None

  def look(self) -> bool:
    """Whether it is there.

    Raises:
      BadInput: it was made from another text.
    """
    if self.counts is None:
      self.counts = packed.read_shard(self.folder, self.number)
      if self.counts and (self.counts['documents'], self.counts['bytes']) != (
        self.documents,
        self.bytes,
      ):
        raise BadInput(
          f'{self.folder}: the text of shard {self.number} changed since it was packed, or another '
          'version of llm_jax began; use another workdir, or delete this one'
        )
    return self.counts is not None


class Packing:
  """All shards of a folder, of which this process writes those of its part that are missing.

  Args:
    folder: the workdir.
    tokenizer: of the folder.
    settings: of job `tokenize`.
    part: which shards are for this process.
    threads: cores to encode on; None for all.
    is_there: raises where the folder was deleted meanwhile.

  Attributes:
    progress: what a person sees meanwhile; to be closed at the end.
  """

  def __init__(
    self,
    folder: Path,
    tokenizer: Tokenizer,
    settings: Mapping[str, Any],
    part: Shard,
    threads: int | None,
    is_there: Callable[[], None],
  ) -> None:
    self._folder, self._tokenizer, self._settings = folder, tokenizer, settings
    self._part, self._threads, self._is_there = part, threads, is_there
    self._shards: dict[str, dict[str, list[_Expected]]] = {}
    self._seen = itertools.count()
    self.progress = Progress()

  def add(self, source: str, streams: Iterable[Stream]) -> None:
    """Goes through the text of one source."""
    shards = self._shards[source] = {'train': [], 'validation': []}
    for stream in streams:
      for split, texts in _batches(stream, self._settings['shard_documents']):
        size = sum(len(text.encode()) for text in texts)
        place, number = self._folder / source / split, len(shards[split])
        one = _Expected(place, number, len(texts), size)
        shards[split].append(one)
        mine = self._part.has(next(self._seen))
        if not one.look() and mine:
          self._is_there()
          self._write(one, texts)
        if one.counts:
          self.progress.add(f'{source} {split}', len(texts), size)
    if not shards['train']:
      raise BadInput(
        f'sources.{source}: no training documents in {self._settings["sources"][source]!r}; '
        'give it more text, or another validation_fraction'
      )

  def left(self) -> list[str]:
    """The shards that are not there yet."""
    every = (one for splits in self._shards.values() for ones in splits.values() for one in ones)
    return [f'{one.folder}/{one.number}' for one in every if not one.look()]

  def report(self) -> dict[str, dict[str, dict[str, Any]]]:
    """Source -> split -> its row of the summary, once none is left."""
    around = len(self._tokenizer.begin) + 1
    totals = lambda ones: _totals([one.counts for one in ones], self._settings['length'], around)
    return {
      source: {split: totals(ones) for split, ones in splits.items()}
      for source, splits in self._shards.items()
    }

  def _write(self, one: _Expected, texts: list[str]) -> None:
    make = lambda: _write_shard(one, self._tokenizer, texts, self._settings, self._threads)
    if storage.url_of(self._folder):  # of which each process has a copy
      one.counts = make()
      return
    try:
      with locked(one.folder / f'{MAKING}{one.number:05d}'):
        if not one.look():
          one.counts = make()
    except Busy:
      return  # somebody was told to make the same part


def _batches(stream: Stream, shard_documents: int) -> Iterator[tuple[str, list[str]]]:
  """(split, documents) of one shard after the other.

  What is held out until then is the first shard of validation, for training that begins meanwhile.
  """
  waiting: dict[str, list[str]] = {'train': [], 'validation': []}
  first = True
  for text in documents(stream):
    split = stream.split_of(text)
    waiting[split].append(text)
    if len(waiting[split]) == shard_documents:
      for name in [split, 'validation'] if first else [split]:
        if waiting[name]:
          yield name, waiting[name]
          waiting[name] = []
          first &= name == 'train'
  yield from ((split, texts) for split, texts in waiting.items() if texts)


def _write_shard(
  one: _Expected,
  tokenizer: Tokenizer,
  texts: list[str],
  settings: Mapping[str, Any],
  threads: int | None,
) -> dict[str, int]:
  tokens_T, lengths_D = _encode(tokenizer, texts, threads)
  length = settings['length']
  pieces = packed.PACKINGS[settings['pack']](lengths_D, length)
  tokens_RL, segment_RL = packed.fill(tokens_T, lengths_D, pieces, length, pad=tokenizer.pad_id)
  counts = {
    'documents': one.documents,
    'bytes': one.bytes,
    'tokens': len(tokens_T),
    'rows': len(tokens_RL),
  }
  packed.write_shard(one.folder, one.number, tokens_RL, segment_RL, counts)
  return counts


def _encode(
  tokenizer: Tokenizer, texts: list[str], threads: int | None
) -> tuple[np.ndarray, np.ndarray]:
  """tokens_T and lengths_D of the documents, each as its begin, if it has one, text and end."""
  eos = tokenizer.eos_id
  arrays, lengths = [], []
  for some in _slices(texts):
    ids = [[*tokenizer.begin, *document, eos] for document in tokenizer.encode_batch(some, threads)]
    lengths += map(len, ids)
    flat = itertools.chain.from_iterable(ids)
    arrays.append(np.fromiter(flat, packed.token_dtype(tokenizer.vocab_size)))
  return np.concatenate(arrays), np.array(lengths)


def _slices(texts: list[str]) -> Iterator[list[str]]:
  some, size = [], 0
  for text in texts:
    some.append(text)
    size += len(text)
    if size >= _SLICE:
      yield some
      some, size = [], 0
  if some:
    yield some


def _totals(shards: list[dict[str, int]], length: int, around: int) -> dict[str, Any]:
  """Sums over shards; `padding` is a share of 0 to 1.

  `bytes_per_token` leaves out begin and end, of which each document has `around`.
  """
  names = ('documents', 'bytes', 'tokens', 'rows')
  total: dict[str, Any] = {name: sum(shard[name] for shard in shards) for name in names}
  text_tokens = total['tokens'] - around * total['documents']
  total['bytes_per_token'] = round(total['bytes'] / max(text_tokens, 1), 4)
  total['padding'] = round(1 - total['tokens'] / max(total['rows'] * length, 1), 6) if shards else 0
  total['shard_rows'] = [shard['rows'] for shard in shards]
  return total

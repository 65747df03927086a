"""Text into packed rows of tokens: trains a tokenizer, encodes every source, writes shards.

What it leaves in `workdir`: `config.json` (as soon as text and options proved good), `tokenizer/`,
`<source>/<split>/` with the shards of `llm_jax.data.packed`, and `tokenize.json` (at the end: only
then it is finished).
Killed and started again it makes the shards that are missing, with the same bytes as a result.
Several processes may share the folder: each reads all text and encodes every n-th shard of it.
"""

import dataclasses
import itertools
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from llm_jax import run_folder, storage
from llm_jax.data import packed
from llm_jax.data.splits import Stream, documents, open_streams
from llm_jax.files import manifest, write_json
from llm_jax.find import call
from llm_jax.jobs.corpus_report import Progress, print_summary
from llm_jax.jobs.shards import Shard, shard_of
from llm_jax.lock import locked
from llm_jax.options import Count, Place, Seed, at_least, suggest
from llm_jax.options import check as check_options
from llm_jax.parallel.hosts import on_one_host
from llm_jax.store import Busy, Lost
from llm_jax.text import folder as tokenizers
from llm_jax.text import tokenizer as own
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, Tokenizer

# Characters encoded at once: enough to keep the threads busy, few enough to keep the lists small.
_SLICE = 1 << 20
_MAKING = 'making-'  # a folder for the lock of a shard that is being written


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """What a config of this job has besides the keywords of `tokenize`.

  Attributes:
    job: 'tokenize'.
    requires: groups of the config that are configs of other jobs, which run first.
  """

  job: str
  requires: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  yield '', tokenize, ()
  yield 'tokenizer', own.Tokenizer.train, ('seed',)
  yield 'tokenizer', _trained_tokenizer, ()


def check(config: Any) -> None:
  """Everything that can be said of the config before any text is read.

  Raises:
    BadInput: naming the field and what would work.
  """
  given = _given(config)
  check_options(tokenize, given, where='tokenize')
  if shard_of(given.get('shard')).count > 1 and storage.url_of(Path(given['workdir'])):
    raise BadInput(
      'shard: processes share a folder and not a URL, of which each has a copy; tokenize into a '
      'folder that all of them see, or in one process'
    )
  if not given['sources']:
    raise BadInput("sources is empty; set for example config.sources.mine = 'my/*.jsonl'")
  for name in given['sources']:
    if not re.fullmatch(r'[\w-]+', name) or name == 'tokenizer':
      raise BadInput(
        f'sources: {name!r} cannot be a folder here; use letters, digits, - and _, '
        "and not 'tokenizer'"
      )
  for name in given.get('validation', ()):
    if name not in given['sources']:
      raise BadInput(f'validation: no source {name!r}; {suggest(name, list(given["sources"]))}')
  words = given.get('tokenizer', {})
  if 'path' not in words:
    check_options(own.Tokenizer.train, words, where='tokenizer', supplied=('seed',))
  elif others := sorted(words.keys() - {'path', 'add'}):
    raise BadInput(
      f'tokenizer.{others[0]} is of no use with tokenizer.path, which is trained already; '
      'drop one of them'
    )


def main(config: Any) -> None:
  """Runs `tokenize`, after `check`."""
  check(config)
  on_one_host(lambda: tokenize(**_given(config)))


def _given(config: Any) -> dict[str, Any]:
  """The keywords of `tokenize`."""
  return {k: v for k, v in config.to_dict().items() if k not in ('job', 'requires')}


def tokenize(
  *,
  workdir: Place,
  sources: Mapping[str, str],
  validation: Mapping[str, str] | None = None,
  validation_fraction: Annotated[float, at_least(0, below=1)] = 0.01,
  tokenizer: Mapping[str, Any] | None = None,
  length: Annotated[int, at_least(2)] = 256,
  pack: Literal['best_fit', 'split'] = 'best_fit',
  shard_documents: Count = 10_000,
  seed: Seed = 0,
  threads: Count | None = None,
  shard: str = '',
) -> None:
  """Tokenizes `sources` into `workdir`, or goes on where an earlier run stopped.

  Args:
    workdir: the folder to fill.
    sources: name -> what `open_source` reads, such as 'builtin' or 'web/*.jsonl.zst'. The name
      becomes a folder.
    validation: name -> what to read for the validation split of that source. Without an entry, or
      with an empty one, a source uses its own validation split; one that has none is divided by a
      hash of each document.
    validation_fraction: share of the documents that this hash sends to validation.
    tokenizer: options of `Tokenizer.train`, or `path`, the folder of a tokenizer to use again.
    length: L, tokens of a row.
    pack: in 'best_fit' documents stay whole where they fit; 'split' needs no padding.
    shard_documents: documents of a shard.
    seed: of the tokenizer's sample and of the hash.
    threads: cores to encode on, by default all; the result does not depend on it.
    shard: '3/16' for the third of sixteen processes that share the folder. One of them trains the
      tokenizer, for which the others wait; whoever ends last finishes the folder.

  Raises:
    BadInput: a workdir made by another config, or a source without documents.
  """
  settings = {
    'sources': dict(sources),
    'validation': {name: spec for name, spec in (validation or {}).items() if spec},
    'validation_fraction': validation_fraction,
    'tokenizer': dict(tokenizer or {}),
    'length': length,
    'pack': pack,
    'shard_documents': shard_documents,
    'seed': seed,
  }
  folder, part = Path(workdir), shard_of(shard)
  run_folder.holds(folder, settings)
  if (folder / 'tokenize.json').is_file():
    say(f'tokenize: {workdir} is finished already')
  elif part.count > 1:
    _tokenize(folder, settings, part, threads, lambda: _check_there(folder))
  else:
    with locked(folder) as is_there:
      _tokenize(folder, settings, part, threads, is_there)


def _check_there(folder: Path) -> None:
  if not (folder / 'config.json').is_file():
    raise Lost(f'{folder} was deleted while this command was at work there; give it again')


def _tokenize(
  folder: Path,
  settings: Mapping[str, Any],
  part: Shard,
  threads: int | None,
  is_there: Callable[[], None],
) -> None:
  """Tokenizes the part of this process; `is_there` raises where the folder is no longer there."""
  streams = open_streams(
    settings['sources'],
    settings['validation'],
    fraction=settings['validation_fraction'],
    seed=settings['seed'],
  )
  words = part.patient(lambda: _tokenizer(folder, streams, settings))
  packing = _Packing(folder, words, settings, part, threads, is_there)
  for name, group in itertools.groupby(streams, key=lambda stream: stream.source):
    packing.add(name, group)
  packing.progress.close()
  if left := packing.left():
    say(
      f'tokenize: part {part.number} of {part.count} is done; {len(left)} shards of others are '
      f'left, such as {left[0]}; the last part to end finishes {folder}'
    )
    return
  finished = {
    'config': settings,
    'fingerprint': words.fingerprint,
    'vocab_size': words.vocab_size,
    'files': manifest(folder / 'tokenizer'),
    'length': settings['length'],
    'sources': packing.report(),
  }
  part.patient(lambda: _finish(folder, finished))
  print_summary(str(folder), finished)


def _finish(folder: Path, finished: Mapping[str, Any]) -> None:
  with locked(folder):
    for killed in folder.glob(f'*/*/{_MAKING}*'):
      shutil.rmtree(killed)
    write_json(folder / 'tokenize.json', finished)


def _tokenizer(folder: Path, streams: Sequence[Stream], settings: Mapping[str, Any]) -> Tokenizer:
  """That of the folder; made where there is none."""
  with locked(folder):
    if run_folder.holds(folder, settings) and tokenizers.holds(folder / 'tokenizer'):
      return tokenizers.load(folder / 'tokenizer')
    words = _new_tokenizer(streams, settings)
    # Recorded only now, so that what was wrong with text or options can be corrected in place.
    run_folder.claim(folder, settings)
    words.save(folder / 'tokenizer')
    return words


def _new_tokenizer(streams: Iterable[Stream], settings: Mapping[str, Any]) -> Tokenizer:
  """Trained on the train split of every source, or the one that `tokenizer.path` names."""
  options = settings['tokenizer']
  if 'path' in options:
    return _trained_tokenizer(**options)
  texts = (
    text for stream in streams for text in documents(stream) if stream.split_of(text) == 'train'
  )
  start = time.monotonic()
  say('tokenize: reading the text, and learning which of its pieces become tokens')
  tokenizer = call(own.Tokenizer.train, options, texts, where='tokenizer', seed=settings['seed'])
  say(
    f'tokenize: trained a vocabulary of {tokenizer.vocab_size} in {time.monotonic() - start:.1f} s'
  )
  return tokenizer


def _trained_tokenizer(*, path: str = '', add: Sequence[str] = ()) -> Tokenizer:
  """A tokenizer that is there already.

  Args:
    path: folder of a tokenizer to use again, in the place of all other options: `tokenizer` of a
      stage, or a Hugging Face model.
    add: with `path`, control tokens that it gets besides its own.
  """
  found = tokenizers.load(path)
  found = found.with_specials(add) if add else found
  found.eos_id  # noqa: B018, which says now if there is none
  return found


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
          f'{self.folder}: the text of shard {self.number} changed since it was packed; '
          'use another workdir, or delete this one'
        )
    return self.counts is not None


class _Packing:
  """All shards of a folder, of which this process writes those of its part that are missing."""

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
      with locked(one.folder / f'{_MAKING}{one.number:05d}'):
        if not one.look():
          one.counts = make()
    except Busy:
      return  # somebody was told to make the same part


def _batches(stream: Stream, shard_documents: int) -> Iterator[tuple[str, list[str]]]:
  """(split, documents) of one shard after the other."""
  waiting: dict[str, list[str]] = {'train': [], 'validation': []}
  for text in documents(stream):
    split = stream.split_of(text)
    waiting[split].append(text)
    if len(waiting[split]) == shard_documents:
      yield split, waiting[split]
      waiting[split] = []
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

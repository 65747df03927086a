"""Text into packed rows of tokens: trains a tokenizer, encodes every source, writes shards.

What it leaves in `workdir`: `config.json` (as soon as text and options proved good), `tokenizer/`,
`<source>/<split>/` with the shards of `llm_jax.data.packed`, and `tokenize.json` (at the end: only
then it is finished).
Killed and started again it goes on after the last finished shard, with the same bytes as a result.
"""

import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from llm_jax import run_folder
from llm_jax.data import packed
from llm_jax.data.splits import Stream, documents, open_streams
from llm_jax.files import manifest, write_json
from llm_jax.find import call
from llm_jax.jobs.corpus_report import Progress, print_summary
from llm_jax.lock import locked
from llm_jax.options import Count, Place, Seed, at_least, suggest
from llm_jax.options import check as check_options
from llm_jax.parallel.hosts import on_one_host
from llm_jax.text import folder as tokenizers
from llm_jax.text import tokenizer as own
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, Tokenizer

# Characters encoded at once: enough to keep the threads busy, few enough to keep the lists small.
_SLICE = 1 << 20


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
  folder = Path(workdir)
  known = run_folder.holds(folder, settings)
  if (folder / 'tokenize.json').is_file():
    say(f'tokenize: {workdir} is finished already')
    return
  with locked(folder) as is_there:
    _tokenize(folder, settings, known, threads, is_there)


def _tokenize(
  folder: Path,
  settings: Mapping[str, Any],
  known: bool,
  threads: int | None,
  is_there: Callable[[], None],
) -> None:
  """Tokenizes into a folder that no other process works on; `is_there` asks whether it remains."""
  streams = open_streams(
    settings['sources'],
    settings['validation'],
    fraction=settings['validation_fraction'],
    seed=settings['seed'],
  )
  if known and tokenizers.holds(folder / 'tokenizer'):
    words = tokenizers.load(folder / 'tokenizer')
  else:
    words = _new_tokenizer(streams, settings)
    # Recorded only now, so that what was wrong with text or options can be corrected in place.
    run_folder.claim(folder, settings)
    words.save(folder / 'tokenizer')
  progress = Progress()
  report = {
    name: _pack_source(folder / name, words, group, settings, threads, progress, is_there)
    for name, group in itertools.groupby(streams, key=lambda stream: stream.source)
  }
  progress.close()
  finished = {
    'config': settings,
    'fingerprint': words.fingerprint,
    'vocab_size': words.vocab_size,
    'files': manifest(folder / 'tokenizer'),
    'length': settings['length'],
    'sources': report,
  }
  write_json(folder / 'tokenize.json', finished)
  print_summary(str(folder), finished)


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


def _pack_source(
  folder: Path,
  tokenizer: Tokenizer,
  streams: Iterable[Stream],
  settings: Mapping[str, Any],
  threads: int | None,
  progress: Progress,
  is_there: Callable[[], None],
) -> dict[str, dict[str, Any]]:
  """Writes the missing shards of one source; returns split -> its row of the summary."""
  shards: dict[str, list[dict[str, int]]] = {'train': [], 'validation': []}
  for stream in streams:
    for split, texts in _batches(stream, settings['shard_documents']):
      number = len(shards[split])
      size = sum(len(text.encode()) for text in texts)
      counts = packed.read_shard(folder / split, number)
      if counts is None:
        is_there()
        counts = _write_shard(folder / split, number, tokenizer, texts, size, settings, threads)
      elif (counts['documents'], counts['bytes']) != (len(texts), size):
        raise BadInput(
          f'{folder / split}: the text of shard {number} changed since it was packed; '
          'use another workdir, or delete this one'
        )
      shards[split].append(counts)
      progress.add(f'{folder.name} {split}', len(texts), size)
  if not shards['train']:
    raise BadInput(
      f'sources.{folder.name}: no training documents in {settings["sources"][folder.name]!r}; '
      'give it more text, or another validation_fraction'
    )
  around = len(tokenizer.begin) + 1
  return {split: _totals(counts, settings['length'], around) for split, counts in shards.items()}


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
  folder: Path,
  number: int,
  tokenizer: Tokenizer,
  texts: list[str],
  size: int,
  settings: Mapping[str, Any],
  threads: int | None,
) -> dict[str, int]:
  tokens_T, lengths_D = _encode(tokenizer, texts, threads)
  length = settings['length']
  pieces = packed.PACKINGS[settings['pack']](lengths_D, length)
  tokens_RL, segment_RL = packed.fill(tokens_T, lengths_D, pieces, length, pad=tokenizer.pad_id)
  counts = {
    'documents': len(texts),
    'bytes': size,
    'tokens': len(tokens_T),
    'rows': len(tokens_RL),
  }
  packed.write_shard(folder, number, tokens_RL, segment_RL, counts)
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

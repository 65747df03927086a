"""Text into packed rows of tokens: trains a tokenizer, encodes every source, writes shards.

What it leaves in `workdir`: `config.json` (as soon as text and options proved good), `tokenizer/`,
`<source>/<split>/` with the shards of `llm_jax.data.packed`, and `tokenize.json` (at the end: only
then it is finished).
Killed and started again it goes on after the last finished shard, with the same bytes as a result.
"""

import hashlib
import itertools
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from llm_jax import artifact
from llm_jax.data import packed
from llm_jax.data.sources import open_source
from llm_jax.find import call
from llm_jax.options import suggest
from llm_jax.parallel.mesh import on_one_host
from llm_jax.text.tokenizer import Tokenizer, check_unicode
from llm_jax.training.checkpoint import write_json
from llm_jax.types import BadInput

# Characters encoded at once: enough to keep the threads busy, few enough to keep the lists small.
_SLICE = 1 << 20
_SECONDS_BETWEEN_LINES = 10


def main(config: Any) -> None:
  """Runs `tokenize`; its keywords are the fields of `config` besides `job` and `requires`.

  Raises:
    BadInput: as `tokenize`, or an unknown field.
  """
  options = {k: v for k, v in config.to_dict().items() if k not in ('job', 'requires')}
  on_one_host(lambda: call(tokenize, options, where='tokenize'))


def tokenize(
  *,
  workdir: str = '',
  sources: Mapping[str, str] | None = None,
  validation: Mapping[str, str] | None = None,
  validation_fraction: float = 0.01,
  tokenizer: Mapping[str, Any] | None = None,
  length: int = 256,
  pack: str = 'best_fit',
  shard_documents: int = 10_000,
  seed: int = 0,
  threads: int | None = None,
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
    tokenizer: keywords of `Tokenizer.train`, or `path`: the folder of a tokenizer to use again.
    length: L, tokens of a row.
    pack: 'best_fit' (documents stay whole where they fit) or 'split' (no padding).
    shard_documents: documents of a shard.
    seed: of the tokenizer's sample and of the hash.
    threads: cores to encode on, by default all; the result does not depend on it.

  Raises:
    BadInput: an option that cannot work, a workdir made by another config, or a source without
      documents.
  """
  settings = {
    'sources': dict(sources or {}),
    'validation': {name: spec for name, spec in (validation or {}).items() if spec},
    'validation_fraction': validation_fraction,
    'tokenizer': dict(tokenizer or {}),
    'length': length,
    'pack': pack,
    'shard_documents': shard_documents,
    'seed': seed,
  }
  _check(workdir, settings)
  folder = Path(workdir)
  known = artifact.holds(folder, settings)
  if (folder / 'tokenize.json').is_file():
    print(f'tokenize: {workdir} is finished already')
    return
  streams = _streams(settings)
  if known and (folder / 'tokenizer' / 'tokenizer.model').is_file():
    words = Tokenizer.load(folder / 'tokenizer')
  else:
    words = _new_tokenizer(streams, settings)
    # Recorded only now, so that what was wrong with text or options can be corrected in place.
    artifact.claim(folder, settings)
    words.save(folder / 'tokenizer')
  progress = _Progress()
  report = {
    name: _pack_source(folder / name, words, group, settings, threads, progress)
    for name, group in itertools.groupby(streams, key=lambda stream: stream.source)
  }
  progress.close()
  finished = {
    'config': settings,
    'fingerprint': words.fingerprint,
    'vocab_size': words.vocab_size,
    'length': length,
    'sources': report,
  }
  write_json(folder / 'tokenize.json', finished)
  _print_summary(workdir, finished)


def _check(workdir: str, settings: Mapping[str, Any]) -> None:
  if not workdir:
    raise BadInput('workdir is missing; set config.workdir, such as runs/tiny/tokenize')
  if not settings['sources']:
    raise BadInput("sources is empty; set for example config.sources.mine = 'my/*.jsonl'")
  for name in settings['sources']:
    if not re.fullmatch(r'[\w-]+', name) or name == 'tokenizer':
      raise BadInput(
        f'sources: {name!r} cannot be a folder here; use letters, digits, - and _, '
        "and not 'tokenizer'"
      )
  for name in settings['validation']:
    if name not in settings['sources']:
      raise BadInput(f'validation: no source {name!r}; {suggest(name, list(settings["sources"]))}')
  if settings['pack'] not in packed.PACKINGS:
    raise BadInput(
      f'pack: no {settings["pack"]!r}; {suggest(settings["pack"], list(packed.PACKINGS))}'
    )
  if settings['length'] < 2:
    raise BadInput(f'length {settings["length"]} leaves nothing to predict; use 2 or more')
  if settings['shard_documents'] < 1:
    raise BadInput(f'shard_documents {settings["shard_documents"]}: use 1 or more')
  if not 0 <= settings['validation_fraction'] < 1:
    raise BadInput(
      f'validation_fraction {settings["validation_fraction"]}: use a share from 0 up to below 1'
    )


class _Stream(NamedTuple):
  """Documents of one source, and the split that each belongs to."""

  source: str
  documents: Iterable[str]
  split_of: Callable[[str], str]


def _streams(settings: Mapping[str, Any]) -> list[_Stream]:
  streams = []
  for name, spec in sorted(settings['sources'].items()):
    documents = open_source(spec, split='train')
    if name in settings['validation'] or documents.has_splits:
      held_out = _held_out(settings['validation'].get(name, spec))
      streams.append(_Stream(name, documents, lambda text: 'train'))
      streams.append(_Stream(name, held_out, lambda text: 'validation'))
    else:
      split_of = _hash_split(settings['validation_fraction'], settings['seed'])
      streams.append(_Stream(name, documents, split_of))
  return streams


def _held_out(spec: str) -> Iterable[str]:
  """The validation split of a source; all of it where it has none."""
  documents = open_source(spec, split='train')
  return open_source(spec, split='validation') if documents.has_splits else documents


def _documents(stream: _Stream) -> Iterator[str]:
  """The documents of a stream that have any text."""
  for i, text in enumerate(stream.documents):
    check_unicode(text, f'sources.{stream.source}, document {i}')
    if text:
      yield text


def _hash_split(fraction: float, seed: int) -> Callable[[str], str]:
  """Copies of a document always land in the same split."""
  key = str(seed).encode()

  def split_of(text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=key).digest()
    return 'validation' if int.from_bytes(digest, 'big') < fraction * 2**64 else 'train'

  return split_of


def _new_tokenizer(streams: Iterable[_Stream], settings: Mapping[str, Any]) -> Tokenizer:
  """Trained on the train split of every source, or the one that `tokenizer.path` names."""
  options = settings['tokenizer']
  if 'path' in options:
    if others := sorted(options.keys() - {'path'}):
      raise BadInput(
        f'tokenizer.{others[0]} is of no use with tokenizer.path, which is trained already; '
        'drop one of them'
      )
    return Tokenizer.load(options['path'])
  texts = (
    text for stream in streams for text in _documents(stream) if stream.split_of(text) == 'train'
  )
  start = time.monotonic()
  tokenizer = call(Tokenizer.train, options, texts, where='tokenizer', seed=settings['seed'])
  print(f'tokenize: trained a vocabulary of {tokenizer.vocab_size} in {_since(start):.1f} s')
  return tokenizer


def _since(start: float) -> float:
  return time.monotonic() - start


def _pack_source(
  folder: Path,
  tokenizer: Tokenizer,
  streams: Iterable[_Stream],
  settings: Mapping[str, Any],
  threads: int | None,
  progress: '_Progress',
) -> dict[str, dict[str, Any]]:
  """Writes the missing shards of one source; returns split -> its row of the summary."""
  shards: dict[str, list[dict[str, int]]] = {'train': [], 'validation': []}
  for stream in streams:
    for split, texts in _batches(stream, settings['shard_documents']):
      number = len(shards[split])
      size = sum(len(text.encode()) for text in texts)
      counts = packed.read_shard(folder / split, number)
      if counts is None:
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
  return {split: _totals(counts, settings['length']) for split, counts in shards.items()}


def _batches(stream: _Stream, shard_documents: int) -> Iterator[tuple[str, list[str]]]:
  """(split, documents) of one shard after the other."""
  waiting: dict[str, list[str]] = {'train': [], 'validation': []}
  for text in _documents(stream):
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
  """tokens_T and lengths_D of the documents, each as bos + text + eos."""
  bos, eos = tokenizer.bos_id, tokenizer.eos_id
  arrays, lengths = [], []
  for some in _slices(texts):
    ids = [[bos, *document, eos] for document in tokenizer.encode_batch(some, threads)]
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


def _totals(shards: list[dict[str, int]], length: int) -> dict[str, Any]:
  """Sums over shards; `bytes_per_token` leaves out bos and eos, `padding` is a share of 0 to 1."""
  names = ('documents', 'bytes', 'tokens', 'rows')
  total: dict[str, Any] = {name: sum(shard[name] for shard in shards) for name in names}
  text_tokens = total['tokens'] - 2 * total['documents']
  total['bytes_per_token'] = round(total['bytes'] / max(text_tokens, 1), 4)
  total['padding'] = round(1 - total['tokens'] / max(total['rows'] * length, 1), 6) if shards else 0
  total['shard_rows'] = [shard['rows'] for shard in shards]
  return total


class _Progress:
  """A bar on a terminal; elsewhere a plain line now and then."""

  def __init__(self):
    self._bar = tqdm(unit='B', unit_scale=True, disable=None, file=sys.stderr, leave=False)
    self._start = self._told = time.monotonic()
    self._documents = self._bytes = 0

  def add(self, what: str, documents: int, size: int) -> None:
    self._documents += documents
    self._bytes += size
    self._bar.set_description(what)
    self._bar.update(size)
    if self._bar.disable and _since(self._told) > _SECONDS_BETWEEN_LINES:
      self._told = time.monotonic()
      speed = self._bytes / _since(self._start)
      print(
        f'tokenize: {what}, {self._documents:,} documents, {_megabytes(self._bytes)}, '
        f'{_megabytes(speed)}/s',
        flush=True,
      )

  def close(self) -> None:
    self._bar.close()


def _megabytes(size: float) -> str:
  return f'{size / 1e6:,.1f} MB'


def _print_summary(workdir: str, finished: Mapping[str, Any]) -> None:
  heads = ('source', 'split', 'documents', 'size', 'tokens', 'rows', 'bytes/token', 'padding')
  lines = [heads] + [
    (
      name,
      split,
      f'{t["documents"]:,}',
      _megabytes(t['bytes']),
      f'{t["tokens"]:,}',
      f'{t["rows"]:,}',
      f'{t["bytes_per_token"]:.2f}',
      f'{t["padding"]:.1%}',
    )
    for name, splits in finished['sources'].items()
    for split, t in splits.items()
  ]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  print(f'tokenize: {workdir}, vocabulary {finished["vocab_size"]}, rows of {finished["length"]}')
  for line in lines:
    left = [word.ljust(width) for word, width in zip(line[:2], widths[:2], strict=True)]
    right = [word.rjust(width) for word, width in zip(line[2:], widths[2:], strict=True)]
    print('  ' + '  '.join(left + right))

"""Text into packed rows of tokens: trains a tokenizer, encodes every source, writes shards.

What it leaves in `workdir`: `config.json` (as soon as text and options proved good), `tokenizer/`,
`<source>/<split>/` with the shards of `llm_jax.data.packed`, and `tokenize.json` (at the end: only
then it is finished).
Killed and started again it makes the shards that are missing, with the same bytes as a result.
Several processes may share the folder: each reads all text and encodes every n-th shard of it.
"""

import dataclasses
import inspect
import itertools
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from llm_jax import run_folder, storage
from llm_jax.data.splits import Stream, documents, open_streams
from llm_jax.files import manifest, write_json
from llm_jax.find import call
from llm_jax.jobs.corpus_report import print_summary
from llm_jax.jobs.packing import MAKING, Packing
from llm_jax.jobs.shards import Shard, shard_of
from llm_jax.lock import locked
from llm_jax.options import Count, Place, Seed, at_least, suggest
from llm_jax.options import check as check_options
from llm_jax.parallel.hosts import on_one_host
from llm_jax.store import Lost
from llm_jax.text import folder as tokenizers
from llm_jax.text import tokenizer as own
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, Tokenizer


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
  settings = _settings(
    sources, validation, validation_fraction, tokenizer, length, pack, shard_documents, seed
  )
  folder, part = Path(workdir), shard_of(shard)
  run_folder.holds(folder, settings)
  if (folder / 'tokenize.json').is_file():
    say(f'tokenize: {workdir} is finished already')
  elif part.count > 1:
    _tokenize(folder, settings, part, threads, lambda: _check_there(folder))
  else:
    with locked(folder) as is_there:
      _tokenize(folder, settings, part, threads, is_there)


def agrees(config: Any) -> None:
  """Whether the folder of a config, which another command fills, is filled as the config says.

  Raises:
    BadInput: it was begun with other options, which the message names.
  """
  given = _given(config)
  fields = inspect.signature(_settings).parameters
  defaults = inspect.signature(tokenize).parameters
  run_folder.holds(
    given['workdir'], _settings(*(given.get(name, defaults[name].default) for name in fields))
  )


def _settings(
  sources: Mapping[str, str],
  validation: Mapping[str, str] | None,
  validation_fraction: float,
  tokenizer: Mapping[str, Any] | None,
  length: int,
  pack: str,
  shard_documents: int,
  seed: int,
) -> dict[str, Any]:
  """What the content of a folder depends on, as its config.json has it."""
  return {
    'sources': dict(sources),
    'validation': {name: spec for name, spec in (validation or {}).items() if spec},
    'validation_fraction': validation_fraction,
    'tokenizer': dict(tokenizer or {}),
    'length': length,
    'pack': pack,
    'shard_documents': shard_documents,
    'seed': seed,
  }


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
  packing = Packing(folder, words, settings, part, threads, is_there)
  for name, group in itertools.groupby(streams, key=lambda stream: stream.source):
    packing.add(name, [*group][::-1])  # what is held out first, for training that begins meanwhile
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
    for killed in folder.glob(f'*/*/{MAKING}*'):
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

"""Documents of several text sources, each with the split that it belongs to."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from llm_jax.data.sources import open_source
from llm_jax.text.tokenizer import check_unicode


class Stream(NamedTuple):
  """Documents of one source, and the split that each belongs to."""

  source: str
  documents: Iterable[str]
  split_of: Callable[[str], str]


def open_streams(
  sources: Mapping[str, str], validation: Mapping[str, str], *, fraction: float, seed: int
) -> list[Stream]:
  """One or two streams a source, sorted by name: a validation split of its own is the second.

  A source of one document, such as a novel in a .txt file, is cut: its end is held out.

  Args:
    sources: name -> what `open_source` reads.
    validation: name -> what to read for the validation split of that source.
    fraction: of the documents of a source without such a split, those that a hash sends there.
    seed: of the hash.

  Raises:
    BadInput: a source that cannot be read.
  """
  streams = []
  for name, spec in sorted(sources.items()):
    found = open_source(spec, split='train')
    if name in validation or found.has_splits:
      held_out = _held_out(validation.get(name, spec))
      streams.append(Stream(name, found, lambda text: 'train'))
      streams.append(Stream(name, held_out, lambda text: 'validation'))
    elif parts := _cut([*itertools.islice(found, 2)], fraction):
      streams.append(Stream(name, parts[:1], lambda text: 'train'))
      streams.append(Stream(name, parts[1:], lambda text: 'validation'))
    else:
      streams.append(Stream(name, found, hash_split(fraction, seed)))
  return streams


def _held_out(spec: str) -> Iterable[str]:
  """The validation split of a source; all of it where it has none."""
  found = open_source(spec, split='train')
  return open_source(spec, split='validation') if found.has_splits else found


def _cut(first: list[str], fraction: float) -> list[str]:
  r"""The only document of a source, and its last `fraction`, from a line's beginning on.

  Empty where there are more documents, or the document cannot be cut.

  >>> _cut(['One.\nTwo.\nThree.\nFour.\n'], 0.3)
  ['One.\nTwo.\nThree.\n', 'Four.\n']
  """
  if len(first) != 1 or fraction <= 0:
    return []
  (text,) = first
  at = text.find('\n', int(len(text) * (1 - fraction))) + 1
  parts = [text[:at], text[at:]]
  return parts if all(map(str.strip, parts)) else []


def documents(stream: Stream) -> Iterator[str]:
  """The documents of a stream that have any text.

  Raises:
    BadInput: text that is no Unicode, naming source and document.
  """
  for i, text in enumerate(stream.documents):
    check_unicode(text, f'sources.{stream.source}, document {i}')
    if text:
      yield text


def hash_split(fraction: float, seed: int) -> Callable[[str], str]:
  """The split of a document by its text, so that copies always land in the same one.

  >>> split_of = hash_split(0.5, seed=0)
  >>> [split_of(text) for text in ('f', 'g', 'g')]
  ['train', 'validation', 'validation']
  """
  key = str(seed).encode()

  def split_of(text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=key).digest()
    return 'validation' if int.from_bytes(digest, 'big') < fraction * 2**64 else 'train'

  return split_of

"""Pages on disk between two passes: blocks of JSON lines, with the fate of each page so far."""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from llm_jax.clean.extra import library
from llm_jax.clean.page import Fate, Page, Signatures, Split
from llm_jax.files import replacing
from llm_jax.types import BadInput

LEVEL = 3


def write(path: Path, data: bytes) -> None:
  """Writes a file whole or not at all."""
  with replacing(path) as file:
    file.write(data)


def zstandard() -> ModuleType:
  """The library of the extra `clean` that blocks are compressed with.

  Raises:
    BadInput: it is not installed.
  """
  return library('zstandard', 'job clean')


def compressed(data: bytes) -> bytes:
  """One frame of Zstandard with a checksum; files made of several are read as one."""
  return zstandard().ZstdCompressor(level=LEVEL, write_checksum=True).compress(data)


def line(fate: Fate, **more: str) -> bytes:
  """A page with its fate, as it is stored, behind what else is to be told of it."""
  page = fate.page
  told: dict[str, Any] = {**more, 'url': page.url, 'text': page.text}
  told |= {'meta': dict(page.meta), 'values': dict(fate.values)}
  if fate.step:
    told |= {'step': fate.step, 'reason': fate.reason}
  elif page.body and not page.text:  # what is to be extracted in a later pass
    told['body'] = page.body.decode('latin-1')
  return json_text(told)


def json_text(value: Any) -> bytes:
  """A value as a line of JSON."""
  return json.dumps(value, ensure_ascii=False).encode('utf-8', 'replace') + b'\n'


def read(place: Path | bytes, split: Split) -> Iterator[Fate]:
  """The pages of a block, in order; see `lines`."""
  for told in lines(place):
    body = told.get('body', '').encode('latin-1')
    page = Page(told['url'], told['text'], split, body, told['meta'])
    yield Fate(page, told.get('step', ''), told.get('reason', ''), told['values'])


def lines(place: Path | bytes) -> Iterator[Any]:
  """The value of every line of what `compressed` made, which may be in a file.

  Raises:
    BadInput: it is damaged.
  """
  zstd = zstandard()
  try:
    with io.BytesIO(place) if isinstance(place, bytes) else place.open('rb') as file:
      data = zstd.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    found = [json.loads(text) for text in data.decode().split('\n')[:-1]]
  except (zstd.ZstdError, ValueError) as error:
    raise BadInput(
      f'{"a block" if isinstance(place, bytes) else place} is damaged ({error}); delete it, and '
      'give the same command again'
    ) from None
  yield from found


def write_signatures(path: Path, signed: Mapping[int, np.ndarray]) -> None:
  """Writes what a step over all pages noted of pages, by their place in the block."""
  found = Signatures.of(signed)
  buffer = io.BytesIO()
  np.savez(buffer, flat=found.flat, starts=found.starts, positions=found.positions)
  with replacing(path) as file:
    file.write(buffer.getvalue())


def read_signatures(files: Iterable[tuple[int, Path]]) -> Signatures:
  """Those of several blocks in one; each has the position of its first page.

  Raises:
    BadInput: a file is damaged.
  """

  def read() -> Iterator[tuple[int, Signatures]]:
    for first, path in files:
      try:
        with np.load(path, allow_pickle=False) as found:
          yield first, Signatures(found['flat'], found['starts'], found['positions'])
      except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(
          f'{path} is damaged ({error}); delete it, and give the same command again'
        ) from None

  return together(read())


def together(some: Iterable[tuple[int, Signatures]]) -> Signatures:
  """The signatures of several blocks in one.

  Args:
    some: position of the first page of a block, ascending; and its signatures by place.
  """
  flats, sizes, positions = [], [], [np.zeros(0, np.int64)]
  for first, found in some:
    if len(found):
      flats.append(found.flat)
      sizes.append(np.diff(found.starts))
      positions.append(found.positions + first)
  starts = np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes]))
  flat = np.concatenate(flats) if flats else np.zeros(0, np.uint64)
  return Signatures(flat, starts, np.concatenate(positions))

"""Bytes and lines of files, which may be compressed with gzip or zstd."""

import contextlib
import gzip
import importlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from llm_jax.types import BadInput

SUFFIXES = ('.gz', '.zst')
# What is imported to read a file with a suffix, from the extra `data`.
EXTRAS = {'.parquet': 'pyarrow', '.arrow': 'pyarrow', '.zst': 'zstandard'}


def extra(suffix: str, path: str) -> ModuleType:
  """The package that reads files with a suffix.

  Raises:
    BadInput: it is missing; the message names the extra that brings it.
  """
  package = EXTRAS[suffix]
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise BadInput(
      f"{path}: reading {suffix} needs {package}; pip install 'llm_jax[data]'"
    ) from error


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes] | io.BufferedIOBase]:
  """The bytes of a file, decompressed; an error while they are read names the file."""
  broken: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
  try:
    with open(path, 'rb') as raw:
      match Path(path).suffix.lower():
        case '.gz':
          with gzip.open(raw) as unzipped:
            yield unzipped
        case '.zst':
          zstandard = extra('.zst', path)
          broken += (zstandard.ZstdError,)
          yield io.BufferedReader(_Zstd(raw, zstandard))
        case _:
          yield raw
  except broken as error:
    raise BadInput(f'{path}: broken compression ({error}); make the file anew') from error


class _Zstd(io.RawIOBase):
  """Decompressed bytes of a .zst file of one or more frames.

  The reader of zstandard does not notice that a file is incomplete; this one raises EOFError.
  """

  def __init__(self, raw: IO[bytes], zstandard: ModuleType):
    self._new_frame = zstandard.ZstdDecompressor().decompressobj
    self._chunks = self._decompress(raw)
    self._left = b''

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    while not self._left:
      try:
        self._left = next(self._chunks)
      except StopIteration:
        return 0
    size = min(len(buffer), len(self._left))
    buffer[:size], self._left = self._left[:size], self._left[size:]
    return size

  def _decompress(self, raw: IO[bytes]) -> Iterator[bytes]:
    frame = self._new_frame()
    while data := raw.read(1 << 17):
      while data:
        if frame.eof:
          frame = self._new_frame()
        yield frame.decompress(data)
        data = frame.unused_data
    if not frame.eof:
      raise EOFError('the file ends in the middle')


def lines(path: str) -> Iterator[tuple[int, str]]:
  """Number, from 1, and text of every line."""
  with opened(path) as stream:
    for number, line in enumerate(stream, 1):
      try:
        yield number, line.decode('utf-8-sig' if number == 1 else 'utf-8')
      except UnicodeDecodeError as error:
        raise BadInput(
          f'{path}, line {number}: byte {error.start + 1} is not UTF-8 ({error.reason}); convert '
          'the file with iconv -t utf-8'
        ) from error

"""Compressed bytes of strangers: streams that end where they are damaged, and bounded payloads."""

import gzip
import io
import zlib
from typing import Any, BinaryIO

from llm_jax.clean.extra import library
from llm_jax.types import BadInput

_GZIP, _ZSTD = b'\x1f\x8b', b'\x28\xb5\x2f\xfd'


class TooLarge(ValueError):
  """A payload is larger than it may be."""


class Broken(ValueError):
  """A payload is not in the encoding that it claims."""


class Stream(io.RawIOBase):
  """The bytes of a file, decompressed where its first bytes are those of gzip or Zstandard.

  A file that is cut off or damaged ends there, after all bytes that can be had, and `broken` says
  so. Little is held at a time, however far the file expands.
  """

  def __init__(self, file: BinaryIO):
    source = io.BufferedReader(_Raw(file), 1 << 16)
    start = source.peek(4)[:4]
    self.broken = False
    self._errors: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    if start[:2] == _GZIP:
      self._read = gzip.GzipFile(fileobj=source).read1
    elif start == _ZSTD:
      zstandard = library('zstandard', 'reading .zst')
      self._errors = (zstandard.ZstdError,)
      self._read = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True).read
    else:
      self._read = source.read1

  def readable(self) -> bool:
    """Always."""
    return True

  def readinto(self, buffer: Any) -> int:
    """As of `io.RawIOBase`."""
    if self.broken:
      return 0
    try:
      data = self._read(len(buffer))
    except self._errors:
      self.broken = True
      return 0
    buffer[: len(data)] = data
    return len(data)


class _Raw(io.RawIOBase):
  """Any open binary file, as `io.BufferedReader` wants it; closing it leaves the file open."""

  def __init__(self, file: BinaryIO):
    self._file = file

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    data = self._file.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)


def payload(data: bytes, encodings: str, limit: int) -> bytes:
  """A body as a Content-Encoding of HTTP describes it, decoded; what is cut off stays cut off.

  A body that says gzip and does not begin so is taken as it is, since many archives store bodies
  decoded and keep the header.

  Raises:
    Broken: an encoding that nobody knows, more than three of them, or bytes that are not in it.
    TooLarge: more than `limit` bytes.

  >>> payload(zlib.compress(b'a'), 'deflate', 9), payload(b'a', 'gzip', 9)
  (b'a', b'a')
  """
  names = [name.strip().lower() for name in encodings.split(',')]
  names = [name for name in names if name not in ('', 'identity', 'none')]
  if len(names) > 3:
    raise Broken(f'{len(names)} encodings')
  for name in reversed(names):
    data = _decoded(data, name, limit)
    if len(data) > limit:
      raise TooLarge(f'over {limit} bytes')
  return data


def _decoded(data: bytes, name: str, limit: int) -> bytes:
  """At most `limit` + 1 bytes."""
  try:
    match name:
      case 'gzip' | 'x-gzip':
        return _inflated(data, 31, limit) if data[:2] == _GZIP else data
      case 'deflate':  # zlib by the standard, and without its header as some servers send it
        zlib_header = data[:1] and data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0
        return _inflated(data, 15 if zlib_header else -15, limit)
      case 'br':
        decoder = library('brotli', "content encoding 'br'").Decompressor()
        return decoder.process(data, output_buffer_limit=limit + 1)
      case 'zstd':
        zstandard = library('zstandard', "content encoding 'zstd'")
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(data)
        return reader.read(limit + 1)
  except BadInput:  # a library is missing
    raise
  except Exception as error:  # each library has its own kinds
    raise Broken(str(error)) from None
  raise Broken(f'encoding {name!r}')


def _inflated(data: bytes, wbits: int, limit: int) -> bytes:
  return zlib.decompressobj(wbits).decompress(data, limit + 1)

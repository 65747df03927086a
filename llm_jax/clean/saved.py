"""Pages out of saved HTML: files, folders, and tar archives of them."""

import glob
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, cast

from llm_jax.clean.inflate import Stream
from llm_jax.clean.page import Page, Split
from llm_jax.clean.warc import MAX_BYTES

_MAX_HEADER = 1 << 20
SUFFIXES = ('.html', '.htm', '.xhtml')
ARCHIVES = ('.tar', '.tar.gz', '.tgz', '.tar.zst')


def read(
  place: str,
  split: Split,
  counts: Counter[str],
  *,
  root: str = '',
  max_bytes: int = MAX_BYTES,
) -> Iterator[Page]:
  """The pages of a file, a folder, a glob or a tar archive, in the order of their names.

  The URL of a page is its path: inside of the archive, or relative to the folder.

  Args:
    place: a path or a glob. Of a folder the HTML files at any depth are read.
    split: from a text to its words.
    counts: kind -> how many files, or places of damage, were no page; grows while pages are read.
      The kinds are 'too_large', 'empty_body', 'not_html' (in an archive), 'broken_archive'.
    root: the folder that URLs are relative to; '' for the folder itself, or the one that a file
      is in.
    max_bytes: of a page. A larger one is passed over, not held.
  """
  place = os.path.expanduser(place)
  if os.path.isdir(place):
    inside = glob.glob(os.path.join(glob.escape(place), '**'), recursive=True)
    paths = [path for path in inside if path.lower().endswith(SUFFIXES) and os.path.isfile(path)]
  else:
    paths = [place] if os.path.isfile(place) else glob.glob(place, recursive=True)
  for path in sorted(paths):
    if path.lower().endswith(ARCHIVES):
      with open(path, 'rb') as file:
        yield from _archived(file, split, counts, max_bytes)
      continue
    with open(path, 'rb') as file:
      body = file.read(max_bytes + 1)
    above = root or (place if os.path.isdir(place) else os.path.dirname(path))
    yield from _page(os.path.relpath(path, above or '.'), body, split, counts, max_bytes)


def _archived(file: BinaryIO, split: Split, counts: Counter[str], max_bytes: int) -> Iterator[Page]:
  """The pages of an archive, in its order, read once from front to back; links are not followed."""
  stream = Stream(file)
  try:
    fileobj = cast(BinaryIO, stream)
    with tarfile.open(fileobj=fileobj, mode='r|', tarinfo=_Member) as tar:
      for member in tar:
        if member.isdir():
          continue
        if not member.isreg() or not member.name.lower().endswith(SUFFIXES):
          counts['not_html'] += 1
          continue
        if member.size > max_bytes:
          counts['too_large'] += 1
          continue
        held = tar.extractfile(member)
        body = held.read() if held else b''
        yield from _page(member.name.removeprefix('./'), body, split, counts, max_bytes)
  except (tarfile.TarError, EOFError, OSError, ValueError):  # tarfile raises all of them
    stream.broken = True
  if stream.broken:
    counts['broken_archive'] += 1


class _Member(tarfile.TarInfo):
  """A member whose damage is told, and whose extra headers are small enough to be held."""

  @classmethod
  def frombuf(cls, buf: bytes, encoding: str, errors: str) -> '_Member':
    try:
      member = super().frombuf(buf, encoding, errors)
    except tarfile.HeaderError as error:  # which tarfile takes for the end
      if not buf.strip(b'\0'):  # as it is
        raise
      raise tarfile.ReadError(str(error)) from None
    if not member.isfile() and member.size > _MAX_HEADER:
      raise tarfile.ReadError(f'a header of {member.size} bytes')
    return member


def _page(
  name: str, body: bytes, split: Split, counts: Counter[str], max_bytes: int
) -> Iterator[Page]:
  if len(body) > max_bytes:
    counts['too_large'] += 1
  elif not body.strip():
    counts['empty_body'] += 1
  else:
    url = name.replace(os.sep, '/').encode('utf-8', 'replace').decode()
    yield Page(url, '', split, body)

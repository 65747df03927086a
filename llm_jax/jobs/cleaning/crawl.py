"""Where the pages of job `clean` come from: files of a crawl, saved pages, records, datasets.

A source is a path, a glob or a folder. Its files are the units of work: one process reads a unit
from its beginning to its end. Small files, such as saved pages, are units of many. Where many
machines work, the files may be at a URL, and each copies what it reads.
"""

import contextlib
import glob
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llm_jax.clean import saved, warc
from llm_jax.clean.page import Page, Split
from llm_jax.data import arrow, compression, paths, sources
from llm_jax.storage import is_url, parted
from llm_jax.store import Store
from llm_jax.types import BadInput

TOGETHER = 1000  # saved pages of a unit
CRAWLS = tuple(f'.{kind}{packed}' for kind in ('warc', 'wet') for packed in ('', '.gz', '.zst'))
RECORDS = tuple(f'{kind}{packed}' for kind in paths.KINDS for packed in ('', *compression.SUFFIXES))
KNOWN = (*CRAWLS, *saved.SUFFIXES, *saved.ARCHIVES, *RECORDS)
_SHOWN = ', '.join(('.warc', '.wet', *saved.SUFFIXES, *saved.ARCHIVES, *paths.KINDS))
COLUMNS = ('text', 'url')  # of records, which may have other names: ?text=content


class Unit(NamedTuple):
  """What one process reads.

  Attributes:
    source: name of the source.
    number: its place among the units of the source.
    paths: files, maybe at a URL; or the name of a dataset.
    options: of the specification, such as 'text=content'.
    root: the folder that the names of saved pages are relative to; '' for that of each.
  """

  source: str
  number: int
  paths: tuple[str, ...]
  options: str = ''
  root: str = ''

  @property
  def name(self) -> str:
    """Of its files in the folder of the job."""
    return f'{self.source}-{self.number:05}'


def units(given: Mapping[str, str], *, urls: bool = False) -> list[Unit]:
  """The units of all sources, by name and then in the order of their paths.

  Args:
    given: source -> specification.
    urls: whether files may be at a URL; `fetched` brings them.

  Raises:
    BadInput: a source names no file, or one of a kind that nobody can read.
  """
  found: list[Unit] = []
  for source, spec in sorted(given.items()):
    if not source.replace('_', '').replace('-', '').isalnum():
      raise BadInput(f'sources: {source!r} cannot be part of a file name; use letters and digits')
    place, options = parted(spec)
    ours = place in sources.BUILTIN
    if ours or place.startswith('tfds:') or arrow.is_saved(place):
      sources.open_source(spec) if ours else sources.open_records(spec, known=COLUMNS)
      found.append(Unit(source, 0, (place,), options))
      continue
    root, files = _files(source, place, urls)
    pages = [path for path in files if path.lower().endswith(saved.SUFFIXES)]
    groups = [(path,) for path in files if not path.lower().endswith(saved.SUFFIXES)]
    groups += [tuple(pages[i : i + TOGETHER]) for i in range(0, len(pages), TOGETHER)]
    for path, *_ in groups:
      if path.lower().endswith(RECORDS) and not is_url(path):
        _opened(path, options)
    found += [Unit(source, i, group, options, root) for i, group in enumerate(sorted(groups))]
  return found


def pages(unit: Unit, split: Split, counts: Counter[str]) -> Iterator[Page]:
  """The pages of a unit in an order that never changes; what is no page is counted by its kind.

  Args:
    unit: from `units`.
    split: from a text to its words.
    counts: 'pages', and kinds of records and of damage -> how many there were; it grows while pages
      are read. The kinds are those of `clean.warc` and `clean.saved`; 'broken_line', 'no_text' and
      'too_large' of records; and 'broken_file' where a file cannot be read on.
  """
  for path in unit.paths:
    if path.lower().endswith(CRAWLS):
      read = warc.read(path, split, counts)
    elif path.lower().endswith((*saved.SUFFIXES, *saved.ARCHIVES)):
      read = saved.read(path, split, counts, root=unit.root)
    else:
      read = _documents(path, unit.options, split, counts)
    try:
      for page in read:
        counts['pages'] += 1
        yield page
    except BadInput:  # what came before is good
      counts['broken_file'] += 1


@contextlib.contextmanager
def fetched(unit: Unit) -> Iterator[Unit]:
  """The unit with its files on this machine; copies of those at a URL are deleted at the end.

  Raises:
    BadInput: a file that this machine cannot reach.
  """
  with tempfile.TemporaryDirectory() as folder:
    found: list[str] = []
    for number, path in enumerate(unit.paths):
      if is_url(path):
        inside = path.removeprefix(f'{unit.root}/') if unit.root else os.path.basename(path)
        target = Path(folder, '' if unit.root else str(number), inside)
        Store(path).get(path, target)
        path = str(target)
      elif (
        path not in sources.BUILTIN and not path.startswith('tfds:') and not os.path.exists(path)
      ):
        raise BadInput(
          f'sources.{unit.source}: {os.uname().nodename}, which works on it, does not see {path}; '
          'put it into a folder that all machines share, or name it as gs://bucket/...'
        )
      found.append(path)
    root = folder if is_url(unit.root) else unit.root
    yield unit._replace(paths=tuple(found), root=root)


def is_html(unit: Unit) -> bool:
  """Whether its pages have to be extracted."""
  html = (*saved.SUFFIXES, *saved.ARCHIVES, '.warc', '.warc.gz', '.warc.zst')
  return any(path.lower().endswith(html) for path in unit.paths)


def _documents(path: str, options: str, split: Split, counts: Counter[str]) -> Iterator[Page]:
  """A page for each document, or for each record, whose other columns become its meta."""
  for record in _opened(path, options, counts):
    if isinstance(record, str):
      record = {'text': record}
    text = record.get('text') if isinstance(record, dict) else None
    if not isinstance(text, str):
      counts['no_text'] += 1
      continue
    plain = lambda value: isinstance(value, str | int | float | bool) and value == value
    meta = {key: v for key, v in record.items() if key not in COLUMNS and plain(v)}
    url = record.get('url')
    yield Page(_unicode(url) if isinstance(url, str) else '', _unicode(text), split, meta=meta)


def _unicode(text: str) -> str:
  """The text without halves of surrogate pairs, which no file could hold."""
  return text if text.isascii() else text.encode('utf-8', 'replace').decode('utf-8')


def _opened(path: str, options: str, counts: Counter[str] | None = None) -> Iterator[Any]:
  """The texts or records of a file or a dataset.

  Without `counts` nothing is read, and what can be said of the options is said.
  """
  spec = f'{path}?{options}' if options else path
  if path in sources.BUILTIN or (os.path.isfile(path) and paths.kind(path) == '.txt'):
    return iter(sources.open_source(spec))
  found = sources.open_records(spec, known=COLUMNS)
  if counts is not None and not options and os.path.isfile(path) and paths.kind(path) == '.jsonl':
    return _lines(path, counts)
  return (record for _, record in found)


def _lines(path: str, counts: Counter[str]) -> Iterator[Any]:
  """The records of a file of JSON lines, without those that are damaged, which are counted."""
  with compression.opened(path) as stream:
    while line := stream.readline(warc.MAX_BYTES):
      if not line.endswith(b'\n') and len(line) == warc.MAX_BYTES:
        counts['too_large'] += 1
        while (line := stream.readline(warc.MAX_BYTES)) and not line.endswith(b'\n'):
          pass
        continue
      try:
        if line.strip():
          yield json.loads(line.decode('utf-8-sig'))
      except (ValueError, RecursionError):
        counts['broken_line'] += 1


def _files(source: str, place: str, urls: bool) -> tuple[str, list[str]]:
  """The folder, if it is one, and the files of a path, a glob or a folder, by their names."""
  root, found = _stored(place) if urls and is_url(place) else _local(place)
  if not found:
    raise BadInput(f'sources.{source}: {place} has no file of a known kind; known are {_SHOWN}')
  for path in found:
    if not path.lower().endswith(KNOWN):
      raise BadInput(f'sources.{source}: {path} is of no known kind; known are {_SHOWN}')
  return root, sorted(found)


def _local(place: str) -> tuple[str, list[str]]:
  place = os.path.expanduser(place)
  if os.path.isdir(place) and not os.path.isfile(os.path.join(place, 'clean.json')):
    inside = glob.glob(os.path.join(glob.escape(place), '**'), recursive=True)
    return place, [p for p in inside if p.lower().endswith(KNOWN) and os.path.isfile(p)]
  return '', paths.paths(place)


def _stored(url: str) -> tuple[str, list[str]]:
  store = Store(url)
  if set(url) & set('*?['):
    return '', store.matches()
  names = store.listed()
  if '' in names:
    return '', [url]
  root = url.rstrip('/')
  if paths.CLEANED in names:
    names = [name for name in names if name.startswith('pages/')]
  return root, [f'{root}/{name}' for name in names if name.lower().endswith(KNOWN)]

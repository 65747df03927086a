"""Where the records of a benchmark lie, and reading them.

A task names the places where people usually have its files, below one folder of all benchmarks:
those of the Hugging Face hub, the originals of its authors, and what other harnesses ship. A place
is the end of a path, `glue/rte/validation-*.parquet`, in which case does not matter:

  RTE/dev.tsv?quotes=no       options are those of data/sources.py
  rte_val.jsonl               or the same with .gz or .zst behind it
  ai2_arc/ARC-Easy            or a folder that `datasets.save_to_disk` wrote
  cola_public/raw/dev.tsv     or what lies in an archive: cola.zip/cola_public/raw/dev.tsv
  valid.jsonl+labels.lst      lines of a second file beside the first are the column `label`
  wiki.test.tokens            a text is one record with the column `text`, as any .txt and .raw
  /data/mine.jsonl            a path from the root is read as it is

The first place that is there is read, and from one folder only where several have it.
"""

import contextlib
import functools
import glob
import itertools
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from llm_jax.data import arrow
from llm_jax.data.compression import SUFFIXES, opened
from llm_jax.data.sources import open_records
from llm_jax.data.tasks.task import Item, Record, Task
from llm_jax.storage import parted
from llm_jax.types import BadInput

MOST_UNPACKED = 4 * 2**30  # bytes of the files of an archive that are read
_ORIGINALS = ('.jsonl', '.json', '.tsv', '.csv', '.txt', '.tokens', '.raw')
_TEXTS = ('.txt', '.tokens', '.raw')


class _Row(NamedTuple):
  file: str  # name without suffixes
  folder: str
  place: str  # for messages
  record: Any


def items(name: str, task: Task, split: str, path: str, most: int | None = None) -> list[Item]:
  """The questions of a split, in the order of its files, each with its key.

  The key of a question is its subject and its number there, whatever format it was read from.

  Args:
    name: of the task, for messages.
    task: it.
    split: one of `task.files`.
    path: the folder of all benchmarks; or what `data/sources.py` reads, with `{split}` where the
      name of the split stands.
    most: the first so many are read; None for all.

  Raises:
    BadInput: no such split, no such file, or a record that is no question of this task; the message
      names the file and where it usually lies.
  """
  found: list[Item] = []
  numbers: dict[str, itertools.count[int]] = {}
  rows = _rows(name, task, split, path)
  for row in _joined(rows, task) if task.join else rows:
    try:
      if not isinstance(row.record, Mapping):
        raise TypeError(f'{type(row.record).__name__} instead of an object')
      read = [*task.read({**row.record, 'file': row.file, 'folder': row.folder})]
      for item in read:
        _check(item, task)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
      why = f'no column {error}' if isinstance(error, KeyError) else error
      raise BadInput(f'{row.place}: no question of {name}: {why}') from error
    for item in read:
      number = next(numbers.setdefault(item.subject, itertools.count()))
      key = f'{item.subject}:{number}' if item.subject else str(number)
      found.append(item._replace(key=item.key or key))
    if most is not None and len(found) >= most:
      return found[:most]
  if not found:
    raise BadInput(f'{name}: the files of split {split!r} in {path} hold no question')
  return found


def _joined(rows: Iterable[_Row], task: Task) -> Iterator[_Row]:
  """What several records make together, each with the place of the last of them."""
  last: list[_Row] = []

  def records() -> Iterator[Record]:
    for row in rows:
      last[:] = [row]
      yield row.record

  assert task.join is not None
  for record in task.join(records()):
    yield last[0]._replace(record=record)


def _check(item: Item, task: Task) -> None:
  """Whether the gold answer is one of the choices, and each choice says something."""
  if not all(choice.strip() for choice in item.choices):
    raise ValueError('an answer to choose from is empty')
  golds = {'choices': lambda: [item.gold], 'several': lambda: [*item.gold]}.get(task.kind)
  count = len(item.contexts or item.choices)
  for gold in golds() if golds else ():
    if gold == -1:
      raise ValueError('its label is hidden (-1); choose a split whose labels are public')
    if not (isinstance(gold, int) and 0 <= gold < count):
      raise ValueError(f'label {gold!r} is none of its {count} choices')


# --- places ------------------------------------------------------------------------------------


class _Found(NamedTuple):
  """A file, or one in an archive.

  path: of the file, or of the archive.
  member: its name in the archive, or ''.
  """

  path: str
  member: str = ''

  @property
  def parts(self) -> tuple[str, ...]:
    return (*Path(os.path.abspath(self.path)).parts, *PurePosixPath(self.member).parts)


def _rows(name: str, task: Task, split: str, path: str) -> Iterator[_Row]:
  if split not in task.files:
    raise BadInput(f'{name}: no split {split!r}; it has: {", ".join(task.files)}')
  places, theirs = task.files[split], task.called.get(split, split)
  if own := [place for place in places if place.startswith('/')]:
    for place in own:
      yield from _of_file(place, theirs)
    return
  if is_source(path):
    yield from _of_file(path.replace('{split}', split), theirs)
    return
  folder = Path(path).expanduser()
  if not folder.exists():
    raise BadInput(f'{name}: there is no folder {path}; set config.path to that of the benchmarks')
  listed = _listed(str(folder))
  for place in places:
    where, options = parted(place)
    where, _, labels = where.partition('+')
    if found := _matching(listed, where):
      yield from _of_found(found, f'?{options}' if options else '', theirs, labels)
      return
  raise BadInput(f'{name}: no file of its split {split!r} in {path}; {_usual(task, split, listed)}')


def _usual(task: Task, split: str, listed: Sequence[_Found]) -> str:
  """Where the files of a split usually are, and what is there instead."""
  names = [parted(place)[0].partition('+')[0] for place in task.files[split]]
  others = [name for name in names if PurePosixPath(name).suffix in _ORIGINALS]
  usual = ' or '.join([names[0], *others[:2]] if others else names[:3])
  there = _splits(task, listed)
  hint = f'; there is: {", ".join(there)}' if there else ''
  broken = ''.join(f'; {one} is a broken archive' for one in _broken(listed))
  return f'it usually is {usual}{hint}{broken}'


def _splits(task: Task, listed: Sequence[_Found]) -> list[str]:
  return [
    split
    for split, places in task.files.items()
    if any(_matching(listed, parted(place)[0].partition('+')[0]) for place in places)
  ]


def splits(task: Task, path: str) -> list[str]:
  """The splits whose files lie in a folder of benchmarks; none where `path` is no folder."""
  folder = Path(path).expanduser()
  return _splits(task, _listed(str(folder))) if folder.is_dir() and not is_source(path) else []


def is_there(path: str) -> bool:
  """Whether a folder of benchmarks is there, or what else `items` reads might be."""
  place = os.path.expanduser(parted(path)[0])
  return '{split}' in path or ':' in path or glob.has_magic(place) or os.path.exists(place)


def is_source(path: str) -> bool:
  """Whether it is the files of one benchmark, and no folder of many."""
  if '{split}' in path or path.startswith('tfds:'):
    return True
  place = os.path.expanduser(parted(path)[0])
  if os.path.isdir(place) or place.endswith('.zip'):
    return arrow.is_saved(place)
  return os.path.exists(place) or glob.has_magic(place) or '.' in os.path.basename(place)


def _listed(folder: str) -> list[_Found]:
  """All files below a folder, with those in archives; a dataset that was saved counts as one."""
  if folder.endswith('.zip'):
    return [*_members(folder)]
  found: list[_Found] = []
  seen = set()
  for at, folders, names in os.walk(folder, followlinks=True):
    if (real := os.path.realpath(at)) in seen:
      folders.clear()
      continue
    seen.add(real)
    if arrow.is_saved(at):
      found.append(_Found(at))
      folders.clear()
      continue
    for one in names:
      file = os.path.join(at, one)
      found.append(_Found(file))
      if one.endswith('.zip'):
        found.extend(_members(file))
  return sorted(found)


def _members(archive: str) -> Iterator[_Found]:
  with contextlib.suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(archive) as opened_zip:
    yield from [_Found(archive, one.filename) for one in opened_zip.infolist() if not one.is_dir()]


def _broken(listed: Iterable[_Found]) -> list[str]:
  archives = {one.path for one in listed if one.path.endswith('.zip')}
  return [path for path in sorted(archives) if not zipfile.is_zipfile(path)]


def _matching(listed: Sequence[_Found], place: str) -> list[_Found]:
  """Files whose paths end like that, of the first folder that has some; none of them twice."""
  wanted = [part.lower() for part in place.split('/')]
  inner = len(wanted) - _of_version(
    wanted
  )  # parts of a path that files of one version may differ in
  by_root: dict[tuple[int, tuple[str, ...]], dict[tuple[str, ...], _Found]] = {}
  for one in listed:
    parts = one.parts
    ends = [part.lower() for part in parts[-len(wanted) :]]
    if ends:
      ends[-1] = _plain(ends[-1])
    if len(ends) == len(wanted) and all(map(fnmatchcase, ends, wanted)):
      root = parts[:-inner]
      by_root.setdefault((len(root), root), {}).setdefault((*parts[:-1], ends[-1]), one)
  return [*by_root[min(by_root)].values()] if by_root else []


def _of_version(wanted: Sequence[str]) -> int:
  """How many parts of a place one version of a dataset has in common, in caches of the hub.

  >>> _of_version(['*--mmlu', 'snapshots', '*', '*', 'test-*.parquet'])
  3
  >>> _of_version(['glue', 'rte', '*', '*', '*-train.arrow']), _of_version(['rte', 'dev.tsv'])
  (4, 0)
  """
  if wanted[-1].endswith('.arrow'):
    return len(wanted) - 1
  return wanted.index('snapshots') + 2 if 'snapshots' in wanted else 0


def _plain(name: str) -> str:
  """A name without the suffix of its compression."""
  return re.sub('|'.join(f'{re.escape(suffix)}$' for suffix in SUFFIXES), '', name)


# --- records -----------------------------------------------------------------------------------


def _of_found(found: Sequence[_Found], options: str, split: str, labels: str) -> Iterator[_Row]:
  by_archive = itertools.groupby(found, lambda one: one.path if one.member else '')
  for archive, some in by_archive:
    if archive:
      yield from _of_archive(archive, [one.member for one in some], options, split, labels)
    for one in some:
      yield from _of_file(f'{one.path}{options}', split, labels)


def _of_archive(
  archive: str, members: Sequence[str], options: str, split: str, labels: str
) -> Iterator[_Row]:
  try:
    with zipfile.ZipFile(archive) as packed, tempfile.TemporaryDirectory() as folder:
      if sum(packed.getinfo(one).file_size for one in members) > MOST_UNPACKED:
        raise BadInput(f'{archive}: would unpack to more than {MOST_UNPACKED >> 30} GiB')
      for member in members:
        where = PurePosixPath(member)
        at = Path(folder, where.parent.name)
        at.mkdir(exist_ok=True)
        for one in (where, where.with_name(labels)) if labels else (where,):
          try:
            (at / one.name).write_bytes(packed.read(str(one)))
          except KeyError:
            raise BadInput(f'{archive}: {one} has to lie in it, beside {where.name}') from None
        for row in _of_file(f'{at / where.name}{options}', split, labels):
          yield row._replace(place=row.place.replace(folder, archive))
        (at / where.name).unlink()
  except (zipfile.BadZipFile, RuntimeError) as error:
    raise BadInput(f'{archive}: a broken archive ({error}); fetch it anew') from error


def _of_file(spec: str, split: str, labels: str = '') -> Iterator[_Row]:
  path = PurePosixPath(parted(spec)[0])
  row = functools.partial(_Row, path.name.partition('.')[0], path.parent.name)
  if PurePosixPath(_plain(path.name.lower())).suffix in _TEXTS:
    yield row(str(path), {'text': _text(str(path))})
    return
  records = iter(open_records(spec, split=split))
  if not labels:
    for place, record in records:
      yield row(place, record)
    return
  beside = [path.with_name(f'{labels}{suffix}') for suffix in ('', *SUFFIXES)]
  there = [str(file) for file in beside if os.path.isfile(file)]
  if not there:
    raise BadInput(f'{path}: {labels} has to lie beside it; it holds the labels')
  lines = _text(there[0]).split()
  for one, line in itertools.zip_longest(records, lines):
    if one is None or line is None:
      raise BadInput(f'{there[0]}: {len(lines)} labels, but {path.name} has not as many records')
    place, record = one
    yield row(place, {**record, 'label': line} if isinstance(record, Mapping) else record)


def _text(path: str) -> str:
  try:
    with opened(path) as file:
      return file.read().decode('utf-8-sig')
  except FileNotFoundError:
    raise BadInput(f'{path}: there is no such file') from None
  except UnicodeDecodeError as error:
    raise BadInput(f'{path}: no text in UTF-8 ({error.reason})') from error

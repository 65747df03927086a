"""Where the records of a benchmark lie, and reading them.

A task names the places where people usually have its files, below one folder of all benchmarks:
those of the Hugging Face hub, the originals of its authors, and what other harnesses ship. A place
is what `data/sources.py` reads; `archive.zip!part/*.csv` means files of an archive.
"""

import fnmatch
import glob
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from llm_jax.data.sources import open_records
from llm_jax.data.tasks.task import Item, Task
from llm_jax.storage import parted
from llm_jax.types import BadInput

MOST_UNPACKED = 4 * 2**30  # bytes of the files of an archive that are read


def items(name: str, task: Task, split: str, path: str) -> list[Item]:
  """The questions of a split, in the order of its files, each with its key.

  Args:
    name: of the task, for messages.
    task: it.
    split: one of `task.files`.
    path: the folder of all benchmarks; or what `data/sources.py` reads, with `{split}` where the
      name of the split stands.

  Raises:
    BadInput: no such split, no such file, or a record that is no question of this task; the message
      names the file and where it usually lies.
  """
  found: list[Item] = []
  for stem, number, place, record in _records(name, task, split, path):
    try:
      if not isinstance(record, Mapping):
        raise TypeError(f'{type(record).__name__} instead of an object')
      read = [*task.read({**record, 'file': stem})]
      for item in read:
        _check(item, task)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
      why = f'no column {error}' if isinstance(error, KeyError) else error
      raise BadInput(f'{place}: no question of {name}: {why}') from error
    for i, item in enumerate(read):
      part = f'.{i}' if len(read) > 1 else ''
      found.append(item._replace(key=item.key or f'{stem}:{number}{part}'))
  if not found:
    raise BadInput(f'{name}: the files of split {split!r} in {path} hold no question')
  return found


def _check(item: Item, task: Task) -> None:
  """Whether the gold answer is one of the choices, and each choice says something."""
  if not all(choice.strip() for choice in item.choices):
    raise ValueError('an answer to choose from is empty')
  golds = {'choices': lambda: [item.gold], 'several': lambda: [*item.gold]}.get(task.kind)
  for gold in golds() if golds else ():
    if not (isinstance(gold, int) and 0 <= gold < len(item.choices or item.contexts)):
      raise ValueError(f'label {gold!r} is none of its {len(item.choices)} choices')


def _records(
  name: str, task: Task, split: str, path: str
) -> Iterator[tuple[str, int, str, object]]:
  """(name of the file, number in it, place for messages, record)."""
  if split not in task.files:
    raise BadInput(f'{name}: no split {split!r}; it has: {", ".join(task.files)}')
  if is_source(path):
    yield from _of_source(path.replace('{split}', split), split)
    return
  folder = Path(path).expanduser()
  if not folder.is_dir():
    raise BadInput(f'{name}: there is no folder {path}; set config.path to that of the benchmarks')
  for spec in task.files[split]:
    where, options = parted(spec)
    outer, inside, inner = where.partition('!')
    files = sorted(glob.glob(f'{glob.escape(str(folder))}/**/{outer}', recursive=True))
    if not files:
      continue
    asked = f'?{options}' if options else ''
    for file in files:
      if inside:
        yield from _of_archive(file, inner, asked, split)
      else:
        yield from _of_source(f'{file}{asked}', split)
    return
  usual = ' or '.join(parted(spec)[0] for spec in task.files[split])
  raise BadInput(f'{name}: no file of its split {split!r} in {path}; it usually is {usual}')


def is_source(path: str) -> bool:
  return '{split}' in path or path.startswith('tfds:') or not os.path.isdir(parted(path)[0])


def _of_source(spec: str, split: str) -> Iterator[tuple[str, int, str, object]]:
  stem = PurePosixPath(parted(spec)[0]).name.partition('.')[0]
  for number, (place, record) in enumerate(open_records(spec, split=split)):
    yield stem, number, place, record


def _of_archive(
  file: str, inner: str, options: str, split: str
) -> Iterator[tuple[str, int, str, object]]:
  try:
    with zipfile.ZipFile(file) as archive, tempfile.TemporaryDirectory() as folder:
      members = [one for one in archive.infolist() if fnmatch.fnmatch(one.filename, inner)]
      if sum(one.file_size for one in members) > MOST_UNPACKED:
        raise BadInput(f'{file}: would unpack to more than {MOST_UNPACKED >> 30} GiB')
      for one in sorted(members, key=lambda one: one.filename):
        unpacked = Path(folder) / PurePosixPath(one.filename).name
        unpacked.write_bytes(archive.read(one))
        for stem, number, place, record in _of_source(f'{unpacked}{options}', split):
          yield stem, number, place.replace(folder, file), record
  except zipfile.BadZipFile as error:
    raise BadInput(f'{file}: a broken archive ({error}); fetch it anew') from error

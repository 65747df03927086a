"""Items of tests, such as questions of a benchmark, read from files."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm_jax.clean.listed import lines
from llm_jax.types import BadInput

SUFFIXES = ('.jsonl', '.txt', '.jsonl.gz', '.txt.gz')
_NAMES = ('id', 'task')  # fields that name an item and are no text of it


class Item(NamedTuple):
  """One item of a test.

  task: the name of the test.
  id: the name of the item in it.
  text: what must not be in training text.
  """

  task: str
  id: str
  text: str


def read_items(place: str, fields: Sequence[str], where: str) -> list[Item]:
  """The items of a file, or of all files of a folder and those inside of it, by name.

  In a `.jsonl` file each line is a record, whose texts in `fields`, or else in all fields, are put
  together, line by line; `id` and `task`, where it has them, name the item. In a `.txt` file each
  line is an item. Both may be compressed, `.gz`. Where nothing else names them, the task is named
  after the file, and the id is the number of the line.

  Raises:
    BadInput: there is no such file, it is damaged, or a record has none of the fields; the message
      begins with `where`.
  """
  path = Path(place)
  files = [path]
  if path.is_dir():
    files = sorted(p for p in path.rglob('*') if p.is_file() and p.name.endswith(SUFFIXES))
  items = [item for file in files for item in _items(file, fields, where)]
  if not items:
    raise BadInput(f'{where}: {place!r} holds no item; give {", ".join(SUFFIXES)} or their folder')
  return items


def _items(path: Path, fields: Sequence[str], where: str) -> Iterator[Item]:
  name = path.name.removesuffix('.gz')
  task = name.rpartition('.')[0] or name
  for number, line in enumerate(lines(path, where), 1):
    if not line.strip():
      continue
    if not name.endswith('.jsonl'):
      yield Item(task, str(number), line.strip())
      continue
    try:
      record = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise BadInput(f'{where}: {path}, line {number}, is no JSON ({error})') from None
    if not isinstance(record, dict):
      raise BadInput(f'{where}: {path}, line {number}, is no JSON object')
    chosen = [v for k, v in record.items() if (k in fields if fields else k not in _NAMES)]
    text = '\n'.join(text for value in chosen for text in _texts(value))
    if not text:
      there = ', '.join(record) or 'none'
      raise BadInput(
        f'{where}: {path}, line {number}, has no text in {", ".join(fields) or "any field"}; '
        f'its fields: {there}'
      )
    yield Item(_written(record.get('task', task)), _written(record.get('id', number)), text)


def _written(name: Any) -> str:
  """A name as a file can hold it: without half of a surrogate pair."""
  return str(name).encode('utf-8', 'replace').decode()


def _texts(value: Any) -> Iterator[str]:
  """The texts in a JSON value, in order."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, (dict, list)):
    for inner in value.values() if isinstance(value, dict) else value:
      yield from _texts(inner)

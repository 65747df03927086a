"""Files that are whole or not there, and that tell when they are not what was written any more.

A JSON file, and each line of a file of JSON lines, ends with a checksum of what is before it. One
without it was written before there were checksums, or by the user, and is read as it is.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llm_jax.types import BadInput

MANIFEST = 'manifest.json'
CHECKSUM = 'checksum'
SUMMARY = 'summary.json'


def inside(folder: Path, name: str) -> Path:
  """The file or folder that a name which was read from a file has in `folder`.

  >>> str(inside(Path('runs/a'), 'params/0'))
  'runs/a/params/0'
  >>> inside(Path('runs/a'), '../b')
  Traceback (most recent call last):
  llm_jax.types.BadInput: runs/a: '../b' is no name of a file in this folder; copy it again

  Raises:
    BadInput: the name leads out of the folder, or is none.
  """
  # By both rules of paths: a folder may have been made where the backslash is a letter, or is not.
  parts = re.split(r'[/\\]', name) if isinstance(name, str) else ['']
  leads_out = '..' in parts or not parts[0] or re.match('[A-Za-z]:', parts[0]) or '\0' in name
  if leads_out:
    raise BadInput(f'{folder}: {name!r} is no name of a file in this folder; copy it again')
  return folder / name


def check_writable(path: Path, what: str) -> None:
  """Whether a folder is there and can be written to, or can be made.

  Args:
    path: the folder.
    what: it is; the message begins with it.

  Raises:
    BadInput: naming the folder or file that is in the way.
  """
  there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
  if not there.is_dir():
    raise BadInput(
      f'{what}: {str(there)!r} is a file, and no folder; choose another --config.{what}'
    )
  if not os.access(there, os.W_OK | os.X_OK):
    raise BadInput(
      f'{what}: {str(there)!r} cannot be written to; change that (chmod, chown, mount), or choose '
      f'another --config.{what}'
    )


def manifest(folder: Path) -> dict[str, str]:
  """Relative path -> sha256 of every file under `folder`, except the manifest itself."""
  paths = [p for p in sorted(folder.rglob('*')) if p.is_file() and p.name != MANIFEST]
  return {str(path.relative_to(folder)): found for path, found in zip(paths, _sums(paths))}


def difference(folder: Path, listed: dict[str, str]) -> str | None:
  """The first file that is missing or differs from its sum, in words; None if none does.

  Raises:
    BadInput: a name leads out of the folder.
  """
  paths = {name: inside(folder, name) for name in listed}
  if missing := next((name for name, path in paths.items() if not path.is_file()), None):
    return f'damaged, {missing} is missing'
  for name, found in zip(paths, _sums(paths.values())):
    if found != listed[name]:
      return f'damaged, {name} differs from its sha256 sum'
  return None


def damage_of(path: Path) -> str | None:
  """What is wrong with a file that a stage wrote for others to read, in words.

  None where it is whole, or no `summary.json` beside it lists its sum.
  """
  summary = path.with_name(SUMMARY)
  try:
    listed = read_json(summary, '').get('files') if summary.is_file() else None
  except BadInput:  # not one of ours
    return None
  wanted = listed.get(path.name) if isinstance(listed, dict) else None
  if wanted is None or wanted == sha256(path):
    return None
  return f'it differs from its sha256 sum in {summary}'


def sha256(path: Path) -> str:
  """The sum of a file, in hexadecimal."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _sums(paths: Iterable[Path]) -> Iterator[str]:
  """The sums of files in their order, on all cores: Python's lock is free meanwhile."""
  with ThreadPoolExecutor(os.cpu_count()) as pool:
    yield from pool.map(sha256, paths)


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
  """The record with a checksum of its JSON as its last field.

  >>> sealed({'step': 3})
  {'step': 3, 'checksum': 'a76b25b15faff287'}
  """
  return {**record, CHECKSUM: _checksum(record)}


def unsealed(record: Any) -> dict[str, Any]:
  """The record without its checksum, if it has one.

  >>> unsealed({'step': 3, 'checksum': 'a76b25b15faff287'}), unsealed({'step': 4})
  ({'step': 3}, {'step': 4})

  Raises:
    ValueError: it is no JSON object, or differs from its checksum.
  """
  if not isinstance(record, dict):
    raise ValueError('it is no JSON object')
  if not record:
    return record
  (*others, (key, last)) = record.items()
  # The name of the checksum can be what is damaged, so any name in its place is compared.
  if (last == _checksum(dict(others))) != (CHECKSUM in record):
    raise ValueError('it differs from its checksum; who changed it by hand takes the checksum out')
  return dict(others) if key == CHECKSUM else record


def _checksum(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _parsed(data: bytes) -> dict[str, Any]:
  try:
    return unsealed(json.loads(data.decode()))
  except RecursionError:
    raise ValueError('it is nested too deep') from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
  """Writes a JSON file, with its checksum, whole or not at all."""
  with replacing(path) as file:
    file.write((json.dumps(sealed(value), indent=2) + '\n').encode())


def write_plain(path: Path, value: Mapping[str, Any]) -> None:
  """Writes a JSON file for other programs, without a checksum, whole or not at all."""
  with replacing(path) as file:
    file.write((json.dumps(value, indent=2, ensure_ascii=False) + '\n').encode())


def read_json(path: Path, remedy: str) -> dict[str, Any]:
  """The object that a JSON file holds, without its checksum.

  Args:
    path: of the file.
    remedy: what the user can do if it is damaged.

  Raises:
    BadInput: it is damaged.
  """
  try:
    return _parsed(path.read_bytes())
  except ValueError as error:
    raise BadInput(f'{path} is damaged: {error}; {remedy}') from None


def json_line(record: Mapping[str, Any]) -> bytes:
  """The record, with its checksum, as a line of a file of JSON lines."""
  return json.dumps(sealed(record), ensure_ascii=False).encode() + b'\n'


def write_lines(path: Path, records: Iterable[Any]) -> None:
  """Writes a file of JSON lines whole or not at all; `sealed` records have their checksum."""
  with replacing(path) as file:
    file.writelines(json.dumps(record, ensure_ascii=False).encode() + b'\n' for record in records)


def read_lines(path: Path, remedy: str, *, grows: bool = False) -> list[tuple[bytes, Any]]:
  r"""Each line of a file of JSON lines as it stands there, and its record without the checksum.

  Only b'\n' ends a line: JSON texts may hold all the others that `str.splitlines` knows.

  Args:
    path: of the file.
    remedy: what the user can do if a line is damaged.
    grows: lines are appended to it, so the last one is left out if a kill has cut it short.

  Raises:
    BadInput: a line is damaged, naming the file and the line.
  """
  found = []
  *lines, last = path.read_bytes().split(b'\n')
  if not (grows and _cut_short(last)):
    lines.append(last)
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      found.append((line + b'\n', _parsed(line)))
    except ValueError as error:
      raise BadInput(f'{path}, line {number}, is damaged: {error}; {remedy}') from None
  return found


def _cut_short(line: bytes) -> bool:
  """Whether a line without its end is the beginning of a JSON object and no whole one."""
  try:
    json.JSONDecoder().raw_decode(line.decode(errors='replace'))
  except (ValueError, RecursionError):
    return True
  return False


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Any]:
  """A binary file that appears at `path` only when it is complete."""
  partial = path.with_name(f'{path.name}.partial')
  try:
    with open(partial, 'wb') as file:
      yield file
    os.replace(partial, path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise

"""Files that are whole or not there, and sums that tell whether they are still what they were."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llm_jax.types import BadInput

MANIFEST = 'manifest.json'


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


def manifest(folder: Path) -> dict[str, str]:
  """Relative path -> sha256 of every file under `folder`, except the manifest itself."""
  sums = {}
  for path in sorted(folder.rglob('*')):
    if path.is_file() and path.name != MANIFEST:
      sums[str(path.relative_to(folder))] = sha256(path)
  return sums


def difference(folder: Path, listed: dict[str, str]) -> str | None:
  """The first file that is missing or differs from its sum, in words; None if none does.

  Raises:
    BadInput: a name leads out of the folder.
  """
  for name, wanted in listed.items():
    path = inside(folder, name)
    if not path.is_file():
      return f'damaged, {name} is missing'
    if sha256(path) != wanted:
      return f'damaged, {name} differs from its sha256 sum'
  return None


def sha256(path: Path) -> str:
  """The sum of a file, in hexadecimal."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def write_json(path: Path, value: Any) -> None:
  """Writes a JSON file whole or not at all."""
  with replacing(path) as file:
    file.write((json.dumps(value, indent=2) + '\n').encode())


def write_lines(path: Path, records: Iterable[Any]) -> None:
  """Writes a file of JSON lines whole or not at all."""
  with replacing(path) as file:
    file.writelines(json.dumps(record, ensure_ascii=False).encode() + b'\n' for record in records)


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

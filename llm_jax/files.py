"""Files that are whole or not there, and sums that tell whether they are still what they were."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MANIFEST = 'manifest.json'


def manifest(folder: Path) -> dict[str, str]:
  """Relative path -> sha256 of every file under `folder`, except the manifest itself."""
  sums = {}
  for path in sorted(folder.rglob('*')):
    if path.is_file() and path.name != MANIFEST:
      sums[str(path.relative_to(folder))] = sha256(path)
  return sums


def difference(folder: Path, listed: dict[str, str]) -> str | None:
  """The first file that is missing or differs from its sum, in words; None if none does."""
  for name, wanted in listed.items():
    path = folder / name
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

"""What a run wrote while it trained: files of JSON lines, each of them about a step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_jax.files import read_lines, replacing
from llm_jax.types import BadInput

REMEDY = 'put a copy of the file back, or take the line out'


def read(path: Path) -> list[dict[str, Any]]:
  """The records; a last line that a kill cut short is left out.

  Raises:
    BadInput: a line is damaged.
  """
  return [record for _, record in _lines(path)]


def rewind(path: Path, step: int) -> None:
  """Takes out what was written after a step; all other lines keep their bytes.

  Raises:
    BadInput: a line is damaged, so that nothing is changed.
  """
  _keep(path, lambda record: record['step'] <= step)


def forget_evaluations(path: Path, step: int) -> None:
  """Takes out what was evaluated at a step; a line of training has a loss of its own."""
  _keep(path, lambda record: record['step'] != step or 'loss' in record)


def _keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
  if path.exists():
    kept = [line for line, record in _lines(path) if wanted(record)]
    with replacing(path) as file:
      file.writelines(kept)


def _lines(path: Path) -> list[tuple[bytes, Any]]:
  found = read_lines(path, REMEDY, grows=True)
  for line, record in found:
    if not isinstance(record.get('step'), int):
      shown = line[:40].decode(errors='replace')
      raise BadInput(f'{path} is damaged: the line that begins {shown!r} has no step; {REMEDY}')
  return found

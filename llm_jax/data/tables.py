"""Rows of JSON, CSV and TSV, each with the place that names it in errors.

JSON is one object a line. A `.json` file may also be one array of objects, one object over many
lines, or what pandas writes with any `orient`, so `Dataset.to_json` and `DataFrame.to_json` need no
options. The first line of CSV and TSV names the columns, and an empty cell is None.
"""

import csv
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from llm_jax.data import json_text
from llm_jax.types import BadInput

Lines = Iterable[tuple[int, str]]  # number, from 1, and text with its line end
Rows = Iterator[tuple[str, Any]]
NAMES = '?names=first,second'


def json_lines(path: str, lines: Lines) -> Rows:
  """Place and value of every line that is not blank."""
  for number, line in lines:
    if line.strip():
      where = f'{path}, line {number}'
      try:
        row = json_text.loads(line.rstrip('\r\n'))
      except BadInput as error:
        raise BadInput(f'{where}: {error}; a line holds one JSON object') from error
      yield where, row


def json_rows(path: str, lines: Lines) -> Rows:
  """Place and value of every record of a `.json` file."""
  there = ((number, line) for number, line in lines if line.strip())
  first = list(itertools.islice(there, 2))
  if not first:
    return
  number, line = first[0]
  if len(first) > 1 and not line.lstrip().startswith('[') and _is_json(line):
    yield from json_lines(path, itertools.chain(first, there))
    return
  text = ''.join(line for _, line in itertools.chain(first, there))
  try:
    value = json_text.loads(text)
  except BadInput as error:
    what = 'a JSON array' if text.lstrip().startswith('[') else 'JSON'
    raise BadInput(
      f'{path}: from line {number} on not {what}: {error}; write one array of objects, or '
      'one object a line'
    ) from error
  if isinstance(value, list):
    yield from ((f'{path}, element {i}', row) for i, row in enumerate(value))
  else:
    try:
      table = _table(value)
    except (TypeError, ValueError):  # cells and columns that are not as many
      raise BadInput(f'{path}: neither records nor a table; write one object a line') from None
    yield from [(f'{path}, row {key}', row) for key, row in table] or [(f'{path}, line 1', value)]


def csv_rows(
  path: str,
  lines: Lines,
  *,
  delimiter: str,
  names: list[str] | None = None,
  quotes: bool = True,
) -> Rows:
  """Place and columns of every row.

  Args:
    path: of the file.
    lines: of it.
    delimiter: between two cells.
    names: of the columns, where the first line does not have them.
    quotes: whether cells with a line end or a delimiter stand in quotes; else quotes are letters.
  """
  csv.field_size_limit(2**31 - 1)
  quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
  texts = (line for _, line in lines)
  reader = csv.reader(texts, delimiter=delimiter, strict=True, quoting=quoting)
  where, line = path, 1
  try:
    for cells in reader:
      given, names = names is not None, cells if names is None else names
      where, line = f'{path}, line {line}', reader.line_num + 1
      if not all(names) or len(set(names)) < len(names):
        raise BadInput(
          f'{where}: columns {names} need names that differ; where this line is a row already, '
          f'name them with {NAMES}'
        )
      if cells and len(cells) != len(names):
        raise BadInput(
          f'{where}: {len(cells)} cells, but {len(names)} columns ({", ".join(names)[:200]}); put '
          f'cells with a delimiter in quotes, or name the columns with {NAMES}'
        )
      if cells and given:
        yield where, {name: cell or None for name, cell in zip(names, cells, strict=True)}
  except csv.Error as error:
    raise BadInput(
      f'{path}, line {line}: {error}; write quotes in a cell twice, or add ?quotes=no where they '
      'are letters like others'
    ) from error


def no_field(field: str, there: Iterable[str]) -> str:
  """The error for a field that is not there."""
  return f'no field {field!r}; the fields are {", ".join(there)}; choose one with ?field='


def _is_json(line: str) -> bool:
  try:
    json_text.loads(line)
  except BadInput:
    return False
  return True


def _table(value: Any) -> list[tuple[str, Any]]:
  """The rows of a table that pandas wrote by index, by column or split; [] if it is none.

  >>> _table({'a': {'0': 1, '1': 2}, 'b': {'0': 3, '1': 4}})
  [('0', {'a': 1, 'b': 3}), ('1', {'a': 2, 'b': 4})]
  """
  if not isinstance(value, dict) or not value:
    return []
  if {'columns', 'data'} <= value.keys() <= {'columns', 'data', 'index'}:
    rows = [dict(zip(value['columns'], row, strict=True)) for row in value['data']]
    return [(str(i), row) for i, row in enumerate(rows)]
  if value.keys() == {'schema', 'data'}:
    return [(str(i), row) for i, row in enumerate(value['data'])]
  if not all(isinstance(some, dict) and some for some in value.values()):
    return []
  if all(key.isdigit() for key in value):
    return list(value.items())
  keys = [list(column) for column in value.values()]
  if all(some == keys[0] for some in keys) and all(key.isdigit() for key in keys[0]):
    return [(key, {name: column[key] for name, column in value.items()}) for key in keys[0]]
  return []

"""Rows of Arrow and Parquet files, and of the folders that `datasets.save_to_disk` writes.

Such a folder is one dataset (`state.json` lists its files), or one for each split
(`dataset_dict.json` lists the folders). All of it is read with pyarrow alone.
"""

import contextlib
import importlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from llm_jax.data import json_text, tables
from llm_jax.data.compression import SUFFIXES, extra, opened
from llm_jax.files import inside
from llm_jax.types import BadInput

_STATE, _SPLITS = 'state.json', 'dataset_dict.json'
_ROWS = 256  # made into Python's values at once
_END = b'\xff\xff\xff\xff\0\0\0\0'  # of a stream

Batches = Callable[[str | None], Iterable[Any]]  # of all columns, or of one


def rows(path: str, kind: str, column: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
  """Place and columns of every row, or one column only.

  Args:
    path: of a file, or of the folder of one dataset.
    kind: '.arrow' or '.parquet'.
    column: the only one that is read.

  Raises:
    BadInput: pyarrow is missing, there is no such column, or a file is missing or broken.
  """
  if os.path.isdir(path):
    for file in files(path):
      yield from rows(file, kind, column)
    return
  pyarrow = extra(kind, path)
  with contextlib.ExitStack() as stack:
    numbers = itertools.count(1)
    if zipped := path.lower().endswith(SUFFIXES):
      content = stack.enter_context(opened(path)).read()
    try:
      # Both are read from their end, to which a compressed stream cannot seek. What is mapped has a
      # size, so that no more is asked for than there is, whatever the file says.
      file = pyarrow.BufferReader(content) if zipped else pyarrow.memory_map(path)
      names, batches = (_parquet if kind == '.parquet' else _arrow)(stack.enter_context(file))
      if column is not None and column not in names:
        raise BadInput(f'{path}: {tables.no_field(column, names)}')
      for batch in batches(column):
        for start in range(0, batch.num_rows, _ROWS):
          for row in batch.slice(start, _ROWS).to_pylist():
            yield f'{path}, row {next(numbers)}', row
    except (pyarrow.ArrowException, EOFError, OSError, UnicodeDecodeError) as error:
      name = {'.parquet': 'Parquet', '.arrow': 'Arrow'}[kind]
      raise BadInput(f'{path}: not a whole {name} file; make the file anew') from error


def _parquet(file: Any) -> tuple[list[str], Batches]:
  opened = importlib.import_module('pyarrow.parquet').ParquetFile(file)

  def batches(column: str | None) -> Iterable[Any]:
    return opened.iter_batches(_ROWS, columns=None if column is None else [column])

  return opened.schema_arrow.names, batches


def _arrow(file: Any) -> tuple[list[str], Batches]:
  """Either format: a file begins with its name and ends with an index; a stream has neither."""
  ipc = importlib.import_module('pyarrow.ipc')
  is_file = file.read(6) == b'ARROW1'
  if not is_file:
    file.seek(max(file.size() - len(_END), 0))
    if file.read() != _END:  # pyarrow reads a stream that was cut between two batches
      raise EOFError('the stream has no end')
  file.seek(0)
  reader = ipc.open_file(file) if is_file else ipc.open_stream(file)

  def batches(column: str | None) -> Iterable[Any]:
    for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
      batch.validate(full=True)  # lengths and offsets lie within the file
      yield batch if column is None else batch.select([column])

  return reader.schema.names, batches


# --- folders -----------------------------------------------------------------------------------


def is_saved(path: str) -> bool:
  """Whether a folder is one that `datasets.save_to_disk` wrote."""
  return any(os.path.isfile(os.path.join(path, name)) for name in (_STATE, _SPLITS))


def splits(folder: str) -> dict[str, str]:
  """Split -> its folder; nothing where the folder is a single dataset.

  Raises:
    BadInput: the list of splits cannot be read.
  """
  if not os.path.isfile(os.path.join(folder, _SPLITS)):
    return {}
  return {name: _inside(folder, name) for name in _listed(folder, _SPLITS, 'splits')}


def files(folder: str) -> list[str]:
  """The files of a dataset, in their order.

  Raises:
    BadInput: the list of files cannot be read, or one of them is missing.
  """
  if not os.path.isfile(os.path.join(folder, _STATE)):
    raise BadInput(f'{folder}: has no {_STATE}, so it is not a whole dataset; save it again')
  listed = _listed(folder, _STATE, '_data_files')
  if _listed(folder, _STATE, '_indices_data_files', []):
    raise BadInput(
      f'{folder}: some of its rows are chosen by an index, as early versions of datasets wrote it; '
      'save it again with flatten_indices()'
    )
  names = [file.get('filename') if isinstance(file, dict) else file for file in listed]
  found = [_inside(folder, name) for name in names]
  for path in found:
    if not os.path.isfile(path):
      raise BadInput(f'{path}: is missing, and {_STATE} beside it lists it; copy the folder again')
  return found


def _inside(folder: str, name: Any) -> str:
  return str(inside(Path(folder), name))


def _listed(folder: str, file: str, key: str, default: Any = None) -> Any:
  """The list at `key` in a JSON file."""
  path = Path(folder, file)
  try:
    found = json_text.loads(path.read_text(encoding='utf-8'))
    value = found.get(key, default)
    if not isinstance(value, list):
      raise TypeError
  except (OSError, ValueError, AttributeError, TypeError):
    raise BadInput(f'{path}: is no list of {key}; save or copy the dataset again') from None
  return value

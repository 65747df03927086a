"""Records of TFDS datasets, prepared in a folder as array_record; read without TensorFlow."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.types import BadInput

_SPEC = re.compile(r'tfds:(\w+)(?:/([\w.-]+))?(?::(\d+\.\d+\.\d+))?(?:@(.+))?')
_FEATURES = 'tensorflow_datasets.core.features.'
_ROWS = 256  # read at once


class Prepared:
  """A dataset in the folder that a specification names.

  Attributes:
    spec: the specification.
    folder: the newest prepared version, or the one asked for.
    splits: their names.
    features: the names of the columns.
  """

  def __init__(self, spec: str):
    self.spec, self.folder = spec, folder_of(spec)
    _check_features(self.folder)
    import tensorflow_datasets as tfds  # takes a second

    self._builder: Any = tfds.builder_from_directory(self.folder)
    self._sequence = tfds.features.Sequence
    self.splits, self.features = (
      tuple(sorted(found)) for found in (self._builder.info.splits, self._builder.info.features)
    )

  def rows(self, part: str) -> Callable[..., Iterator[tuple[str, dict[str, Any]]]]:
    """A function that reads a part, such as 'train[:90%]': place and values of every record.

    It takes the names of the columns to read; all, if there are none.

    Raises:
      BadInput: at once, if there is no such part, or it is not stored as array_record.
    """
    if re.split(r'[\[+]', part)[0] not in self.splits:
      raise BadInput(
        f'{self.spec}: no split {part!r} in {self.folder}; it has: {", ".join(self.splits)}'
      )
    try:
      records = self._builder.as_data_source(split=part)
    except NotImplementedError as error:
      raise BadInput(
        f'{self.spec}: {self.folder} is not stored as array_record; prepare it again with '
        "download_and_prepare(file_format='array_record')"
      ) from error
    except ValueError as error:
      raise BadInput(
        f'{self.spec}: cannot read split {part!r}: {str(error).splitlines()[0]}; write train[:90%]'
      ) from error
    features = self._builder.info.features

    def read(*columns: str) -> Iterator[tuple[str, dict[str, Any]]]:
      for start in range(0, len(records), _ROWS):
        numbers = range(start, min(start + _ROWS, len(records)))
        for number, record in zip(numbers, records.__getitems__(numbers)):
          where, row = f'{self.spec}, split {part!r}, record {number}', {}
          for name in columns or self.features:
            try:
              row[name] = self._plain(record[name], features[name])
            except UnicodeDecodeError as error:
              raise BadInput(f'{where}: {name!r} is not UTF-8 ({error.reason})') from error
          yield where, row

    return read

  def _plain(self, value: Any, feature: Any) -> Any:
    """A value of Python's own: texts, numbers, lists, and dicts by name.

    TFDS gives a sequence of dicts as a dict of sequences, and a nested dataset as a data source.
    """
    if isinstance(feature, self._sequence):
      inner = feature.feature
      if isinstance(value, dict):
        return [self._plain(_at(value, i), inner) for i in range(_length(value))]
      return [self._plain(item, inner) for item in value]
    if isinstance(value, dict):
      return {name: self._plain(item, feature[name]) for name, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
      value = value.tolist()
    if isinstance(value, list):
      return [self._plain(item, None) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def _at(value: Any, index: int) -> Any:
  """Item `index` of a dict of sequences, as a dict."""
  if isinstance(value, dict):
    return {name: _at(some, index) for name, some in value.items()}
  return value[index]


def _length(value: Any) -> int:
  while isinstance(value, dict):
    value = next(iter(value.values()), ())
  return len(value)


def folder_of(spec: str) -> Path:
  """The folder of the newest prepared version, or of the one asked for."""
  match = _SPEC.fullmatch(spec)
  if not match:
    raise BadInput(f'{spec}: write tfds:<name>[/<config>][:<version>][@<data_dir>]')
  name, config, version, data_dir = match.groups()
  data_dir = data_dir or os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  folder = Path(data_dir).expanduser()
  for part in filter(None, (name, config)):
    if not (folder / part).is_dir():
      raise BadInput(_not_prepared(spec, part, folder))
    folder /= part
  found = {path.parent.name: path.parent for path in folder.glob('*.*.*/dataset_info.json')}
  if version or not found:
    if version not in found:
      raise BadInput(_not_prepared(spec, version or 'version', folder))
    return found[version]
  return max(found.values(), key=lambda path: [int(n) for n in re.findall(r'\d+', path.name)])


def _check_features(folder: Path) -> None:
  """Whether all features are TFDS's own: it imports the module of a feature that it does not know.

  Raises:
    BadInput: the description names other code, or cannot be read.
  """
  path = folder / 'features.json'
  try:
    waiting = [json.loads(path.read_text(encoding='utf-8'))]
  except (OSError, ValueError, RecursionError):
    raise BadInput(f'{path}: cannot be read; copy or prepare the dataset again') from None
  while waiting:
    value = waiting.pop()
    if isinstance(value, dict):
      for key in ('type', 'pythonClassName', 'python_class_name'):
        name = value.get(key)
        if isinstance(name, str) and '.' in name and not name.startswith(_FEATURES):
          raise BadInput(
            f'{path}: names the feature {name[:80]!r}, which is not one of TFDS and is not '
            'imported; prepare the dataset again with features of TFDS'
          )
      waiting += value.values()
    elif isinstance(value, list):
      waiting += value


def _not_prepared(spec: str, missing: str, folder: Path) -> str:
  there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
  return (
    f'{spec}: no {missing} in {folder}, which holds: {", ".join(there) or "nothing"}; datasets are '
    'not downloaded here, so prepare it there (tfds build, or llm_jax.data.corpus.prepare for your '
    'own texts) or name its folder with @<data_dir>'
  )

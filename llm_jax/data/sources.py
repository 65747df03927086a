"""Where documents come from: one short text names the builtin corpus, a TFDS dataset or files.

  builtin                                          the documentation of the Python interpreter
  tfds:<name>[/<config>][:<version>][@<data_dir>]  a prepared dataset; nothing is downloaded
  data/part-*.jsonl.zst                            a path or a glob; `**` goes into folders

Files are `.jsonl` (one JSON object a line), `.json` (the same, or one array or table), `.csv`,
`.tsv`, `.parquet` or `.txt`, each optionally followed by `.gz` or `.zst`. A `.txt` file is one
document. Options come last, as in a URL:

  ?field=content    the field, column or feature that holds the text; as the keyword `field`
  ?split=blank      a .txt file holds several documents, with blank lines between them
  ?split=line       each line of a .txt file that is not blank is a document
  ?split=train[9:]  the part of a TFDS dataset to read, whatever the keyword `split` says

With the last option has_splits is False, since the source is that part and nothing else.
"""

import contextlib
import difflib
import functools
import glob
import gzip
import importlib
import io
import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from llm_jax.data import builtin, tables
from llm_jax.files import damage_of
from llm_jax.options import is_local, suggest
from llm_jax.types import BadInput

_SUFFIXES = ('.jsonl', '.json', '.parquet', '.csv', '.tsv', '.txt')
_COMPRESSED = ('.gz', '.zst')
_EXTRAS = {'.parquet': 'pyarrow', '.zst': 'zstandard'}
_TXT_SPLITS = ('blank', 'line')
_TFDS_FEATURES = 'tensorflow_datasets.core.features.'
_TFDS = re.compile(r'tfds:(\w+)(?:/([\w.-]+))?(?::(\d+\.\d+\.\d+))?(?:@(.+))?')
_RECORDS = 256  # read at once


class Source:
  """Documents in an order that never changes; every `iter()` starts over.

  `has_splits` says whether 'validation' can be opened apart from 'train'. If not, whoever trains on
  the source has to hold something out.
  """

  def __init__(self, name: str, read: Callable[[], Iterator[str]], *, has_splits: bool):
    self._name = name
    self._read = read
    self.has_splits = has_splits

  def __iter__(self) -> Iterator[str]:
    return self._read()

  def __repr__(self) -> str:
    return f'Source({self._name})'


def open_source(spec: str, *, split: str = 'train', field: str = 'text') -> Source:
  """The documents that `spec` names; the top of this file says what it may be.

  `split` is 'train' or 'validation'. Files have no splits: both read all of them. `field` is the
  key of the text in JSON, Parquet and TFDS records.

  Raises:
    BadInput: at once, if the specification is invalid, a file, dataset or split does not exist, or
      a file is empty; while reading, if a file is broken, or a document is missing or not text. The
      message names the file and the line.
  """
  if split not in builtin.SPLITS:
    raise BadInput(f'{spec}: no split {split!r}; {suggest(split, list(builtin.SPLITS))}')
  spec, options = _options(spec)
  if spec == 'builtin':
    _check_options(spec, options, [])
    name = f"'builtin', split={split!r}"
    return Source(name, lambda: iter(builtin.documents(split)), has_splits=True)
  if spec.startswith('tfds:'):
    return _open_tfds(spec, options, split, field)
  return _open_files(spec, options, field)


def open_records(spec: str) -> Iterator[tuple[str, Any]]:
  """(place, record) of every record in the files that `spec` names, which may be all but `.txt`.

  A record is what a line, an element of the array or a row holds; the place names it in errors.

  Raises:
    BadInput: at once, if there is no such file or its format has no records; while reading, if a
      file is broken or holds no record.
  """
  spec, options = _options(spec)
  _check_options(spec, options, [])
  paths = _paths(spec)
  for path in paths:
    if _kind(path) == '.txt':
      raise BadInput(f'{path}: text has no records; use .jsonl, .json, .csv, .tsv or .parquet')
    _check_file(path)
  return _never_empty(paths, _rows, 'record')


def _options(spec: str) -> tuple[str, dict[str, str]]:
  """`a-?.txt?split=line` is the glob `a-?.txt` with an option; only `name=value` is an option."""
  match = re.fullmatch(r'(.+?)\?(\w+=[^?&=]*(?:&\w+=[^?&=]*)*)', spec, re.DOTALL)
  if not match:
    return spec, {}
  return match[1], dict(option.split('=') for option in match[2].split('&'))


def _check_options(spec: str, options: Mapping[str, str], known: list[str]) -> None:
  for name in options:
    if name not in known:
      raise BadInput(f'{spec}: unknown option {name!r}; {suggest(name, known)}')


# --- TFDS --------------------------------------------------------------------------------------


def _open_tfds(spec: str, options: Mapping[str, str], split: str, field: str) -> Source:
  _check_options(spec, options, ['field', 'split'])
  field, part = options.get('field', field), options.get('split', split)
  folder = _tfds_folder(spec)
  _check_features(folder)
  import tensorflow_datasets as tfds  # takes a second

  builder: Any = tfds.builder_from_directory(folder)
  splits, features = sorted(builder.info.splits), sorted(builder.info.features)
  if re.split(r'[\[+]', part)[0] not in splits:
    raise BadInput(f'{spec}: no split {part!r} in {folder}; it has: {", ".join(splits)}')
  if field not in features:
    raise BadInput(f'{spec}: {_no_field(field, features)}')
  try:
    records = builder.as_data_source(split=part)
  except NotImplementedError as error:
    raise BadInput(
      f'{spec}: {folder} is not stored as array_record; prepare it again with '
      "download_and_prepare(file_format='array_record')"
    ) from error
  except ValueError as error:
    raise BadInput(
      f'{spec}: cannot read split {part!r}: {str(error).splitlines()[0]}; write train[:90%]'
    ) from error

  def read() -> Iterator[str]:
    for start in range(0, len(records), _RECORDS):
      rows = range(start, min(start + _RECORDS, len(records)))
      for index, record in zip(rows, records.__getitems__(rows)):
        yield _decoded(record[field], f'{spec}, split {part!r}, record {index}', field)

  has_splits = 'split' not in options and 'validation' in splits
  return Source(f'{spec!r}, split={part!r}, field={field!r}', read, has_splits=has_splits)


def _decoded(value: Any, where: str, field: str) -> str:
  if not isinstance(value, bytes):
    raise BadInput(f'{where}: {field!r} is {type(value).__name__}, not text; choose with ?field=')
  try:
    return value.decode()
  except UnicodeDecodeError as error:
    raise BadInput(f'{where}: {field!r} is not UTF-8 ({error.reason})') from error


def _tfds_folder(spec: str) -> Path:
  """The folder of the newest prepared version, or of the one asked for."""
  match = _TFDS.fullmatch(spec)
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
        if isinstance(name, str) and '.' in name and not name.startswith(_TFDS_FEATURES):
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


# --- files -------------------------------------------------------------------------------------


def _open_files(spec: str, options: Mapping[str, str], field: str) -> Source:
  paths = _paths(spec)
  kinds = {_kind(path) for path in paths}
  has_fields = bool(kinds - {'.txt'})
  known = ['field'] * has_fields + ['split'] * ('.txt' in kinds)
  _check_options(spec, options, known)
  field, split = options.get('field', field), options.get('split')
  if split is not None and split not in _TXT_SPLITS:
    raise BadInput(f'{spec}: no split={split}; {suggest(split, list(_TXT_SPLITS))}')
  for path in paths:
    _check_file(path)
  readers = {
    '.txt': functools.partial(_txt, split=split),
    '.parquet': functools.partial(_parquet, field=field),
  }
  others = functools.partial(_field, field=field)

  def read() -> Iterator[str]:
    return _never_empty(paths, lambda path: readers.get(_kind(path), others)(path), 'document')

  name = repr(spec)
  name += f', field={field!r}' if has_fields else ''
  name += f', split={split!r}' if split else ''
  return Source(name, read, has_splits=False)


def _check_file(path: str) -> None:
  if os.path.getsize(path) == 0:
    raise BadInput(f'{path}: the file is empty; fill it or leave it out')
  for suffix in {_kind(path), Path(path).suffix.lower()} & _EXTRAS.keys():
    _extra(suffix, path)
  if damage := damage_of(Path(path)):
    raise BadInput(f'{path} is damaged: {damage}; if you changed it yourself, give it another name')


def _never_empty(
  paths: Iterable[str], read: Callable[[str], Iterator[Any]], what: str
) -> Iterator[Any]:
  """Everything in the files, one after the other; each has to hold something."""
  for path in paths:
    found = read(path)
    first = next(found, None)
    if first is None:
      raise BadInput(f'{path}: the file holds no {what}; fill it or leave it out')
    yield first
    yield from found


def _paths(spec: str) -> list[str]:
  """The files of a path or glob, sorted by name."""
  path = os.path.expanduser(spec)
  if spec.strip() and not is_local(spec):
    raise BadInput(f'{spec!r}: only files of this machine can be read; copy it here first')
  if os.path.isdir(path):
    raise BadInput(f'{spec}: is a folder; name the files in it, such as {path.rstrip("/")}/*.jsonl')
  if os.path.exists(path):
    return [path]
  if glob.has_magic(path):
    found = sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
    if not found:
      raise BadInput(f'{spec}: no file matches in {os.getcwd()}; check the folder and the suffix')
    return found
  parent = Path(path).parent
  if not parent.is_dir():
    raise BadInput(f'{spec}: there is no folder {parent} in {os.getcwd()}')
  names = sorted(p.name for p in parent.iterdir()) + ['builtin'] * ('/' not in spec)
  close = difflib.get_close_matches(Path(path).name, names, n=3)
  hint = ' or '.join(map(repr, close)) if close else "'builtin', tfds:<name> or a file"
  raise BadInput(f'{spec}: no such file in {parent.resolve()}; did you mean {hint}?')


def _kind(path: str) -> str:
  """The suffix that says how to read a file, without the one of its compression."""
  name = Path(path.lower())
  suffix = Path(name.stem).suffix if name.suffix in _COMPRESSED else name.suffix
  if suffix not in _SUFFIXES:
    raise BadInput(
      f'{path}: unknown suffix {suffix!r}; known are {", ".join(_SUFFIXES)}, each also with '
      f'{" or ".join(_COMPRESSED)} behind it'
    )
  return suffix


def _extra(suffix: str, path: str) -> ModuleType:
  package = _EXTRAS[suffix]
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise BadInput(
      f"{path}: reading {suffix} needs {package}; pip install 'llm_jax[data]'"
    ) from error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes] | io.BufferedIOBase]:
  """The bytes of a file, decompressed; an error while they are read names the file."""
  broken: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
  try:
    with open(path, 'rb') as raw:
      match Path(path).suffix.lower():
        case '.gz':
          with gzip.open(raw) as unzipped:
            yield unzipped
        case '.zst':
          zstandard = _extra('.zst', path)
          broken += (zstandard.ZstdError,)
          yield io.BufferedReader(_Zstd(raw, zstandard))
        case _:
          yield raw
  except broken as error:
    raise BadInput(f'{path}: broken compression ({error}); make the file anew') from error


class _Zstd(io.RawIOBase):
  """Decompressed bytes of a .zst file of one or more frames.

  The reader of zstandard does not notice that a file is incomplete; this one raises EOFError.
  """

  def __init__(self, raw: IO[bytes], zstandard: ModuleType):
    self._new_frame = zstandard.ZstdDecompressor().decompressobj
    self._chunks = self._decompress(raw)
    self._left = b''

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    while not self._left:
      try:
        self._left = next(self._chunks)
      except StopIteration:
        return 0
    size = min(len(buffer), len(self._left))
    buffer[:size], self._left = self._left[:size], self._left[size:]
    return size

  def _decompress(self, raw: IO[bytes]) -> Iterator[bytes]:
    frame = self._new_frame()
    while data := raw.read(1 << 17):
      while data:
        if frame.eof:
          frame = self._new_frame()
        yield frame.decompress(data)
        data = frame.unused_data
    if not frame.eof:
      raise EOFError('the file ends in the middle')


def _lines(path: str) -> Iterator[tuple[int, str]]:
  """Number, from 1, and text of every line."""
  with _opened(path) as stream:
    for number, line in enumerate(stream, 1):
      try:
        yield number, line.decode('utf-8-sig' if number == 1 else 'utf-8')
      except UnicodeDecodeError as error:
        raise BadInput(
          f'{path}, line {number}: byte {error.start + 1} is not UTF-8 ({error.reason}); convert '
          'the file with iconv -t utf-8'
        ) from error


def _txt(path: str, split: str | None) -> Iterator[str]:
  lines = (line.removesuffix('\n').removesuffix('\r') for _, line in _lines(path))
  if split == 'line':
    yield from filter(str.strip, lines)
  elif split == 'blank':
    for has_text, group in itertools.groupby(lines, key=lambda line: bool(line.strip())):
      if has_text:
        yield '\n'.join(group)
  else:
    text = '\n'.join(lines)
    if text.strip():
      yield text


def _field(path: str, field: str) -> Iterator[str]:
  """The texts in a field of JSON, CSV or TSV."""
  for where, row in _rows(path):
    if not isinstance(row, dict):
      raise BadInput(
        f'{where}: {type(row).__name__} instead of an object; write {{"{field}": ...}}'
      )
    if field not in row:
      raise BadInput(f'{where}: {_no_field(field, row)}')
    yield _text(row[field], where, field)


def _rows(path: str) -> Iterator[tuple[str, Any]]:
  """Place and value of every record."""
  match _kind(path):
    case '.parquet':
      return _parquet_rows(path)
    case '.jsonl':
      return tables.json_lines(path, _lines(path))
    case '.json':
      return tables.json_rows(path, _lines(path))
    case kind:
      return tables.csv_rows(path, _lines(path), {'.csv': ',', '.tsv': '\t'}[kind])


def _parquet(path: str, field: str) -> Iterator[str]:
  for where, row in _parquet_rows(path, field):
    yield _text(row[field], where, field)


def _parquet_rows(path: str, field: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
  """Place and columns of every row, or one column only."""
  pyarrow = _extra('.parquet', path)
  parquet = importlib.import_module('pyarrow.parquet')
  try:
    with _opened(path) as stream:
      # Parquet is read from its end, to which a compressed stream cannot seek.
      seekable = io.BytesIO(stream.read()) if path.lower().endswith(_COMPRESSED) else stream
      file = parquet.ParquetFile(seekable)
      if field is not None and field not in file.schema_arrow.names:
        raise BadInput(f'{path}: {_no_field(field, file.schema_arrow.names)}')
      rows = itertools.count(1)
      for batch in file.iter_batches(_RECORDS, columns=None if field is None else [field]):
        for row in batch.to_pylist():
          yield f'{path}, row {next(rows)}', row
  except (pyarrow.ArrowException, UnicodeDecodeError) as error:
    raise BadInput(f'{path}: not a whole Parquet file; make the file anew') from error


def _text(value: Any, where: str, field: str) -> str:
  if not isinstance(value, str):
    raise BadInput(
      f'{where}: {field!r} is {type(value).__name__}, not a string; choose another with ?field='
    )
  return value


def _no_field(field: str, there: Iterable[str]) -> str:
  return f'no field {field!r}; the fields are {", ".join(there)}; choose one with ?field='

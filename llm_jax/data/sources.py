"""Where documents and records come from: one short text names what is builtin, a dataset or files.

  builtin                                          the documentation of the Python interpreter
  builtin:stories                                  chapters of novels, the same on every machine
  tfds:<name>[/<config>][:<version>][@<data_dir>]  a prepared dataset; nothing is downloaded
  data/part-*.jsonl.zst                            a path or a glob; `**` goes into folders
  data/saved                                       a folder that datasets.save_to_disk wrote
  runs/web/clean                                   a folder that job `clean` has finished

Files are `.jsonl` (one JSON object a line), `.json` (the same, or one array or table), `.csv`,
`.tsv`, `.parquet`, `.arrow` or `.txt`, each optionally followed by `.gz` or `.zst`. A `.txt` file
is one document. Options come last, as in a URL:

  ?field=content    the field, column or feature that holds the text; as the keyword `field`
  ?split=blank      a .txt file holds several documents, with blank lines between them
  ?split=line       each line of a .txt file that is not blank is a document
  ?split=train[9:]  the part of a TFDS dataset to read, whatever the keyword `split` says
  ?split=test       the same for a folder with a dataset for each split
  ?names=a,b        the columns of a .csv or .tsv file whose first line is a row already
  ?quotes=no        quotes in a .csv or .tsv file are letters like others
  ?prompt=question  of records: the column `question` is read as `prompt`, whatever else had that
                    name; with `&answer=final` a second one, and with `&context=` one is hidden

A source has no splits where `split` names one, since it is that part and nothing else. What means
something here is written as in a URL: %26 for &, %3F for ?.
"""

import difflib
import itertools
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from llm_jax.data import arrow, builtin, paths, stories, tables, tfds
from llm_jax.data.compression import lines
from llm_jax.files import sha256
from llm_jax.options import suggest
from llm_jax.storage import parted
from llm_jax.types import BadInput

Item = TypeVar('Item')
Place = tuple[str, Any]  # of a record, for errors, and the record
# Texts that a machine has without files of its own.
BUILTIN = {'builtin': builtin, 'builtin:stories': stories}
_TXT_SPLITS = ('blank', 'line')
_DELIMITERS = {'.csv': ',', '.tsv': '\t'}
_CELLS = ('names', 'quotes')  # options of these
_LISTED = 'docs/data_formats.md lists the columns'


class Source(Generic[Item]):
  """Documents or records in an order that never changes; every `iter()` starts over.

  Attributes:
    splits: the names of those that it has of its own. Without 'validation' among them, whoever
      trains on the source has to hold something out.
  """

  def __init__(self, name: str, read: Callable[[], Iterator[Item]], *, splits: Collection[str]):
    self._name = name
    self._read = read
    self.splits = tuple(splits)

  @property
  def has_splits(self) -> bool:
    """Whether 'validation' can be opened apart from 'train'."""
    return 'validation' in self.splits

  def __iter__(self) -> Iterator[Item]:
    return self._read()

  def __repr__(self) -> str:
    return f'Source({self._name})'


def open_source(spec: str, *, split: str = 'train', field: str = 'text') -> Source[str]:
  """The documents that `spec` names; the top of this file says what it may be.

  `split` is 'train' or 'validation'. Files have no splits: both read all of them. `field` is the
  key of the text in records.

  Raises:
    BadInput: at once, if the specification is invalid, a file, dataset or split does not exist, or
      a file is empty; while reading, if a file is broken, or a document is missing or not text. The
      message names the file and the line.
  """
  if split not in builtin.SPLITS:
    raise BadInput(f'{spec}: no split {split!r}; {suggest(split, list(builtin.SPLITS))}')
  spec, options = _options(spec)
  if spec in BUILTIN:
    _check_options(spec, options, [])
    name = f'{spec!r}, split={split!r}'
    return Source(name, lambda: iter(BUILTIN[spec].documents(split)), splits=builtin.SPLITS)
  if spec.startswith('builtin:'):
    raise BadInput(f'{spec}: no such text; {suggest(spec, list(BUILTIN))}')
  found = _opened(spec, options, split)
  _check_options(spec, options, ['field'] * found.has_columns + found.options)
  field = options.get('field', field)
  if found.columns is not None and field not in found.columns:
    raise BadInput(f'{spec}: {tables.no_field(field, found.columns)}')

  def read() -> Iterator[str]:
    for where, row in found.rows(field):
      if not isinstance(row, Mapping):
        raise BadInput(
          f'{where}: {type(row).__name__} instead of an object; write {{"{field}": ...}}'
        )
      if field not in row:
        raise BadInput(f'{where}: {tables.no_field(field, row)}')
      text = row[field]
      if not isinstance(text, str):
        what = type(text).__name__
        raise BadInput(f'{where}: {field!r} is {what}, not a string; choose another with ?field=')
      yield text

  name = f'{found.name}, field={field!r}' if found.has_columns else found.name
  return Source(name, read, splits=found.splits)


def open_records(
  spec: str, *, split: str = 'train', known: Collection[str] = ()
) -> Source[tuple[str, Any]]:
  """(place, record) of every record in what `spec` names, which may be all but builtin and `.txt`.

  A record is what a line, an element of the array or a row holds; the place names it in errors.

  Args:
    spec: the top of this file says what it may be.
    split: to read where the source has splits of its own.
    known: names that columns may be given in `spec`.

  Raises:
    BadInput: at once, if the specification is invalid, a file, dataset or split does not exist, or
      its format has no records; while reading, if a file is broken or holds no record, or a column
      that is renamed is missing.
  """
  spec, options = _options(spec)
  found = _opened(spec, options, split, what='record')
  names = {name: column for name, column in options.items() if name not in found.options}
  _check_names(spec, names, [*found.options, *known])
  read = lambda: _renamed(found.rows(None), names) if names else found.rows(None)
  return Source(f'{found.name}{f", {names}" if names else ""}', read, splits=found.splits)


def stamp(spec: str) -> Any:
  """What changes when the dataset or files that `spec` names do; they are not read.

  Raises:
    BadInput: there are none.
  """
  spec, options = _options(spec)
  if spec.startswith('tfds:'):
    folder = tfds.folder_of(spec)
    return [str(folder), sha256(folder / 'dataset_info.json'), options]
  files = paths.paths(spec)
  folders = arrow.splits(files[0]) if arrow.is_saved(files[0]) else {}
  return [[paths.stamps(path) for path in folders.values() or [spec]], options]


# --- options -----------------------------------------------------------------------------------


def _options(spec: str) -> tuple[str, dict[str, str]]:
  """`a-?.txt?split=line` is the glob `a-?.txt` with an option."""
  path, asked = parted(spec)
  options: dict[str, str] = {}
  for option in filter(None, asked.split('&')):
    name, equals, value = map(urllib.parse.unquote, option.partition('='))
    if not equals:
      raise BadInput(f'{spec}: {option!r} is no option; write name=value, with & between two')
    if name in options:
      raise BadInput(f'{spec}: {name} stands there twice, as {options[name]!r} and {value!r}')
    options[name] = value
  return path, options


def _check_options(spec: str, options: Mapping[str, str], known: list[str]) -> None:
  for name in options:
    if name not in known:
      raise BadInput(f'{spec}: unknown option {name!r}; {suggest(name, known)}')


def _check_names(spec: str, names: Mapping[str, str], known: list[str]) -> None:
  """Whether each name is one that is read, and each column gets one name."""
  for name, column in names.items():
    if name not in known:
      raise BadInput(
        f'{spec}: unknown option {name!r}, which is no column that is read either; '
        f'{suggest(name, known) if difflib.get_close_matches(name, known) else _LISTED}'
      )
    if others := [other for other in names if column and names[other] == column and other != name]:
      raise BadInput(
        f'{spec}: the column {column!r} cannot be both {name} and {others[0]}; choose one of them'
      )


def _renamed(rows: Iterable[Place], names: Mapping[str, str]) -> Iterator[Place]:
  """The rows with columns under other names; a column that gives its place to one is left out."""
  columns = {*names, *names.values()}
  for where, row in rows:
    if not isinstance(row, Mapping):
      raise BadInput(f'{where}: {type(row).__name__} instead of an object, so no column is renamed')
    for name, column in names.items():
      if column and column not in row:
        raise BadInput(
          f'{where}: no column {column!r} to be read as {name!r}; {suggest(column, [*row])}'
        )
    rest = {name: value for name, value in row.items() if name not in columns}
    yield where, {name: row[column] for name, column in names.items() if column} | rest


# --- what is opened ----------------------------------------------------------------------------


class _Opened(NamedTuple):
  """A dataset or files.

  name: for people.
  options: those that it knows, beside those about columns.
  has_columns: whether it is more than texts.
  columns: their names, where these are known before it is read.
  rows: a function from a column, or None for all, to what is read.
  splits: those that it has of its own.
  """

  name: str
  options: list[str]
  has_columns: bool
  columns: Collection[str] | None
  rows: Callable[[str | None], Iterator[Place]]
  splits: Collection[str]


def _opened(spec: str, options: Mapping[str, str], split: str, what: str = 'document') -> _Opened:
  if spec.startswith('tfds:'):
    dataset = tfds.Prepared(spec)
    part = options.get('split', split)
    read = dataset.rows(part)
    return _Opened(
      name=f'{spec!r}, split={part!r}',
      options=['split'],
      has_columns=True,
      columns=dataset.features,
      rows=lambda column: read() if column is None else read(column),
      splits=() if 'split' in options else dataset.splits,
    )
  files = paths.paths(spec)
  name, folders = repr(spec), arrow.splits(files[0]) if arrow.is_saved(files[0]) else {}
  if folders:
    part = options.get('split', split)
    if part not in folders:
      raise BadInput(
        f'{spec}: no split {part!r}; it has: {", ".join(folders)}; choose with ?split='
      )
    name, files = f'{name}, split={part!r}', [folders[part]]
    arrow.files(files[0])  # they are there
  kinds = {paths.kind(path) for path in files}
  if what == 'record' and '.txt' in kinds:
    path = next(path for path in files if paths.kind(path) == '.txt')
    raise BadInput(f'{path}: text has no records; use .jsonl, .json, .csv, .tsv or .parquet')
  read = {kind: _reader(spec, kind, options) for kind in kinds}
  for path in files:
    paths.check(path)
  return _Opened(
    name=name + (f', split={options["split"]!r}' if 'split' in options and not folders else ''),
    options=['split'] * bool(folders or '.txt' in kinds) + [*_CELLS] * bool(kinds & {*_DELIMITERS}),
    has_columns=bool(kinds - {'.txt'}),
    columns=None,
    rows=lambda column: _never_empty(files, lambda p: read[paths.kind(p)](p, column), what),
    splits=() if 'split' in options else folders,
  )


def _reader(
  spec: str, kind: str, options: Mapping[str, str]
) -> Callable[[str, str | None], Iterator[Place]]:
  """A function that reads a file of a kind: all columns, or the one that is given."""
  match kind:
    case '.txt':
      split = options.get('split')
      if split is not None and split not in _TXT_SPLITS:
        raise BadInput(f'{spec}: no split={split}; {suggest(split, list(_TXT_SPLITS))}')
      return lambda path, column: ((path, {column: text}) for text in _txt(path, split))
    case '.arrow' | '.parquet':
      return lambda path, column: arrow.rows(path, kind, column)
    case '.jsonl':
      return lambda path, column: tables.json_lines(path, lines(path))
    case '.json':
      return lambda path, column: tables.json_rows(path, lines(path))
  if (quotes := options.get('quotes', 'yes')) not in ('yes', 'no'):
    raise BadInput(f'{spec}: no quotes={quotes}; choose from: yes, no')
  names = options['names'].split(',') if 'names' in options else None
  cells: dict[str, Any] = dict(delimiter=_DELIMITERS[kind], names=names, quotes=quotes == 'yes')
  return lambda path, column: tables.csv_rows(path, lines(path), **cells)


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


def _txt(path: str, split: str | None) -> Iterator[str]:
  texts = (line.removesuffix('\n').removesuffix('\r') for _, line in lines(path))
  if split == 'line':
    yield from filter(str.strip, texts)
  elif split == 'blank':
    for has_text, group in itertools.groupby(texts, key=lambda line: bool(line.strip())):
      if has_text:
        yield '\n'.join(group)
  else:
    text = '\n'.join(texts)
    if text.strip():
      yield text

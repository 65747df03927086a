"""Every option of a config, with its value, range and meaning, as `--help` prints them.

A job says what its own fields are (`Fields`) and which function each group of its config feeds
(`groups`). The options of a function are its keywords, described where they are written.
"""

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from ml_collections import ConfigDict

from llm_jax.find import find, names
from llm_jax.options import NO_DEFAULT, Option, options_of

WIDTH = 100
COLUMN = 44  # where types and choices begin
PACKAGE = 'llm_jax'


class Row(NamedTuple):
  """An option of a config.

  Attributes:
    path: as the command line names it.
    value: in the config, or else the default.
    given: whether the config has it.
    option: what is known of it; None for a field of a group whose fields may have any name.
    meaning: of the option, or else of the group.
  """

  path: str
  value: Any
  given: bool
  option: Option | None
  meaning: str


def lines(config: Any, prefix: str = '') -> Iterator[str]:
  """The list for a config and for the configs of other jobs inside of it.

  Raises:
    BadInput: a name in the config is that of no file.
  """
  for (section, title), rows in sections(config).items():
    head = f'{prefix}{section}'.rstrip('.')
    yield from textwrap.wrap(f'{head}: {title}' if head else title, WIDTH, subsequent_indent='  ')
    for row in rows:
      yield from _shown(row, prefix, title)
    yield ''
  for path, inner in _inside(config):
    yield from lines(inner, f'{prefix}{path}.')


def _inside(group: Any) -> Iterator[tuple[str, ConfigDict]]:
  """(path, config) of each config of another job in a config, also of those in its groups."""
  for name, value in group.items():
    if _is_config(value):
      yield name, value
    elif isinstance(value, ConfigDict):
      yield from ((f'{name}.{path}', inner) for path, inner in _inside(value))


def fields(config: Any) -> dict[str, Option]:
  """The fields of a job itself, by name.

  Raises:
    BadInput: there is no such job.
  """
  own = [function for path, function, _ in _functions(config) if not path]
  return {name: option for function in own for name, option in options_of(function).items()}


def _functions(config: Any) -> list[tuple[str, Any, Sequence[str]]]:
  """(group, the function or dataclass that its options are for, those that the job fills in)."""
  job = find('jobs', config.get('job'))
  own = [('', job.Fields, ())] if hasattr(job, 'Fields') else []  # a job of a user's may have none
  return [*own, *(job.groups(config) if hasattr(job, 'groups') else ())]


def sections(config: Any) -> dict[tuple[str, str], list[Row]]:
  """The options by (group, what it is for), with those of the job itself under '' first."""
  titles: dict[str, str] = {'': _first(find('jobs', config.job))}
  known: dict[str, Option] = {}
  groups = ['']
  for path, function, supplied in _functions(config):
    module, options = inspect.getmodule(function), options_of(function)
    options = {**_preset(module), **options}
    if 'name' in _value(config, path) and 'name' not in options:
      titles[path] = _first(module)
      options = {'name': _name(module), **options}
    for name, option in options.items():
      if name not in supplied and not _is_config(_value(config, path).get(name)):
        known.setdefault(f'{path}.{name}'.lstrip('.'), option)
    titles.setdefault(path, known[path].meaning if path in known else _first(module))
    groups.append(path)
  given = dict(_leaves(config))
  paths = list(dict.fromkeys([*known, *given]))
  opened = {path for path in paths if any(other.startswith(f'{path}.') for other in paths)}
  rows: dict[str, list[Row]] = {}
  for path in paths:
    if path not in opened:
      option = known.get(path)
      nearest = next((known[p] for p in _upwards(path) if p in known), None)
      row = Row(
        path=path,
        value=given.get(path, option and option.default),
        given=path in given,
        option=option,
        meaning=nearest.meaning if nearest else '',
      )
      head = path.partition('.')[0] if '.' in path else ''
      section = next((p for p in _upwards(path) if p in groups), head)
      rows.setdefault(section, []).append(row)
      titles.setdefault(section, row.meaning)
  order = [path.partition('.')[0] for path in paths]
  # In the order of the job's fields, and what is of a group itself before the groups inside.
  place = lambda section: (
    order.index(section.partition('.')[0]) if section else -1,
    '.' in section,
  )
  return {(section, titles[section]): rows[section] for section in sorted(rows, key=place)}


def _preset(module: Any) -> dict[str, Option]:
  """The option `preset`, where a file has some."""
  presets = getattr(module, 'PRESETS', None)
  told = 'options under one name; those that are given too win.'
  return {'preset': Option('preset', None, Literal[tuple(presets)], told)} if presets else {}


def _name(module: Any) -> Option:
  """The option that chose a file."""
  package, _, room = module.__name__.rpartition('.')[0].partition('.')
  hint: Any = Literal[tuple(names(room))] if package == PACKAGE else str
  return Option('name', NO_DEFAULT, hint, 'a file of ours, a module of yours, or a path.')


def _first(module: Any) -> str:
  """The first sentence of a module."""
  return (getattr(module, '__doc__', None) or '').partition('\n')[0]


def _value(config: ConfigDict, path: str) -> Any:
  inner: Any = config
  for part in path.split('.') if path else ():
    inner = inner.get(part) or {}
  return inner


def _leaves(group: ConfigDict, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """(path, value) of every field, without the configs of other jobs."""
  for name, value in group.items():
    if isinstance(value, ConfigDict) and value and not _is_config(value):
      yield from _leaves(value, f'{prefix}{name}.')
    elif not _is_config(value):
      yield f'{prefix}{name}', value.to_dict() if isinstance(value, ConfigDict) else value


def _is_config(value: Any) -> bool:
  return isinstance(value, ConfigDict) and 'job' in value


def _upwards(path: str) -> Iterator[str]:
  while path:
    yield path
    path = path.rpartition('.')[0]


def _shown(row: Row, prefix: str, title: str) -> Iterator[str]:
  """A row as lines: its value, what it may be, and what it means."""
  value = '(must be given)' if row.value is NO_DEFAULT else repr(row.value)
  left = f'  {prefix}{row.path} = {value if len(value) <= 60 else f"{value[:60]}..."}'
  right = textwrap.wrap(facts(row), WIDTH - COLUMN)
  if right and len(left) < COLUMN:
    left = f'{left:{COLUMN - 1}} {right.pop(0)}'
  yield left
  yield from (f'{"":{COLUMN}}{line}' for line in right)
  if row.meaning != title:
    indent = ' ' * 6
    yield from textwrap.wrap(
      row.meaning, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def facts(row: Row) -> str:
  """What an option may be, its default, and which kinds use it."""
  option = row.option
  if option is None:
    return ''
  kind, none, _ = option.type.partition(' or None')
  facts = [(' | '.join(map(str, option.choices)) or f'{kind} {option.range}'.strip()) + none]
  if row.given and option.default not in (NO_DEFAULT, row.value):
    facts.append(f'default {option.default!r}')
  each = [k if d == option.default else f'{k} (default {d!r})' for k, d in option.kinds.items()]
  return '; '.join([*facts, *([f'used by {", ".join(each)}'] if each else [])])

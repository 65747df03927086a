"""Options, each written once: type, range and default in a signature, meaning in a docstring.

A range is a note of an annotation, choices are a `Literal`:

  def loss_fn(params, batch, rng, *, model, beta: Positive = 0.1, average: Literal['mean', 'sum']):
"""

import dataclasses
import functools
import inspect
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from llm_jax.nearest import nearest
from llm_jax.types import BadInput

F = TypeVar('F', bound=Callable[..., Any])
NO_DEFAULT = inspect.Parameter.empty
_NUMBERS = ('number', 'whole number')
# Types as messages name them.
NOUNS = {
  float: 'number',
  int: 'whole number',
  str: 'text',
  bool: 'True or False',
  type(None): 'None',
  Any: 'anything',
}


class Range(NamedTuple):
  """Which numbers or texts an option may be: in words, which follow 'a number', and as a test.

  Every number is finite besides, whatever its range; see `held`.
  """

  text: str
  holds: Callable[[Any], bool]


def within(low: float, high: float) -> Range:
  """The closed interval [low, high].

  >>> within(0, 1).holds(1)
  True
  """
  return Range(f'from {low} to {high}', lambda x: low <= x <= high)


def above(low: float, *, up_to: float | None = None) -> Range:
  """Numbers above `low`, or the half-open interval (low, up_to].

  >>> above(0).holds(0), above(0, up_to=0.5).holds(0.5)
  (False, True)
  """
  text = f'above {low}' + ('' if up_to is None else f', up to {up_to}')
  return Range(text, lambda x: low < x and (up_to is None or x <= up_to))


def at_least(low: float, *, below: float | None = None) -> Range:
  """Numbers from `low`, or the half-open interval [low, below).

  >>> at_least(0).holds(0), at_least(0, below=0.5).holds(0.5)
  (True, False)
  """
  text = f'from {low} upwards' if below is None else f'from {low}, below {below}'
  return Range(text, lambda x: low <= x and (below is None or x < below))


def is_local(path: Any) -> bool:
  """Whether a path may be that of a file or folder here; not '', and no URL.

  >>> is_local('runs/a'), is_local('gs://bucket/a'), is_local(' ')
  (True, False, False)
  """
  return bool(str(path).strip()) and '://' not in str(path) and '\0' not in str(path)


def _is_pattern(text: Any) -> bool:
  try:
    return bool(re.compile(text))
  except (re.error, RecursionError, OverflowError):
    return False


Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, at_least(0)]
Share = Annotated[float, within(0, 1)]
Count = Annotated[int, at_least(1)]
Seed = Annotated[int, within(0, 2**32 - 1)]  # what JAX's keys and NumPy's generators both take
Seconds = Annotated[float, above(0, up_to=24 * 3600)]
Pattern = Annotated[str, Range('that is a regular expression', _is_pattern)]
_PLACE = 'that names a file or folder of this machine'
Place = Annotated[str, Range(_PLACE, is_local)]
PlaceOrNone = Annotated[str, Range(f"{_PLACE}, or ''", lambda path: path == '' or is_local(path))]
TopP = Annotated[float, above(0, up_to=1)]  # probability that the kept tokens have together
MinP = Annotated[float, at_least(0, below=1)]


def held(value: Any) -> bool:
  """Whether arrays of this package can hold a number: 32 bits, and no infinity.

  >>> [held(x) for x in (1e-7, 2**31, float('nan'), float('inf'), 1e39, 1e-50, 10**400)]
  [True, True, False, False, False, False, False]
  """
  if isinstance(value, numbers.Integral):
    return abs(int(value)) < 2**32
  size = abs(float(value))
  return size == 0 or 2.0**-149 <= size < 2.0**128


class Option(NamedTuple):
  """An option of a function.

  name: as a config writes it.
  default: `NO_DEFAULT` where there is none; that of the default kind where kinds differ.
  hint: its annotation.
  meaning: what the docstring says of it.
  kinds: the kinds that use it, with their defaults; empty where it does not depend on the kind.
  """

  name: str
  default: Any
  hint: Any
  meaning: str
  kinds: Mapping[str, Any] = types.MappingProxyType({})

  @property
  def required(self) -> bool:
    """Whether a caller has to give it."""
    return self.default is NO_DEFAULT

  @property
  def type(self) -> str:
    """Its type in words, without choices and ranges: 'number or None'."""
    return _type(self.hint)

  @property
  def choices(self) -> tuple[Any, ...]:
    """The values it may have, where these are listed."""
    return tuple(
      name
      for part in _parts(self.hint)
      if typing.get_origin(part) is Literal
      for name in typing.get_args(part)
    )

  @property
  def range(self) -> str:
    """The numbers it may be, in words: 'above 0'."""
    return _range(self.hint)


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
  """The keyword-only parameters of a function, or the fields of a dataclass, by name.

  Those that its kinds add follow `kind`.

  >>> def loss_fn(params, *, model, beta: Positive = 0.1):
  ...   '''A loss.
  ...
  ...   Args:
  ...     beta: scale of the
  ...       rewards.
  ...   '''
  >>> beta = options_of(loss_fn)['beta']
  >>> beta.default, beta.type, beta.range, beta.meaning
  (0.1, 'number', 'above 0', 'scale of the rewards.')
  """
  meanings = _meanings(function)
  found = {
    name: Option(name, default, hint, meanings.get(name, ''))
    for name, (default, hint) in _signature(function).items()
  }
  table = getattr(function, 'kinds', None)
  if not table:
    return found
  chosen = found['kind'].default
  added: dict[str, Option] = {}
  for kind in sorted(table, key=lambda kind: kind != chosen):  # the default's options first
    for name, option in options_of(table[kind]).items():
      known = added.get(name, option._replace(meaning=meanings.get(name, option.meaning)))
      added[name] = known._replace(kinds={**known.kinds, kind: option.default})
  at = [*found].index('kind') + 1
  found['kind'] = found['kind']._replace(hint=Literal[tuple(table)])
  rows = [*found.items()]
  return dict([*rows[:at], *added.items(), *rows[at:]])


def check(
  function: Callable[..., Any],
  given: Mapping[str, Any],
  *,
  where: str,
  supplied: Collection[str] = (),
  offered: Collection[str] = (),
) -> None:
  """Holds `given` against the options of a function or a dataclass, and against its rules.

  Args:
    function: what the options are for.
    given: options by name.
    where: what the message begins with, such as 'loss'.
    supplied: names that the caller fills in, which `given` must not have.
    offered: names that the caller fills in where `given` does not.

  Raises:
    BadInput: an unknown name, a missing one, a wrong type, choice or range, an option that the kind
      does not use, or options that do not go together.

  >>> def loss_fn(*, kind: Literal['ipo', 'sft'] = 'ipo', beta: Positive = 0.1): ...
  >>> check(loss_fn, {'beta': -1}, where='loss')
  Traceback (most recent call last):
  llm_jax.types.BadInput: loss: beta -1; choose a number above 0
  >>> check(loss_fn, {'kind': 'ippo'}, where='loss')
  Traceback (most recent call last):
  llm_jax.types.BadInput: loss: kind 'ippo'; did you mean 'ipo'?
  """
  known, used = options_of(function), _in_use(function, given)
  open_ended = _takes_any(function)
  for name in sorted(given, key=lambda name: name != 'kind'):  # the others depend on it
    if name not in known or name in supplied:
      if open_ended and name not in supplied:
        continue
      what = 'field' if dataclasses.is_dataclass(function) else 'option'
      names = [name for name in known if name not in supplied]
      raise BadInput(f'{where}: unknown {what} {name!r}; {suggest(name, names)}')
    value, option = given[name], known[name]
    if value is None and (option.kinds or option.default is None):
      continue
    if name not in used:
      listed = ', '.join(name for name in used if known[name].kinds) or 'no options'
      kind = given.get('kind', known['kind'].default)
      raise BadInput(f'{where}: kind {kind!r} does not use {name}; remove it (it uses: {listed})')
    advice = _advice(used[name].hint, value)
    if advice:
      raise BadInput(f'{where}: {name} {value!r}; {advice}')
  for name, option in known.items():
    if option.required and not any(name in names for names in (given, supplied, offered)):
      path = 'config' if where == 'config' else f'config.{where}'
      raise BadInput(f'{where}: {name!r} is missing; set {path}.{name}')
  if hasattr(function, 'rules') and function.rules:
    function.rules(**resolve(function, given))


def resolve(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
  """`given`, and the defaults of all other options; of a function with kinds, those of the kind.

  >>> def make(tokenizer, *, path, length: Count = 8): ...
  >>> resolve(make, {'path': 'x'})
  {'length': 8, 'path': 'x'}
  """
  known, used = options_of(function), _in_use(function, given)
  rest = {k: v for k, v in given.items() if not (v is None and k in known and known[k].kinds)}
  return {k: v.default for k, v in used.items() if not v.required} | rest


def checked(rules: Callable[..., None] | None = None, *, where: str = 'loss') -> Callable[[F], F]:
  """Decorates a function, so that direct calls hold their options against its signature too.

  Args:
    rules: called with all options by name, given or default; raises BadInput for those that do not
      go together.
    where: what the messages begin with.

  >>> @checked(where='area')
  ... def area(*, side: Positive):
  ...   return side**2
  >>> area(side=-1)
  Traceback (most recent call last):
  llm_jax.types.BadInput: area: side -1; choose a number above 0
  """

  def decorate(function: F) -> F:
    @functools.wraps(function)
    def called(*args: Any, **given: Any) -> Any:
      known = options_of(called)
      options = {name: value for name, value in given.items() if name in known}
      check(called, options, where=where)
      if 'kinds' in called.__dict__:
        options = resolve(called, options)
        own = {name: options.pop(name) for name in [*options] if known[name].kinds}
        given = {k: v for k, v in given.items() if k not in known} | options
        given['kind'] = functools.partial(called.__dict__['kinds'][options['kind']], **own)
      return function(*args, **given)

    called.__dict__['rules'] = rules
    return typing.cast(F, called)

  return decorate


def kinds(
  table: Mapping[str, Callable[..., Any]],
  rules: Callable[..., None] | None = None,
  *,
  where: str = 'loss',
) -> Callable[[F], F]:
  """Decorates a function with a keyword `kind`, a name in `table`, as `checked` does.

  It takes the options of the chosen kind as well, which are written in the signature of that kind
  alone. None means the kind's default. As `kind` the function receives that of `table` with its
  options filled in, a `functools.partial`.

  >>> def square(*, side: Positive = 1.0): return side**2
  >>> def circle(*, radius: Positive = 1.0): return 3 * radius**2
  >>> @kinds({'square': square, 'circle': circle}, where='area')
  ... def area(count, *, kind: Any = 'square'):
  ...   return count * kind()
  >>> area(2), area(2, kind='circle', radius=2)
  (2.0, 24)
  >>> area(2, radius=2)
  Traceback (most recent call last):
  llm_jax.types.BadInput: area: kind 'square' does not use radius; remove it (it uses: side)
  """

  def decorate(function: F) -> F:
    called = checked(rules, where=where)(function)
    called.__dict__['kinds'] = table
    return called

  return decorate


def suggest(word: str, names: Sequence[str]) -> str:
  """The end of an error message: the closest name, or all of them.

  >>> suggest('adam', ['adamw', 'lion'])
  "did you mean 'adamw'?"
  >>> suggest('zzz', ['adamw', 'lion'])
  'choose from: adamw, lion'
  """
  meant, listed = nearest(word, names), ', '.join(names) if names else 'none'
  return f'did you mean {meant!r}?' if meant else f'choose from: {listed}'


def _in_use(function: Any, given: Mapping[str, Any]) -> dict[str, Option]:
  """Options that the kind in `given` uses, with the defaults and ranges that they have there."""
  options, table = options_of(function), getattr(function, 'kinds', None)
  if not table:
    return options
  kind = given.get('kind', options['kind'].default)
  own = options_of(table[kind]) if kind in table else {}
  return {k: own.get(k, v) for k, v in options.items() if not v.kinds or kind in v.kinds}


def _advice(hint: Any, value: Any) -> str:
  """What to choose instead of `value`; nothing where `hint` allows it."""
  if getattr(value, 'ndim', None) == 0 and hasattr(value, 'item'):
    value = value.item()  # a number of NumPy or JAX
  parts = _parts(hint)
  number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if number and not held(value) and any(_type(part) in _NUMBERS for part in parts):
    size = 'be finite' if value != value or value in (math.inf, -math.inf) else 'fit into 32 bits'
    return f'choose {" or ".join(map(_described, parts))}; it has to {size}'
  if any(_is(part, value) and all(r.holds(value) for r in _notes(part)) for part in parts):
    return ''
  for part in parts:
    if typing.get_origin(part) is Literal and isinstance(value, str):
      return suggest(value, [str(name) for name in typing.get_args(part)])
    if _is(part, value):
      return f'choose {_described(part)}'
  return f'choose {" or ".join(_described(part) for part in parts)}'


def _parts(hint: Any) -> list[Any]:
  """The alternatives of a type."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return [part for each in typing.get_args(hint) for part in _parts(each)]
  return [hint]


def _notes(part: Any) -> list[Range]:
  return [note for note in getattr(part, '__metadata__', ()) if isinstance(note, Range)]


def _is(part: Any, value: Any) -> bool:
  """Whether a value is of a type, which is no union; what cannot be told is."""
  origin, inner = typing.get_origin(part), typing.get_args(part)
  base = origin or part
  if origin is Annotated:
    return _is(inner[0], value)
  if origin is Literal:
    return any(value == x and type(value) is type(x) for x in inner)
  if part in (int, float):
    number = numbers.Integral if part is int else numbers.Real
    return isinstance(value, number) and not isinstance(value, bool)
  if part is str:
    return isinstance(value, (str, os.PathLike))
  if not isinstance(base, type):
    return part is not None or value is None
  named = hasattr(value, 'keys')  # a ConfigDict is no Mapping, and as good as one
  if issubclass(base, Mapping):
    return named and not any(_advice(hint, value[x]) for hint in _items(part) for x in value)
  if base in (Sequence, tuple, list):
    if isinstance(value, (str, bytes)) or named or not hasattr(value, '__len__'):
      return False
    if base is tuple and inner and inner[-1] is not Ellipsis:
      return len(value) == len(inner) and not any(map(_advice, inner, value))
    # Only what is there in full; the rows of a dataset are read when they are wanted.
    short = value if isinstance(value, (list, tuple)) else ()
    return not any(_advice(hint, x) for hint in _items(part) for x in short)
  try:
    return isinstance(value, base)
  except TypeError:  # a Protocol
    return True


def _type(hint: Any) -> str:
  """A type in words, without choices and ranges."""
  names = []
  for part in _parts(hint):
    base, inner = typing.get_origin(part) or part, typing.get_args(part)
    if base is Annotated:
      names.append(_type(inner[0]))
    elif base is Literal:
      names.append(NOUNS[type(inner[0])])
    elif base in NOUNS:
      names.append(NOUNS[base])
    elif base is tuple and inner and inner[-1] is not Ellipsis:
      names.append(f'{len(inner)} {_type(inner[0])}s')
    elif base in (Sequence, tuple, list, Mapping):
      items = [_type(item) for item in _items(part) if item is not Any]
      names.append(('group' if base is Mapping else 'list') + ''.join(f' of {x}s' for x in items))
    else:
      names.append(getattr(base, '__name__', str(base)))
  return ' or '.join(dict.fromkeys(names))


def _items(part: Any) -> tuple[Any, ...]:
  """The type of the items of a list, or of the values of a group."""
  origin, inner = typing.get_origin(part), typing.get_args(part)
  return inner[1:2] if origin is Mapping else inner[:1] if origin in (Sequence, tuple, list) else ()


def _range(hint: Any) -> str:
  """The ranges of a type, or of its items."""
  found = []
  for part in _parts(hint):
    found += [' and '.join(note.text for note in _notes(part)), *map(_range, _items(part))]
  return ' or '.join(dict.fromkeys(filter(None, found)))


def _described(part: Any) -> str:
  """A type as it follows 'choose': with an article, its range, its choices."""
  if typing.get_origin(part) is Literal:
    return f'from: {", ".join(str(x) for x in typing.get_args(part))}'
  name = _type(part)
  article = '' if name[0].isdigit() or name[0].isupper() else 'a '
  return f'{article}{name} {_range(part)}'.rstrip()


def _takes_any(function: Callable[..., Any]) -> bool:
  parameters = inspect.signature(function).parameters.values()
  return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _signature(function: Any) -> dict[str, tuple[Any, Any]]:
  """Default and annotation of each option."""
  try:
    own = isinstance(function, type) and not dataclasses.is_dataclass(function)
    hints = typing.get_type_hints(function.__init__ if own else function, include_extras=True)
  except Exception:  # of a user's file whose annotations name what is not there: anything goes
    hints = {}
  if dataclasses.is_dataclass(function):
    defaults = {f.name: _default(f) for f in dataclasses.fields(function) if f.init}
  else:
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
  return {name: (default, hints.get(name, Any)) for name, default in defaults.items()}


def _default(field: dataclasses.Field) -> Any:
  if field.default_factory is not dataclasses.MISSING:
    return field.default_factory()
  return NO_DEFAULT if field.default is dataclasses.MISSING else field.default


def _meanings(function: Callable[..., Any]) -> dict[str, str]:
  """What `Args:` or `Attributes:` of a docstring says of each name; names may share a line."""
  found: dict[str, str] = {}
  for section in re.findall(
    r'^(?:Args|Attributes):\n((?:(?:[ ]+.*)?\n?)*)', inspect.getdoc(function) or '', re.MULTILINE
  ):
    for names, text in re.findall(
      r'^ {2}(\**\w+(?:, \**\w+)*): *((?:.+\n?)(?: {3,}.*\n?|\n(?= {3}))*)', section, re.MULTILINE
    ):
      found |= dict.fromkeys(re.findall(r'\w+', names), ' '.join(text.split()))
  return found

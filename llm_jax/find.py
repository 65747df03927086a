"""File name = config name: modules and keyword arguments looked up by the words of a config."""

import difflib
import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from llm_jax.types import BadInput

# What a file of a room defines; a file without it is a helper, and no config may name it.
DEFINES = {'losses': 'loss_fn', 'jobs': 'main', 'rewards': 'reward'}


def find(room: str, name: str) -> ModuleType:
  """The module `llm_jax.<room>.<name>`, or, if `name` has a dot, that module of the user's.

  Args:
    room: a package of llm_jax.
    name: a file of it, or a dotted path.

  Raises:
    BadInput: no such module; the message lists what the room holds.
  """
  wanted = DEFINES.get(room, 'make')
  if '.' in name:
    if not _exists(name):
      raise BadInput(
        f'{room}: no module {name!r} can be imported from here; a dotted name is a Python module '
        'on sys.path, such as experiments.focal.loss for experiments/focal/loss.py'
      )
    module = importlib.import_module(name)
    if not hasattr(module, wanted):
      raise BadInput(f'{room}: module {name!r} does not define {wanted}')
    return module
  package = importlib.import_module(f'llm_jax.{room}')
  names = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
  load = lambda name: importlib.import_module(f'llm_jax.{room}.{name}')
  if name in names and hasattr(load(name), wanted):
    return load(name)
  names = [n for n in names if hasattr(load(n), wanted)]
  raise BadInput(f'{room}: no {name!r}; {suggest(name, names)}')


def named(group: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
  """The `name` of a config group, and its other fields.

  Raises:
    BadInput: it has no name.
  """
  rest = dict(group)
  if 'name' not in rest:
    raise BadInput(f'{where}: {"name"!r} is missing; set config.{where}.name')
  return rest.pop('name'), rest


def _exists(dotted: str) -> bool:
  try:
    return importlib.util.find_spec(dotted) is not None
  except (ImportError, ValueError):  # a parent package is missing, or the name is no path
    return False


def bind(function: Callable, hyper: Mapping[str, Any], *, where: str, **given: Any) -> Callable:
  """`function` with the keywords of a config group and those `given` by the caller filled in.

  Every keyword must be one the function names, so a typo or an option it does not use is an error.

  Raises:
    BadInput: naming the keyword, the function and the closest keyword that exists.
  """
  check(function, hyper, where=where, given=given)
  return functools.partial(function, **given, **hyper)


def preset(module: ModuleType, hyper: Mapping[str, Any], *, where: str) -> dict[str, Any]:
  """The keywords of a config group; those of its `preset`, a name in `module.PRESETS`, come first.

  Raises:
    BadInput: no such preset.
  """
  rest = dict(hyper)
  if 'preset' in rest:
    known, name = getattr(module, 'PRESETS', {}), rest.pop('preset')
    if name not in known:
      raise BadInput(f'{where}.preset: no {name!r}; {suggest(str(name), sorted(known))}')
    rest = {**known[name], **rest}
  return rest


def call(
  function: Callable,
  hyper: Mapping[str, Any],
  *args: Any,
  where: str,
  offered: Mapping[str, Any] = {},
  **given: Any,
) -> Any:
  """`function(*args, **given, **hyper)` after the check of `bind`; a missing keyword is named.

  What is `offered` is given only to a function that names it and whose config did not set it.
  """
  check(function, hyper, where=where, given=given)
  takes = inspect.signature(function).parameters
  given = {k: v for k, v in offered.items() if k in takes and k not in hyper} | given
  required = [
    p.name
    for p in inspect.signature(function).parameters.values()
    if p.kind is p.KEYWORD_ONLY and p.default is p.empty
  ]
  missing = [name for name in required if name not in hyper and name not in given]
  if missing:
    raise BadInput(f'{where}: {missing[0]!r} is missing; set config.{where}.{missing[0]}')
  return function(*args, **given, **hyper)


def check(
  function: Callable, hyper: Mapping[str, Any], *, where: str, given: Mapping[str, Any] = {}
) -> None:
  """Raises BadInput if `hyper` has a keyword that `function` does not name."""
  parameters = inspect.signature(function).parameters.values()
  if any(p.kind is p.VAR_KEYWORD for p in parameters):
    return
  names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in given]
  for key in hyper:
    if key not in names:
      raise BadInput(f'{where}: unknown option {key!r}; {suggest(key, names)}')


def suggest(word: str, names: list[str]) -> str:
  """The end of an error message: the closest name, or all of them."""
  close = difflib.get_close_matches(word, names, n=1)
  listed = ', '.join(names) if names else 'none'
  return f'did you mean {close[0]!r}?' if close else f'choose from: {listed}'

"""File name = config name: modules and keyword arguments looked up by the words of a config."""

import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from llm_jax.options import check, suggest
from llm_jax.types import BadInput

# What a file of a room defines, one of these; a file without is a helper, and no config names it.
DEFINES = {
  'losses': ('loss_fn',),
  'jobs': ('main',),
  'rewards': ('reward', 'rewards'),
  'clean.words': ('split',),
}


def find(
  room: str,
  name: str,
  *,
  source: str = '',
  trust: Collection[str] = (),
  defines: tuple[str, ...] = (),
) -> ModuleType:
  """The file that a config names: one of the room, or else one of the user's.

  A name that was read from a file is no name in a config: it finds files of the room alone, and
  those that the user trusts.

  Args:
    room: a package of llm_jax.
    name: a file of the room (`dpo`), a module that Python can import from here (`mine.loss`, or
      `mine` where the room has no such file), or a path (`mine/loss.py`).
    source: where the name was read, if it does not stand in a config.
    trust: names outside of the room that may be imported although a `source` gives them.
    defines: what the file has to define, one of these, where that is not what the room's files do.

  Raises:
    BadInput: there is no such file, it does not define what files of the room do, or it cannot be
      imported; the message says what the room holds, or which line of the user's file is wrong.
      Or the name is that of a file which nobody trusts; then nothing is imported.
  """
  if not isinstance(name, str):
    raise BadInput(f"{room}: {name!r} is no name; a name is a text, such as 'mine.loss'")
  wanted = defines or _wanted(room)
  if name in _files(room) and _defines(ours := _load(room, name), wanted):
    return ours
  if source and name not in trust:
    shown = name if len(name) <= 80 else f'{name[:80]}...'
    raise BadInput(
      f'{room}: {source} names {shown!r}, which is no file of llm_jax/{room} and is not imported; '
      f'if that is your own code, add --config.trust="({shown!r},)"'
    )
  if '/' in name or name.endswith('.py'):
    path = _path(room, name)
    module = _imported(room, path, lambda: _at(path))
  elif _exists(name):
    module = _imported(room, name, lambda: importlib.import_module(name))
  elif '.' in name or defines:
    raise BadInput(
      f'{room}: no module {name!r} can be imported from here; a name is a Python module on '
      'sys.path, such as experiments.focal.loss for experiments/focal/loss.py'
    )
  else:
    raise BadInput(f'{room}: no {name!r}; {suggest(name, names(room))}')
  if not _defines(module, wanted):
    raise BadInput(f'{room}: {name!r} does not define {" or ".join(wanted)}')
  return module


def names(room: str) -> list[str]:
  """What `find` knows in a room of ours."""
  return [name for name in _files(room) if _defines(_load(room, name), _wanted(room))]


def _files(room: str) -> list[str]:
  package = importlib.import_module(f'llm_jax.{room}')
  return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def _load(room: str, name: str) -> ModuleType:
  return importlib.import_module(f'llm_jax.{room}.{name}')


def _wanted(room: str) -> tuple[str, ...]:
  return DEFINES.get(room, ('make',))


def _defines(module: ModuleType, wanted: tuple[str, ...]) -> bool:
  return any(hasattr(module, word) for word in wanted)


def last(name: str) -> str:
  """What a module of a user's is called where only its own name matters.

  >>> last('mine.rewards.polite'), last('mine/polite.py'), last('verify')
  ('polite', 'polite', 'verify')
  """
  return name.removesuffix('.py').replace('/', '.').rpartition('.')[-1]


def _exists(dotted: str) -> bool:
  try:
    return importlib.util.find_spec(dotted) is not None
  except (ImportError, ValueError):  # a parent package is missing, or the name is no path
    return False


def _path(room: str, name: str) -> Path:
  """The file that a path leads to."""
  path = Path(name).expanduser().resolve()
  if not path.is_file() or path.suffix != '.py':
    close = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob('*.py')], n=1)
    hint = f'; did you mean {str(Path(name).with_name(close[0]))!r}?' if close else ''
    raise BadInput(f'{room}: no Python file {name!r} in {Path.cwd()}{hint}')
  return path


def _at(path: Path) -> ModuleType:
  """The module of a file, loaded once; the one of its dotted name where it has one."""
  if str(path) in sys.modules:
    return sys.modules[str(path)]
  root = path.parent
  while (root / '__init__.py').is_file():
    root = root.parent
  if root != path.parent and str(root) not in sys.path:
    sys.path.append(str(root))  # the file may import from its own package
  for folder in (Path(entry).resolve() for entry in sys.path):
    if folder in path.parents:
      dotted = '.'.join(path.relative_to(folder).with_suffix('').parts)
      spec = importlib.util.find_spec(dotted) if _exists(dotted) else None
      if spec and spec.origin and Path(spec.origin).resolve() == path:
        return importlib.import_module(dotted)
  spec: Any = importlib.util.spec_from_file_location(str(path), path)
  module = sys.modules[str(path)] = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[str(path)]
    raise
  return module


def _imported(room: str, name: str | Path, load: Callable[[], ModuleType]) -> ModuleType:
  """What `load` imports.

  Raises:
    BadInput: a mistake inside of it, with its place.
  """
  try:
    return load()
  except Exception as error:
    raise BadInput(f'{room}: {explained(error, name)}') from error


def explained(error: Exception, name: str | Path) -> str:
  """One line on a mistake in a file of the user's, with its place; `name` where that is unknown."""
  said, place = ' '.join(str(error).split()) or 'raised', str(name)
  if isinstance(error, SyntaxError):
    place, said = f'{error.filename or name}:{error.lineno or 1}', str(error.msg)
  ours = (f'{Path(__file__).parent}{os.sep}', os.path.dirname(importlib.__file__), '<')
  steps = [s for s in traceback.extract_tb(error.__traceback__) if not s.filename.startswith(ours)]
  for step in steps:
    if step.filename == steps[0].filename and not isinstance(error, SyntaxError):
      place = f'{step.filename}:{step.lineno}'
  return f'{place}: {type(error).__name__}: {said}'


def named(group: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
  """The `name` of a config group, and its other fields.

  Raises:
    BadInput: it has no name.
  """
  rest = dict(group)
  if 'name' not in rest:
    raise BadInput(f'{where}: {"name"!r} is missing; set config.{where}.name')
  return rest.pop('name'), rest


def bind(function: Callable, hyper: Mapping[str, Any], *, where: str, **given: Any) -> Callable:
  """`function` with the options of a config group and those `given` by the caller filled in.

  >>> def loss_fn(params, *, model, beta: float = 0.1):
  ...   return model, beta
  >>> bind(loss_fn, {'beta': 0.5}, where='loss', model='tiny')(None)
  ('tiny', 0.5)
  >>> bind(loss_fn, {'betta': 0.5}, where='loss', model='tiny')
  Traceback (most recent call last):
  llm_jax.types.BadInput: loss: unknown option 'betta'; did you mean 'beta'?

  Raises:
    BadInput: see `options.check`; every option is checked before the function is called.
  """
  check(function, hyper, where=where, supplied=given)
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
  """`function(*args, **given, **hyper)` after the check of `bind`.

  What is `offered` is given only to a function that names it and whose config did not set it.
  """
  check(function, hyper, where=where, supplied=given, offered=offered)
  takes = inspect.signature(function).parameters
  offered = {k: v for k, v in offered.items() if k in takes}
  return function(*args, **{**offered, **hyper, **given})

"""A config as a file, found by its path or by its name; where there is none, what was meant."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ml_collections import ConfigDict

from llm_jax.nearest import nearest


def configs_folder() -> Path:
  """The configs that are given by name: those of this directory, else those of the package.

  Configs import each other from `configs`. Where Python finds no such package with ours in it, the
  package's own folder is added to what it finds.
  """
  here = Path('configs')
  if (here / 'base.py').is_file():
    return here
  package = Path(__file__).parents[1]
  ours = next(filter(Path.is_dir, (package / 'configs', package.parent / 'configs')))
  found = importlib.util.find_spec('configs')
  places = list(found.submodule_search_locations or ()) if found else []
  if not any((Path(place) / 'base.py').is_file() for place in places):
    module = sys.modules['configs'] = ModuleType('configs')
    module.__path__ = [*places, str(ours)]
  return ours


def load(source: str) -> ConfigDict:
  """The config of `configs/dpo.py`, `dpo` or `dpo:15m`, as its file gives it.

  Raises:
    SystemExit: there is no such file, or it refuses.
  """
  if '://' in source:
    sys.exit(f'error: config: {source!r} is no file of this machine; copy it here first')
  name, colon, size = source.partition(':')
  path = _found(name)
  try:
    spec: Any = importlib.util.spec_from_file_location('config_config', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, 'get_config'):
      sys.exit(f'error: config: {path} has no function get_config; it is a part of other configs')
    config = module.get_config(*([size] if colon else []))
  except ValueError as error:  # what the file itself refuses, such as a size
    sys.exit(f'error: config: {path}: {" ".join(str(error).split())}')
  except Exception as error:
    from llm_jax.find import explained

    sys.exit(f'error: config: {explained(error, str(path))}')
  if not isinstance(config, ConfigDict) or 'job' not in config:
    sys.exit(f'error: config: get_config of {path} gives no ConfigDict with a field `job`')
  return config


def _found(name: str) -> Path:
  """The file of `dpo`, `dpo.py`, `configs/dpo.py` or any other path.

  Where this directory has no file of that path, the configs that come with the package have it.
  """
  configs = configs_folder()
  stem = name.removeprefix('configs/').removesuffix('.py')
  for path in (Path(name), configs / f'{stem}.py', configs / f'{stem.lower()}.py'):
    if path.is_file():
      if path.suffix != '.py':
        sys.exit(f'error: config: {name!r} is no Python file; --help lists the configs there are')
      return path
  _no_file(name)


def _no_file(name: str) -> NoReturn:
  """Says what is there in the place of a config, or which one was meant."""
  path, here = Path(name), Path.cwd()
  if path.is_dir():
    there = f'{name!r} is a folder, and a config is a file'
    run = any((path / file).is_file() for file in ('artifact.json', 'config.json', 'seconds.json'))
    near = f'; to use a run, write such as --config=chat --config.artifact={name}' if run else ''
    sys.exit(f'error: config: {there}{near}; --help lists configs, and what can be done with runs')
  if (Path(__file__).parent / f'{name}.py').is_file():
    sys.exit(
      f'error: config: {name!r} is a job, which configs name; give one of these, such as pretrain '
      'or sft; --help lists them'
    )
  found = [str(path) for path in path.parent.glob('*.py')]
  found += [path.stem for path in configs_folder().glob('*.py')]
  meant = nearest(name, found)
  near = f'did you mean {meant!r}?' if meant else '--help lists what there is'
  sys.exit(f'error: config: no file {name!r} in {here}; {near}')

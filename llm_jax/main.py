"""The one door: `python -m llm_jax.main --config=FILE` runs `jobs/<config.job>.py`."""

import ast
import difflib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags


def run(config: Any) -> None:
  """Runs the jobs that a config requires, in order, then its own.

  Args:
    config: a ConfigDict; `job` names a file in `jobs/` (or a dotted module), `requires` names
      groups of the config that are whole configs of other jobs, which come first. A job that is
      finished returns at once. A job with a function `check` sees its config before any of that.
  """
  from llm_jax.find import find

  job = find('jobs', config.job)
  if hasattr(job, 'check'):
    job.check(config)
  for name in config.get('requires', ()):
    run(config[name])
  job.main(config)


def read_config(argv: Sequence[str]) -> ConfigDict:
  """The config of a command line: a file, its size, and fields set by `--config.group.field=`.

  A field that the file lists is set by ml_collections, which checks its type. One that it does not
  list may be added to a group, since a group is the keyword arguments of some function, and that
  function's signature is asked later; so may a group inside of a group. The fields of the job
  itself are a closed list.

  Raises:
    SystemExit: one line that names what is wrong.
  """
  options = [word for word in argv[1:] if word.startswith('--config=')]
  strays = [word for word in argv[1:] if not word.startswith(('--config=', '--config.'))]
  if strays:
    sys.exit(f'error: what is {strays[0]!r}? options look like --config.total_steps=100')
  if len(options) != 1:
    sys.exit('error: which config? give one, such as --config=configs/pretrain.py')
  path = options[0].removeprefix('--config=').partition(':')[0]
  if not Path(path).is_file():
    found = sorted(str(p) for p in Path(path).parent.glob('*.py')) if Path(path).parent else []
    close = difflib.get_close_matches(path, found, n=1)
    hint = f'; did you mean {close[0]!r}?' if close else ''
    sys.exit(f'error: config: no file {path!r} in {Path.cwd()}{hint}')
  plain = _load([argv[0], *options])
  listed, added = [], {}
  for word in argv[1:]:
    name, equals, value = word.removeprefix('--config.').partition('=')
    if word in options or _lists(plain, name):
      listed.append(word)
    elif not equals:
      sys.exit(f'error: {word}: a value is missing; write {word}=...')
    else:
      added[name] = value
  config = _load([argv[0], *listed])
  for name, value in added.items():
    group, _, field = name.rpartition('.')
    inner = config
    for depth, part in enumerate(filter(None, group.split('.'))):
      if depth and isinstance(inner, ConfigDict) and part not in inner and 'job' not in inner:
        with config.unlocked():
          inner[part] = ConfigDict()  # a group of a group, such as model.lora
      inner = inner.get(part) if isinstance(inner, ConfigDict) else None
    if not isinstance(inner, ConfigDict) or 'job' in inner:
      names = [*config]
      if isinstance(inner, ConfigDict):
        names += [f'{group}.{key}' for key in inner]
      close = difflib.get_close_matches(name, names, n=1) or sorted(config)
      sys.exit(f'error: config: unknown field {name!r}; did you mean {" or ".join(close)}?')
    with config.unlocked():
      inner[field] = literal(value)
  return config


def _load(argv: list[str]) -> ConfigDict:
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file('config', flag_values=values)
  before, sys.argv = sys.argv, argv  # where config_flags looks for overrides
  try:
    values(argv)
    return holder.value
  except (flags.Error, ValueError, TypeError, KeyError) as error:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    sys.exit(f'error: {lines[-1].removeprefix("ValueError: ")}')
  finally:
    sys.argv = before


def _lists(config: ConfigDict, name: str) -> bool:
  """Whether the config has the field; an index, as in `layers[0]`, is left to ml_collections."""
  inner: Any = config
  for part in name.partition('[')[0].split('.'):
    if not isinstance(inner, ConfigDict) or part not in inner:
      return False
    inner = inner[part]
  return True


def literal(text: str) -> Any:
  """A word of the command line as a Python value, or else as text."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return {'true': True, 'false': False}.get(text.lower(), text)


# What JAX says where another process no longer answers.
GONE = 'UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|Gloo|heartbeat|Connection'


def tune_cpu(*, rounds: bool = False) -> None:
  """The XLA flag that makes CPU training faster; only before JAX is imported.

  YNNPACK for reductions and Eigen for float32 matrix products, where XLA's default is YNNPACK for
  both: experiments/benchmarks/README.md has the measurements. Flags that the user set win.

  Args:
    rounds: products are of bfloat16 operands (`model.product_dtype`), for which YNNPACK is faster.
  """
  given = os.environ.get('XLA_FLAGS', '')
  if 'xla_cpu_experimental_ynn_fusion_type' not in given and not rounds:
    os.environ['XLA_FLAGS'] = f'{given} --xla_cpu_experimental_ynn_fusion_type=reduce'.strip()


def _rounds(config: ConfigDict) -> bool:
  """Whether some model of a config, or of a config inside of it, rounds its products."""
  groups = (value for value in config.values() if isinstance(value, ConfigDict))
  return bool(config.get('product_dtype')) or any(_rounds(group) for group in groups)


def main(argv: Sequence[str]) -> None:
  """Reads the config, starts JAX on every host, runs the job, answers bad input with one line."""
  config = read_config(argv)
  tune_cpu(rounds=_rounds(config))
  import jax

  from llm_jax.parallel.mesh import start_hosts
  from llm_jax.training.loop import Interrupted
  from llm_jax.types import BadInput

  logging.set_verbosity(logging.WARNING)  # Orbax tells a story at INFO
  if not jax.config.values['jax_compilation_cache_dir']:
    cache = os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(Path(cache) / 'llm_jax' / 'compilation'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  try:
    start_hosts()
    run(config)
  except BadInput as error:
    leave(f'error: {error}')
  except Interrupted as stop:
    leave(str(stop))
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1:
      raise
    last = str(error).splitlines()[0]
    if not re.search(GONE, last):
      traceback.print_exc()
      leave(f'stopped: host {jax.process_index()} failed. {last}')
    leave(f'stopped: another host has left, or cannot be reached; start all of them again. {last}')


def leave(message: str) -> NoReturn:
  """Says why and ends the process; one of several without waiting for the others to end too."""
  import jax

  if jax.process_count() == 1:
    sys.exit(message)
  print(message, file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(1)


if __name__ == '__main__':
  flags.FLAGS.mark_as_parsed()  # nothing is left for absl to parse; libraries ask whether it did
  main(sys.argv)

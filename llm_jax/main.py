"""The one door: `python -m llm_jax.main --config=FILE` runs `jobs/<config.job>.py`.

`--help` says what can be run, and with a config all of its options; `--print` shows the config.
"""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import ConfigDict

from llm_jax import __version__
from llm_jax.jobs.command import read_config
from llm_jax.text.terminal import guard, say
from llm_jax.text.visible import visible


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


# What JAX says where another process no longer answers.
GONE = 'UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|Gloo|heartbeat|Connection'


def tune_cpu(*, rounds: bool = False) -> None:
  """The XLA flag that makes CPU training faster; only before JAX is imported.

  YNNPACK for reductions and Eigen for float32 matrix products, where XLA's default is YNNPACK for
  both: experiments/benchmarks/README.md has the measurements. Flags that the user set win.

  Args:
    rounds: products have bfloat16 operands (`compute.product_dtype`), for which YNNPACK is faster.
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
  asked = [word for word in argv[1:] if word in ('--help', '-h', '--print', '--version')]
  rest = [word for word in argv if word not in asked]
  if asked or len(rest) == 1:
    return _tell(asked[0] if asked else '--help', rest)
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


def _tell(what: str, argv: Sequence[str]) -> None:
  """Prints what is asked about the program or about the config of a command line."""
  from llm_jax.jobs import help

  if what == '--version':
    text = f'llm_jax {__version__}'
  elif what == '--print':
    text = help.resolved(read_config(argv))
  else:
    text = help.usage() if len(argv) == 1 else help.options(read_config(argv))
  try:
    say(text)
  except BrokenPipeError:  # `| head` has read enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def leave(message: str) -> NoReturn:
  """Says why and ends the process; one of several without waiting for the others to end too."""
  import jax

  # Counting processes looks for devices, which may take longer than the check that says why.
  if not jax.distributed.is_initialized() or jax.process_count() == 1:
    sys.exit(visible(message, lines=False))
  say(visible(message, lines=False), file=sys.stderr)
  sys.stdout.flush()
  os._exit(1)


def command() -> None:
  """What `llm_jax` and `python -m llm_jax.main` run; both find modules in this directory."""
  if not {'', os.getcwd()} & set(sys.path):
    sys.path.insert(0, os.getcwd())
  guard()
  logging.get_absl_handler().python_handler.stream = sys.stderr
  flags.FLAGS.mark_as_parsed()  # nothing is left for absl to parse; libraries ask whether it did
  main(sys.argv)


if __name__ == '__main__':
  command()

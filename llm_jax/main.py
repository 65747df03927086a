"""The one door: `python -m llm_jax.main --config=FILE` runs `jobs/<config.job>.py`."""

import os
import sys
from pathlib import Path
from typing import Any

from absl import app, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, with its size after a colon: configs/pretrain.py:tiny'
)


def run(config: Any) -> None:
  """Runs the jobs that a config requires, in order, then its own.

  Args:
    config: a ConfigDict; `job` names a file in `jobs/` (or a dotted module), `requires` names
      groups of the config that are whole configs of other jobs, which come first. A job that is
      finished returns at once.
  """
  from llm_jax.find import find

  for name in config.get('requires', ()):
    run(config[name])
  find('jobs', config.job).main(config)


def tune_cpu() -> None:
  """The XLA flag that makes CPU training faster; only before JAX is imported.

  YNNPACK for reductions and Eigen for matrix products, where XLA's default is YNNPACK for both:
  experiments/benchmarks/README.md has the measurements. Flags that the user set win.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if 'xla_cpu_experimental_ynn_fusion_type' not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} --xla_cpu_experimental_ynn_fusion_type=reduce'.strip()


def main(argv: list[str]) -> None:
  """Starts JAX on every host, runs the job, and answers bad input with one line."""
  if len(argv) > 1:
    raise app.UsageError(f'what is {argv[1]!r}? options look like --config.total_steps=100')
  if _CONFIG.value is None:
    raise app.UsageError('which config? for example --config=configs/pretrain.py')
  logging.set_verbosity(logging.WARNING)  # Orbax tells a story at INFO
  tune_cpu()
  import jax

  from llm_jax.parallel.mesh import start_hosts
  from llm_jax.training.loop import Interrupted
  from llm_jax.types import BadInput

  if not jax.config.values['jax_compilation_cache_dir']:
    cache = os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(Path(cache) / 'llm_jax' / 'compilation'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  try:
    start_hosts()
    run(_CONFIG.value)
  except BadInput as error:
    sys.exit(f'error: {error}')
  except Interrupted as stop:
    sys.exit(str(stop))


def cli() -> None:
  """Entry point of the `llm_jax` command."""
  app.run(main)


if __name__ == '__main__':
  cli()

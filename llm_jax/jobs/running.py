"""A config, run: completed from what it starts from, then what it requires, then its own job."""

from typing import Any

from ml_collections import ConfigDict

from llm_jax.find import find
from llm_jax.jobs.donors import follow
from llm_jax.types import BadInput


def check(config: Any) -> None:
  """Completes a config, and asks its job whether it can be.

  Raises:
    BadInput: it cannot.
  """
  follow(config)
  for name in config.get('requires') or ():
    if not isinstance(config.get(name), ConfigDict) or 'job' not in config[name]:
      raise BadInput(f'config: requires {config.requires!r}; {name!r} is no config of a job')
  job = find('jobs', config.job)
  if hasattr(job, 'check'):
    job.check(config)


def prepare(config: Any) -> None:
  """Checks a config, and runs the jobs that it requires."""
  check(config)
  data = config.get('data') or {}
  grows = data.get('path') if data.get('name') == 'growing' else None
  for name in config.get('requires') or ():
    job = find('jobs', config[name].job)
    if hasattr(job, 'agrees') and config[name].workdir == grows:
      job.agrees(config[name])  # another command is at work on it
    else:
      run(config[name])


def run(config: Any) -> None:
  """Runs the jobs that a config requires, then its own; those that are finished return at once.

  Args:
    config: `job` names a file in `jobs/` or a dotted module, `requires` groups of the config that
      are whole configs of other jobs. A job with a function `check` sees its config before any.
  """
  prepare(config)
  try:
    find('jobs', config.job).main(config)
  except OSError as error:  # of a file that was open already, whose name the system does not say
    if error.errno and error.filename is None:
      error.filename = config.get('workdir') or None
    raise

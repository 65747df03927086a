"""A run that is given another number of steps goes on, where that changes nothing it has done."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from llm_jax import artifact
from llm_jax.files import read_json
from llm_jax.find import call
from llm_jax.training import optimizer
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.types import BadInput


def check(config: Any) -> None:
  """Whether a run may have `config.total_steps`, if its folder was begun with another number.

  What is trained then has the bits of a run of that length from the start. So the learning rate of
  each step that was made has to be the same in both, which is up to the schedule: 'constant' is
  always, 'wsd' until its fall begins, and 'cosine' and 'linear' are no longer after the warmup.

  Raises:
    BadInput: naming the schedule and the first step at which the rates differ.
  """
  folder, asked = Path(config.workdir), config.total_steps
  if not (folder / 'config.json').is_file():
    return
  before = read_json(folder / 'config.json', 'delete it to begin anew').get('total_steps', asked)
  if before == asked:
    return
  steps = Checkpoints(folder / 'checkpoints').steps() if (folder / 'checkpoints').is_dir() else []
  done = max(steps, default=0)
  told = f'total_steps: {str(folder)!r} was begun with {before} steps'
  if not steps and (folder / artifact.FILE).is_file():
    raise BadInput(f'{told}, and no checkpoint is left to go on from; choose another workdir')
  if done > asked:
    raise BadInput(f'{told} and has made {done}; choose {done} or more, or another workdir')
  old, new = (_rates(config, total, done) for total in (before, asked))
  if (differing := np.flatnonzero(old != new)).size:
    name = config.optimizer.get('schedule', 'cosine')
    raise BadInput(
      f'{told} and has made {done}, with the learning rates of schedule {name!r}, which are others '
      f'from step {differing[0]} on if there are {asked}; a run goes on with schedule constant, or '
      f'with wsd before its fall; else start a new one with --config.init.params={folder}'
    )


def is_finished(config: Any) -> bool:
  """Whether the folder has the artifact of as many steps as are asked for."""
  folder = Path(config.workdir)
  if not (folder / artifact.FILE).is_file():
    return False
  before = artifact.describe(folder)['config'].get('total_steps', config.total_steps)
  return before == config.total_steps


def _rates(config: Any, total: int, done: int) -> np.ndarray:
  """The learning rate of each step that was made, in a run of so many steps."""
  _, rate = call(optimizer.make, config.optimizer, where='optimizer', total_steps=total)
  return np.broadcast_to(np.asarray(rate(jnp.arange(done))), (done,))

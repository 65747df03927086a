"""An equal budget for all variants, and how many updates of each it pays for."""

import dataclasses
import math
from typing import Any

import jax

from llm_jax import options
from llm_jax.jobs.assembly import assemble
from llm_jax.jobs.design import design
from llm_jax.jobs.start import start
from llm_jax.options import Count, Positive
from llm_jax.types import BadInput

TIMED = 12  # updates of the run that measures how long one takes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """What each run may use; one of them, or the updates that its config has.

  Attributes:
    steps: updates.
    tokens: of all batches.
    flops: of training, forward and backward.
    seconds: of all devices together in updates, at the speed that a short run of the variant shows.
  """

  steps: Count | None = None
  tokens: Positive | None = None
  flops: Positive | None = None
  seconds: Positive | None = None


def of(config: Any) -> Budget:
  """What `config.budget` says.

  Raises:
    BadInput: two budgets at once, or one for a base that has stages of its own.
  """
  group = {k: v for k, v in (config.get('budget') or {}).items() if v is not None}
  options.check(Budget, group, where='budget')
  if len(group) > 1:
    raise BadInput(f'budget: {" and ".join(group)}; choose one of them')
  if group and 'total_steps' not in config.base:
    raise BadInput(
      'budget: the stages of config.base have updates of their own; set them, as in '
      '--config.base.sft.total_steps=200'
    )
  return Budget(**group)


def steps(budget: Budget, config: Any, seconds: float = math.nan) -> int:
  """Updates of a run; 0 for those that its config has.

  Args:
    budget: of each run.
    config: of the run, whose data is there if the budget is in tokens or FLOPs.
    seconds: of an update, on all devices together.

  Raises:
    BadInput: the budget is not enough for one update, or nobody can say what one takes.
  """
  if budget.steps:
    return budget.steps
  if budget.seconds:
    return _whole(budget.seconds / seconds, 'seconds')
  if not (budget.tokens or budget.flops):
    return 0
  made = design(config)
  with jax.set_mesh(made.mesh):
    shape = assemble(config, made, start(config, made.model)).rows_shape
  if shape is None:
    raise BadInput('budget: nobody can say how long sampled rows are; give --config.budget.steps')
  tokens = config.batch_size * math.prod(shape)
  if budget.tokens:
    return _whole(budget.tokens / tokens, 'tokens')
  return _whole((budget.flops or 0) / (tokens * made.model.flops_per_token(shape[-1])), 'flops')


def _whole(updates: float, what: str) -> int:
  if updates < 1:
    raise BadInput(f'budget: {what} are not enough for a single update; give more')
  return int(updates + 1e-9)

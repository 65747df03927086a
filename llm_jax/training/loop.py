"""The one loop: a batch, a step, the hooks. The host never waits for the device here."""

from collections.abc import Callable, Iterable

from llm_jax.training.step import TrainState
from llm_jax.types import Batch, BatchFn, Metrics

StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Hook = Callable[[int, TrainState, Metrics], None]


class Interrupted(Exception):
  """Raised by a hook to leave the loop in order; what was worth saving has been saved."""


def fit(
  state: TrainState,
  batch_fn: BatchFn,
  step_fn: StepFn,
  *,
  total_steps: int,
  hooks: Iterable[Hook] = (),
) -> TrainState:
  """Trains from `state.step` to `total_steps`.

  Args:
    state: donated to the first step.
    batch_fn: (params, step) -> batch.
    step_fn: from `compile_step`.
    total_steps: where to stop; a state that is already there comes back as it is.
    hooks: called after every step as hook(steps done, state, metrics still on the device).
  """
  for step in range(int(state.step), total_steps):
    state, metrics = step_fn(state, batch_fn(state.params, step))
    for hook in hooks:
      hook(step + 1, state, metrics)
  return state

"""The one loop: a batch, a step, the hooks. The device never waits for the host here."""

from collections.abc import Callable, Iterable

from llm_jax.training.run_ahead import RunAhead
from llm_jax.training.signals import Signals
from llm_jax.training.step import TrainState
from llm_jax.types import Batch, BatchFn, Metrics

StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Hook = Callable[[int, TrainState, Metrics], None]


class Interrupted(Exception):
  """Raised to leave the loop in order; what was worth saving has been saved."""


class Stopped(Interrupted):
  """A signal asked for it, and the same command goes on."""


def fit(
  state: TrainState,
  batch_fn: BatchFn,
  step_fn: StepFn,
  *,
  total_steps: int,
  hooks: Iterable[Hook] = (),
  signals: Signals | None = None,
  leave: Callable[[int, TrainState], None] = lambda step, state: None,
) -> TrainState:
  """Trains from `state.step` to `total_steps`.

  Args:
    state: donated to the first step.
    batch_fn: (params, step) -> batch.
    step_fn: from `compile_step`.
    total_steps: where to stop; a state that is already there comes back as it is.
    hooks: called after every step as hook(steps done, state, metrics still on the device).
    signals: what may ask to stop. A batch that is being made is then dropped, and so is the first
      step, which is mostly compilation.
    leave: called once it does, with the steps done and their state; it raises Stopped.
  """
  signals, ahead, first = signals or Signals(), RunAhead(), int(state.step)
  for step in range(first, total_steps):
    make = lambda state=state, step=step: batch_fn(state.params, step)
    batch = signals.cut(make) if signals.may_stop(step) else make()
    ahead.wait(lambda step=step: signals.stop(step))
    if batch is None or signals.stop(step):
      leave(step, state)
      return state
    take = lambda state=state, batch=batch: step_fn(state, batch)
    done = signals.cut(take) if step == first else take()
    if done is None:
      leave(step, state)
      return state
    state, metrics = done
    ahead.launched(metrics)
    for hook in hooks:
      hook(step + 1, state, metrics)
  return state

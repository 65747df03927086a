"""The hook that evaluates, shows samples, saves checkpoints and leaves in order on a signal."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from llm_jax.training import optimizer
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.loop import Interrupted
from llm_jax.training.metrics import Log
from llm_jax.training.step import TrainState
from llm_jax.types import Metrics, Params


class Keeper:
  """A hook of `fit`.

  Args:
    folder: of the run, for the message that an interrupted one leaves.
    total_steps: of the run; its last step is evaluated and saved whatever the intervals are.
    eval_every: steps between evaluations.
    checkpoint_every: steps between checkpoints.
    log: where results go.
    checkpoints: where states go; the validation loss is their score.
    evaluate: (params) -> Metrics with a `loss`. Where there is a `reward` too, the highest reward
      is the best and not the lowest loss, which means nothing in reinforcement learning.
    show: (params) -> lines to print after an evaluation.
    carry: what a checkpoint keeps beside the state, as JSON.
    reuse: steps that share a rollout; a run can only go on from between two rollouts, so one that
      is asked to stop goes on until there.
  """

  def __init__(
    self,
    folder: str | Path,
    *,
    total_steps: int,
    eval_every: int,
    checkpoint_every: int,
    log: Log,
    checkpoints: Checkpoints,
    evaluate: Callable[[Params], Metrics],
    show: Callable[[Params], list[str]],
    carry: Callable[[], Any] = lambda: None,
    reuse: int = 1,
  ) -> None:
    self._folder, self._total_steps = folder, total_steps
    self._eval_every, self._checkpoint_every = eval_every, checkpoint_every
    self._log, self._checkpoints = log, checkpoints
    self._evaluate, self._show = evaluate, show
    self._carry, self._reuse = carry, reuse
    self._signal: int | None = None

  def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
    del metrics
    log, score = self._log, None
    last = step == self._total_steps
    if step % self._eval_every == 0 or last:
      log.flush()
      params = optimizer.averaged_params(state)
      values = {k: float(v.value) for k, v in self._evaluate(params).items()}
      score = -values['reward'] if 'reward' in values else values.get('loss')
      log.validation(step, values)
      for line in self._show(params):
        log.say(f'  | {line}')
      log.restart_clock()
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      self._signal = signal.SIGTERM  # some host was told; all of them hear of it at the same step
    interrupted = self._signal is not None and step % self._reuse == 0
    if step % self._checkpoint_every == 0 or last or interrupted:
      log.flush()  # so that metrics.jsonl holds every step the checkpoint holds
      self._checkpoints.save(step, state, score=score, carry=self._carry())
      log.restart_clock()
    if interrupted and self._signal is not None:
      self._checkpoints.wait()
      raise Interrupted(
        f'{signal.Signals(self._signal).name}: saved step {step} in {self._folder}; '
        'give the same command again and it goes on from there'
      )

  @contextmanager
  def on_signals(self) -> Iterator[None]:
    """While in this context, SIGTERM and SIGINT ask the hook to save and stop.

    The second one acts as it would outside. With several hosts JAX itself listens for SIGTERM, and
    tells them all.
    """
    if jax.process_count() > 1:
      yield
      return
    before: dict[int, Any] = {}

    def restore() -> None:
      for number, handler in before.items():
        signal.signal(number, handler)

    def once(number: int, frame: Any) -> None:
      del frame
      restore()
      self._signal = number

    for number in (signal.SIGTERM, signal.SIGINT):
      before[number] = signal.signal(number, once)
    try:
      yield
    finally:
      restore()

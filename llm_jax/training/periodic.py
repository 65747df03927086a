"""What a run does every so many steps: evaluates, shows samples, saves; and leaves on a signal."""

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from llm_jax.types import Evaluate, Metrics, Params

FIRST = 'validation'  # the evaluation that is asked first which checkpoint is the best


class PeriodicActions:
  """A hook of `fit`.

  Args:
    folder: of the run, for the message that an interrupted one leaves.
    total_steps: of the run; at its last step everything is evaluated and saved whatever the
      intervals are.
    eval_every: steps between two times that samples are shown.
    evaluations: key -> the evaluation, and the steps between two times that it is run. Metrics are
      logged as `<key>/<metric>`.
    checkpoint_every: steps between checkpoints.
    log: where results go.
    checkpoints: where states go, each with the `score` of its step.
    show: (params) -> lines to print every `eval_every` steps.
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
    evaluations: Mapping[str, tuple[Evaluate, int]],
    checkpoint_every: int,
    log: Log,
    checkpoints: Checkpoints,
    show: Callable[[Params], list[str]],
    carry: Callable[[], Any] = lambda: None,
    reuse: int = 1,
  ) -> None:
    self._folder, self._total_steps = folder, total_steps
    self._eval_every, self._evaluations = eval_every, evaluations
    self._checkpoint_every = checkpoint_every
    self._log, self._checkpoints = log, checkpoints
    self._show, self._carry, self._reuse = show, carry, reuse
    self._signal: int | None = None

  def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
    del metrics
    log, best = self._log, None
    last = step == self._total_steps
    due = {k: run for k, (run, every) in self._evaluations.items() if step % every == 0 or last}
    shows = step % self._eval_every == 0 or last
    if due or shows:
      log.flush()
      params, values = optimizer.averaged_params(state), {}
      for key, evaluate in due.items():
        values[key] = {name: float(metric.value) for name, metric in evaluate(params).items()}
        log.evaluated(step, key, values[key])
      best = score(values, self._evaluations)
      for line in self._show(params) if shows else ():
        log.say(f'  | {line}')
      log.restart_clock()
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      self._signal = signal.SIGTERM  # some host got it; all of them hear of it at the same step
    interrupted = self._signal is not None and step % self._reuse == 0
    if step % self._checkpoint_every == 0 or last or interrupted:
      log.flush()  # so that metrics.jsonl holds every step the checkpoint holds
      self._checkpoints.save(step, state, score=best, carry=self._carry())
      log.restart_clock()
    if interrupted and self._signal is not None:
      self._checkpoints.wait()
      raise Interrupted(
        f'{signal.Signals(self._signal).name}: saved step {step} in {self._folder}; '
        'give the same command again and it goes on from there'
      )

  @contextmanager
  def handle_signals(self) -> Iterator[None]:
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


def score(values: Mapping[str, Mapping[str, float]], order: Iterable[str]) -> float | None:
  """How bad a checkpoint is, by what was evaluated at its step; the lowest score is the best.

  The evaluation named `validation` is asked first, then the others in their order. The first one
  with a `reward` or a `loss` decides, always the same one: where it was not due there is no score.
  Where there is a reward, the highest is the best and not the lowest loss, which means nothing in
  reinforcement learning.

  Args:
    values: of the evaluations that were due, by key.
    order: all keys.

  >>> score({'validation': {'loss': 2.5, 'accuracy': 0.5}}, ['questions', 'validation'])
  2.5
  >>> score({'a': {'f1': 0.5}, 'b': {'loss': 9.0, 'reward': 0.75}}, ['a', 'b'])
  -0.75
  >>> score({'b': {'loss': 9.0}}, ['a', 'b'])  # None: `a` may be the one that has a loss
  """
  for key in sorted(order, key=lambda key: key != FIRST):
    if key not in values:
      return None
    if 'reward' in values[key]:
      return -values[key]['reward']
    if 'loss' in values[key]:
      return values[key]['loss']
  return None

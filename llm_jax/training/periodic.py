"""What a run does every so many steps: evaluates, shows samples, saves; and leaves on a signal."""

import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from llm_jax.training import optimizer
from llm_jax.training.boards import Histograms
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.loop import Stopped
from llm_jax.training.metrics import Log
from llm_jax.training.signals import Signals
from llm_jax.training.spans import span
from llm_jax.training.step import TrainState
from llm_jax.types import Evaluate, Metrics, Params

FIRST = 'validation'  # the evaluation that is asked first which checkpoint is the best
UNEVALUATED = 'unevaluated'  # among what is carried: the evaluations of the step are still to come


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
    histograms: (state) -> what the boards of the log show at the same steps.
    carry: what a checkpoint keeps beside the state, as a dict of JSON.
    signals: what may ask to stop. A run that was asked saves and leaves; what it did not evaluate
      before is evaluated when it goes on.
    start_step: steps done when this process starts.
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
    histograms: Callable[[TrainState], Histograms] = lambda state: {},
    carry: Callable[[], dict[str, Any]] = dict,
    signals: Signals | None = None,
    start_step: int = 0,
  ) -> None:
    self._folder, self._total_steps = folder, total_steps
    self._eval_every, self._evaluations = eval_every, evaluations
    self._checkpoint_every = checkpoint_every
    self._log, self._checkpoints = log, checkpoints
    self._show, self._carry, self._histograms = show, carry, histograms
    self._signals, self._start_step = signals or Signals(), start_step
    self._carried = carry()
    self._at, self._best = -1, None  # the step that was evaluated last, and its score

  def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
    del metrics
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      self._signals.number = signal.SIGTERM  # some host got it; all hear of it at the same step
    self._carried = self._carry()  # what is made for the next step may change it
    if self._signals.stop(step):
      self.leave(step, state)
    with span('evaluations and checkpoints'):
      self._evaluate(step, state)
      if step % self._checkpoint_every == 0 or step == self._total_steps:
        self._save(step, state, self._carried)

  def resume(self, state: TrainState, carried: Mapping[str, Any]) -> None:
    """Makes up for the evaluations of a checkpoint that was written in a hurry."""
    if UNEVALUATED in carried:
      self._log.forget_evaluations(self._start_step)  # of a run that was killed while it made up
      self._evaluate(self._start_step, state)
      self._save(self._start_step, state, self._carried)

  def make_up(self, state: TrainState) -> None:
    """Evaluates a state that is published before the end, as the last one of a run would be."""
    self._total_steps = int(state.step)
    self._log.forget_evaluations(self._total_steps)
    self._evaluate(self._total_steps, state)

  def leave(self, step: int, state: TrainState) -> None:
    """Saves, evaluating nothing any more; raises Stopped."""
    name = signal.Signals(self._signals.number or signal.SIGTERM).name
    if step == self._start_step:
      raise Stopped(
        f'{name}: {self._folder} has made no step yet; give the same command to begin again'
      )
    due, _ = self._due(step)
    missing = due and step != self._at  # a signal may also come once the step is evaluated
    self._save(step, state, self._carried | ({UNEVALUATED: True} if missing else {}))
    self._checkpoints.wait()
    raise Stopped(
      f'{name}: saved step {step} in {self._folder}; '
      'give the same command again and it goes on from there'
    )

  def _due(self, step: int) -> tuple[dict[str, Evaluate], bool]:
    """The evaluations of a step, and whether samples are shown."""
    last = step == self._total_steps
    due = {k: run for k, (run, every) in self._evaluations.items() if step % every == 0 or last}
    return due, step % self._eval_every == 0 or last

  def _evaluate(self, step: int, state: TrainState) -> None:
    """Evaluates what is due."""
    (due, shows), log = self._due(step), self._log
    if not due and not shows:
      return
    log.flush()
    params, values = optimizer.averaged_params(state), {}
    for key, evaluate in due.items():
      values[key] = {name: float(metric.value) for name, metric in evaluate(params).items()}
      log.evaluated(step, key, values[key])
    self._at, self._best = step, score(values, self._evaluations)
    if shows:
      log.shown(step, self._show(params), self._histograms(state))
    log.restart_clock()

  def _save(self, step: int, state: TrainState, carry: Any) -> None:
    self._log.flush()  # so that metrics.jsonl holds every step the checkpoint holds
    best = self._best if step == self._at else None
    self._checkpoints.save(step, state, score=best, carry=carry)
    self._log.restart_clock()


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

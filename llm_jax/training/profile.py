"""Some steps of a run under `jax.profiler`, and where their time went."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from llm_jax.training import spans, trace
from llm_jax.training.metrics import Log
from llm_jax.training.step import PROGRAM, TrainState
from llm_jax.training.trace import REST, Divided, Interval
from llm_jax.types import Metrics

WARM = 2  # steps before the first one that is traced: compilation, and a first look at the pace


class Profiled(NamedTuple):
  """What a trace has shown.

  Attributes:
    first, last: steps of the trace.
    seconds: from the first to the end of the last, by the clock of this process.
    divided: these seconds, by the clock of the trace.
    folder: that xprof opens.
    perfetto: the file that Perfetto opens, or None if JAX wrote none.
  """

  first: int
  last: int
  seconds: float
  divided: Divided
  folder: Path
  perfetto: Path | None


class Profile:
  """A hook of `fit`, the last one, which traces whole rollouts of at least `steps` steps.

  Args:
    folder: where the trace goes.
    steps: to be traced, from the third that this process makes.
    start_step: steps done when this process starts.
    total_steps: of the run; where too few are left, nothing is traced.
    reuse: steps that share a rollout.
    text: (state after a step) -> the compiled program of that step.
    log: reports what came before, and leaves the time out that tracing takes.
    tell: is given what was found.
  """

  def __init__(
    self,
    folder: Path,
    *,
    steps: int,
    start_step: int,
    total_steps: int,
    reuse: int,
    text: Callable[[TrainState], str],
    log: Log,
    tell: Callable[[Profiled], None],
  ) -> None:
    self._folder, self._text, self._log, self._tell = folder, text, log, tell
    self._after, self._last = traced(steps, start_step, reuse)
    self._mine = jax.process_index() == 0 and self._last <= total_steps
    self._window: Any = None
    self._began = 0.0
    # Else a program may come from the cache with the names that its operations had in older code.
    self._before = jax.config.jax_compilation_cache_include_metadata_in_key  # pyright: ignore
    jax.config.update('jax_compilation_cache_include_metadata_in_key', True)
    if jax.process_index() == 0 and not self._mine:
      log.say(
        f'profile: steps {self._after + 1} to {self._last} would be traced, and the run has '
        f'{total_steps}; nothing is'
      )

  def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
    del metrics
    if self._mine and step == self._last:
      self._end(state)
    if self._mine and step == self._after:
      self._begin(state)

  def close(self) -> None:
    """Ends a trace that was begun, and forgets it."""
    jax.config.update('jax_compilation_cache_include_metadata_in_key', self._before)
    if self._window is not None:
      self._stop()

  def _begin(self, state: TrainState) -> None:
    self._log.flush()
    jax.block_until_ready(state)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # every call of Python would be in it
    jax.profiler.start_trace(self._folder, profiler_options=options)
    self._window = spans.window()
    self._log.restart_clock()
    self._began = time.perf_counter()
    self._window.__enter__()

  def _end(self, state: TrainState) -> None:
    jax.block_until_ready(state)
    seconds = time.perf_counter() - self._began
    self._stop()
    self._log.flush()
    newest = max(self._folder.glob('plugins/profile/*'))
    (path,) = newest.glob('*.xplane.pb')
    divided = trace.divide(trace.read(path), _part_of(self._text(state)))
    perfetto = next(newest.glob('*.trace.json.gz'), None)
    self._tell(Profiled(self._after + 1, self._last, seconds, divided, self._folder, perfetto))
    self._log.restart_clock()

  def _stop(self) -> None:
    self._window.__exit__(None, None, None)
    self._window = None
    jax.profiler.stop_trace()


def traced(steps: int, start_step: int, reuse: int) -> tuple[int, int]:
  """The step after which a trace begins, and the last one in it.

  >>> traced(5, start_step=0, reuse=1), traced(5, start_step=8, reuse=4)
  ((2, 7), (12, 20))
  """
  after = -(-(start_step + WARM) // reuse) * reuse
  return after, after + -(-steps // reuse) * reuse


def _part_of(program: str) -> Callable[[Interval], str | None]:
  names = trace.op_names(program)

  def part_of(one: Interval) -> str | None:
    if one.program not in ('', f'jit_{PROGRAM}') or (not one.program and one.name not in names):
      return None
    return trace.part_of_model(names.get(one.name, '')) or REST

  return part_of

"""What a run reports while it trains: metrics.jsonl, a line per interval, boards, a bar, a plot."""

import functools
import importlib.util
import math
import operator
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax.files import json_line
from llm_jax.options import suggest
from llm_jax.text.terminal import bar
from llm_jax.text.visible import visible
from llm_jax.training import history
from llm_jax.training.boards import Board, Histograms, tensorboard
from llm_jax.training.loop import Interrupted
from llm_jax.training.step import TrainState
from llm_jax.types import BadInput, Mean, Metrics

# The metrics of an evaluation that are printed, if they exist; metrics.jsonl has all of them.
SHOWN = (
  *('loss', 'bits_per_byte', 'accuracy', 'margin', 'reward', 'kl', 'answer_kl', 'length'),
  'entropy',
)
ROLLOUT = ('reward', 'answer_kl', 'kl', 'length')  # what a line adds for reinforcement learning
_WIDTH = 92  # characters of a line of a sample
LAST_VALUE = ('skipped', 'skipped_in_a_row')  # counters: an interval reports their last value


class Diverged(Interrupted):
  """A run ends and leaves no model: updates were skipped, or a limit passed before a checkpoint."""


class Overoptimized(Interrupted):
  """A metric passed its limit: the reward is being hacked (arXiv:2210.10760).

  Attributes:
    step: the last step before the interval in which it did.
  """

  def __init__(self, message: str, step: int) -> None:
    super().__init__(message)
    self.step = step


class Log:
  """The hook that reports; metrics are fetched one interval late, so the device never waits.

  Args:
    folder: holds `metrics.jsonl`; lines after `start_step` (from before a kill) are dropped.
    start_step: steps done when this process starts.
    total_steps: of the run.
    log_every: steps of an interval. The first step is reported on its own, with its compile time.
    tokens_per_step: tokens of a batch over all hosts.
    flops_per_step: model FLOPs of a step; see `Transformer.flops_per_token`.
    peak_flops: of all devices, or None where unknown.
    learning_rate: a function from step to rate.
    waited: returns the seconds that the loop has waited for data so far.
    began: `time.perf_counter()` when the command started.
    max_skipped: Diverged is raised after this many skipped updates in a row.
    limits: metric -> its largest mean over an interval; above it, Overoptimized is raised.
    boards: that show the run beside TensorBoard, which does where it is installed.
    late: False reports an interval at its end. It is for runs whose batches wait for the device
      anyway, as rollouts do: otherwise an interval's time would be added to the one before.
  """

  def __init__(
    self,
    folder: Path,
    *,
    start_step: int,
    total_steps: int,
    log_every: int,
    tokens_per_step: int,
    flops_per_step: float,
    peak_flops: float | None,
    learning_rate: Callable[[int], Any],
    waited: Callable[[], float],
    began: float,
    max_skipped: int = 10,
    limits: Mapping[str, float] = {},
    boards: Sequence[Board] = (),
    late: bool = True,
  ) -> None:
    self.total_steps, self.log_every = total_steps, log_every
    self.tokens_per_step, self.flops_per_step = tokens_per_step, flops_per_step
    self.peak_flops, self.learning_rate = peak_flops, learning_rate
    self.waited, self.began, self.max_skipped = waited, began, max_skipped
    self.limits, self.late = dict(limits), late
    self.first_step = start_step + 1
    self._open: list[tuple[int, Metrics]] = []
    self._closed: list[tuple[int, Metrics]] = []
    self._mark, self._waited_mark = time.perf_counter(), 0.0
    self._rate = 0.0  # seconds a step, smoothed, for the ETA
    self._bits: dict[str, float] = {}  # the newest bits per byte of each evaluation
    self._file: Any = None
    self._boards: list[Board] = []
    if jax.process_index() == 0:
      self._path = folder / 'metrics.jsonl'
      history.rewind(self._path, start_step)
      self._file = self._path.open('ab', buffering=0)
      self._boards = [*tensorboard(folder, start_step), *boards]
    self._bar = bar(
      total=total_steps,
      initial=start_step,
      disable=None if jax.process_index() == 0 else True,  # None: only on a terminal
      unit='step',
      dynamic_ncols=True,
      smoothing=0.1,
    )

  def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
    del state
    self._bar.update()
    self._open.append((step, metrics))
    ends = step % self.log_every == 0 or step == self.total_steps
    if step == self.first_step or (ends and not self.late):
      self.flush()
    elif ends:
      self._emit(self._closed)
      self._closed, self._open = self._open, []
      if step == self.total_steps:
        self.flush()

  def flush(self) -> None:
    """Waits for the device and reports everything that is pending."""
    self._emit(self._closed)
    self._emit(self._open)
    self._closed, self._open = [], []

  def restart_clock(self) -> None:
    """Excludes the time since the last interval, in which something else than training ran."""
    self._mark, self._waited_mark = time.perf_counter(), self.waited()

  def write(self, record: dict[str, Any]) -> None:
    """Writes a line of metrics.jsonl, and its numbers to the boards."""
    # JSON has no NaN: a number that is not finite becomes null.
    known = {
      k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()
    }
    if self._file is not None:
      self._file.write(json_line(known))
    numbers = {k: v for k, v in record.items() if k != 'step' and isinstance(v, int | float)}
    for board in self._boards:
      board.scalars(record['step'], numbers)

  def forget_evaluations(self, step: int) -> None:
    """Takes back the evaluations of a step, which are about to be made again."""
    if self._file is not None:
      self._file.close()
      history.forget_evaluations(self._path, step)
      self._file = self._path.open('ab', buffering=0)

  def evaluated(self, step: int, key: str, values: dict[str, float]) -> None:
    """Records the metrics of evaluation `key`, and prints them."""
    if 'bits_per_byte' in values:
      self._bits[key] = values['bits_per_byte']
    self.write({'step': step, **{f'{key}/{k}': v for k, v in values.items()}})
    names = [name for name in SHOWN if name in values] or list(values)
    shown = '  '.join(f'{name.replace("_", " ")} {values[name]:.4f}' for name in names)
    self.say(f'step {step:>6}  {key}: {shown}')

  def shown(self, step: int, lines: Sequence[str], histograms: Histograms) -> None:
    """Prints samples, their lines as long as a page's, and gives them to the boards as they are."""
    for text in lines:
      for line in text.splitlines():
        for part in textwrap.wrap(visible(line), _WIDTH) or ['']:
          self.say(f'  | {part}'.rstrip())
    for board in self._boards:
      if lines:
        board.texts(step, 'samples', [visible(line) for line in lines])
      if histograms:
        board.histograms(step, histograms)

  def say(self, text: str) -> None:
    """Prints above the progress bar, on the first host only."""
    if jax.process_index() == 0:
      self._bar.write(visible(text), file=sys.stdout)
      sys.stdout.flush()

  def close(self) -> None:
    """Ends the bar and the files."""
    self._bar.close()
    if self._file is not None:
      self._file.close()
    for board in self._boards:
      board.close()

  def _emit(self, interval: list[tuple[int, Metrics]]) -> None:
    if not interval:
      return
    fetched = jax.device_get([m for _, m in interval])
    now, waited = time.perf_counter(), self.waited()
    seconds, steps, step = now - self._mark, len(interval), interval[-1][0]
    wait = (waited - self._waited_mark) / seconds
    self._mark, self._waited_mark = now, waited
    values = {name: _merge(name, [m[name] for m in fetched]) for name in fetched[0]}
    in_a_row = int(values.pop('skipped_in_a_row'))
    record = {
      'step': step,
      **values,
      'learning_rate': float(self.learning_rate(step - 1)),
      'total_tokens': step * self.tokens_per_step,
      'total_flops': step * self.flops_per_step,
    }
    flops = self.flops_per_step * steps / seconds
    if step == self.first_step:  # its time is mostly compilation
      record['seconds_to_first_step'] = now - self.began
    else:
      self._rate = seconds / steps if not self._rate else 0.7 * self._rate + 0.3 * seconds / steps
      record |= {
        'tokens_per_second': self.tokens_per_step * steps / seconds,
        **({'mfu': flops / self.peak_flops} if self.peak_flops else {}),
        'flops_per_second': flops,
        'data_wait': min(wait, 1.0),
      }
    self.write(record)
    self.say(self._line(record))
    if in_a_row >= self.max_skipped:
      raise Diverged(
        f'stopped at step {step}: {in_a_row} updates in a row were skipped because the gradient '
        'was not finite or spiked; look at the data, or start anew in another --config.workdir '
        'with a lower config.optimizer.learning_rate'
      )
    for name, limit in self.limits.items():
      if name not in values:
        known = sorted(k for k in values if k != 'skipped')
        raise BadInput(f'stop: no metric {name!r} in this run; {suggest(name, known)}')
      if values[name] > limit:
        self._closed, self._open = [], []  # nothing more is told of what comes after the limit
        raise Overoptimized(
          f'{name} {values[name]:.3g} of steps {step - steps + 1} to {step} exceeds '
          f'config.stop.{name} {limit:g}: the reward is being hacked',
          step - steps,
        )

  def _line(self, record: dict[str, Any]) -> str:
    step = record['step']
    parts = [f'step {step:>6}/{self.total_steps}', f'loss {record["loss"]:.4f}']
    parts += [f'{name} {record[name]:.3g}' for name in ROLLOUT if name in record]
    parts += [f'{key} bits/byte {value:.4f}' for key, value in self._bits.items()]
    if 'seconds_to_first_step' in record:
      parts.append(f'first step {record["seconds_to_first_step"]:.1f} s after the start')
    else:
      parts.append(f'{_short(record["tokens_per_second"])} tokens/s')
      parts += [f'mfu {record["mfu"]:.1%}'] if 'mfu' in record else []
      parts.append(f'data wait {record["data_wait"]:.1%}')
      left = (self.total_steps - step) * self._rate
      parts.append(f'eta {int(left // 60)}:{int(left % 60):02d}')
    if record.get('skipped'):
      parts.append(f'skipped updates {int(record["skipped"])}')
    return '  '.join(parts)


def _merge(name: str, parts: list[Any]) -> float:
  if not isinstance(parts[0], Mean):
    return float(functools.reduce(operator.add, parts).value)
  if name in LAST_VALUE:
    return float(parts[-1].total)
  count = sum(float(p.count) for p in parts)
  # A Mean that counts nothing is a total, such as of trained tokens; it is reported per step.
  return sum(float(p.total) for p in parts) / (count or len(parts))


def _short(value: float) -> str:
  for size, letter in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if value >= size:
      return f'{value / size:.3g}{letter}'
  return f'{value:.3g}'


def read(folder: str | Path) -> list[dict[str, Any]]:
  """The records of a run's metrics.jsonl; see `history.read`."""
  return history.read(Path(folder) / 'metrics.jsonl')


def _evaluated(records: list[dict[str, Any]], metric: str) -> dict[str, list[tuple[int, float]]]:
  """Key of an evaluation -> (step, value) of a metric that it measured."""
  found: dict[str, list[tuple[int, float]]] = {}
  for record in records:
    for name, value in record.items():
      key, _, last = name.rpartition('/')
      if key and last == metric and value is not None:
        found.setdefault(key, []).append((record['step'], value))
  return {key: sorted(points) for key, points in found.items()}


def plot(folder: str | Path) -> Path | None:
  """Draws loss, and loss and bits per byte of the evaluations, over steps into `loss.png`.

  Returns:
    Its path, or None where matplotlib (extra `log`) is not installed.
  """
  if not importlib.util.find_spec('matplotlib'):
    return None
  from matplotlib.figure import Figure

  records = read(folder)
  figure = Figure(figsize=(8, 4.5))
  figure.subplots_adjust(0.08, 0.11, 0.92, 0.93)  # a layout that is found draws it all twice
  axes = figure.subplots()
  axes.set_prop_cycle(color=['tab:orange', 'tab:red', 'tab:purple', 'tab:brown'])
  train = [(r['step'], r['loss']) for r in records if r.get('loss') is not None]
  axes.plot(*zip(*train, strict=True), color='tab:blue', lw=1.2, label='training loss')
  for key, points in _evaluated(records, 'loss').items():
    axes.plot(*zip(*points, strict=True), 'o-', ms=4, label=f'{key} loss')
  axes.set(xlabel='step', ylabel='loss (nats per token)', title=str(folder))
  axes.grid(alpha=0.3)
  handles, labels = axes.get_legend_handles_labels()
  if bits := _evaluated(records, 'bits_per_byte'):
    twin = axes.twinx()
    twin.set_prop_cycle(color=['tab:green', 'tab:olive', 'tab:cyan', 'tab:gray'])
    for key, points in bits.items():
      twin.plot(*zip(*points, strict=True), 's--', ms=4, label=f'{key} bits per byte')
    twin.set_ylabel('bits per byte')
    more = twin.get_legend_handles_labels()
    handles, labels = handles + more[0], labels + more[1]
  axes.legend(handles, labels, loc='upper right')
  path = Path(folder) / 'loss.png'
  figure.savefig(path, dpi=150)
  return path

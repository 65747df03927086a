"""Peers that take turns, a process each: a machine that is noisy disturbs all of them alike.

A worker reads a number of steps a line from stdin and answers each with the seconds it took.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def serve(
  step: Callable[[], Any],
  finish: Callable[[Any], float],
  clock: Callable[[], float] = time.perf_counter,
) -> None:
  """A worker: runs `step` as often as each line of stdin says; `finish` waits for the result.

  With `time.process_time` as the clock, other work on the machine counts less.
  """
  out = None
  for line in sys.stdin:
    start = clock()
    for _ in range(int(line)):
      out = step()
    loss = finish(out)
    print(json.dumps({'seconds': clock() - start, 'loss': loss}), flush=True)


def take(
  module: str,
  names: Sequence[str],
  arguments: Sequence[str],
  *,
  steps: int,
  blocks: int,
  tokens: int,
) -> dict[str, Any]:
  """Tokens per second of every worker (medians), and the ratios of the first to the others.

  Beside them, of each worker: seconds to the end of its first step, from when it could take one,
  which is what compilation takes; and the most memory its process held, where /proc tells.

  Args:
    module: run as `python -m <module> <arguments> --worker <name>`.
    names: workers, ours first.
    arguments: of every worker.
    steps: in a block.
    blocks: timed, of each worker.
    tokens: of a step.
  """
  pipe = subprocess.PIPE
  command = [sys.executable, '-m', module, *arguments, '--worker']
  workers = {n: subprocess.Popen([*command, n], stdin=pipe, stdout=pipe, text=True) for n in names}

  def block(name: str, count: int) -> float:
    worker = workers[name]
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f'{count}\n')
    worker.stdin.flush()
    # Whatever a library prints on the way is not the answer.
    answer = next(line for line in worker.stdout if line.startswith('{"seconds"'))
    return json.loads(answer)['seconds']

  first = {name: round(block(name, 1), 1) for name in names}  # compiles
  for name in names:
    block(name, 1)
  rates: dict[str, list[float]] = {name: [] for name in names}
  for _ in range(blocks):
    for name in names:
      rates[name].append(steps * tokens / block(name, steps))
  held = {name: _most_held(worker.pid) for name, worker in workers.items()}
  for worker in workers.values():
    worker.communicate()
  ours, *peers = names
  median = {name: statistics.median(values) for name, values in rates.items()}
  return {
    'tokens_per_second': {name: round(value, 1) for name, value in median.items()},
    'ratio': {name: round(median[ours] / median[name], 3) for name in peers},
    'ratio_of_pairs': {
      name: [round(a / b, 2) for a, b in zip(rates[ours], rates[name], strict=True)]
      for name in peers
    },
    'first_step_seconds': first,
    'gigabytes': held,
  }


def _most_held(process: int) -> float | None:
  """Gigabytes that a process held in memory at most, or None where the system does not say."""
  try:
    status = Path(f'/proc/{process}/status').read_text()
  except OSError:
    return None
  return round(int(status.partition('VmHWM:')[2].split()[0]) * 1024 / 1e9, 2)


def where() -> dict[str, str]:
  """The date and the machine of a table."""
  return {
    'date': datetime.date.today().isoformat(),
    'machine': f'{os.cpu_count()} cores, {platform.processor() or platform.machine()}',
  }

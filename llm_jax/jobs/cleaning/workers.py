"""Processes that share lists of tasks, and end with the process that started them."""

import collections
import concurrent.futures
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from llm_jax.types import BadInput

Task = tuple[Callable[..., Any], tuple[Any, ...]]
TRIES = 3  # for a task whose process is killed from outside, for want of memory perhaps


class Workers:
  """`count` processes, which are started when they are first needed; a context.

  One worker is this process itself.
  """

  def __init__(self, count: int) -> None:
    self._count = count
    self._pool: concurrent.futures.ProcessPoolExecutor | None = None

  def __enter__(self) -> 'Workers':
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    if self._pool is not None:
      self._pool.shutdown(wait=kind is None, cancel_futures=True)

  def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
    """(number of a task, what its function returned) of every task, in the order they end in.

    An error ends all of them.

    Raises:
      BadInput: the process of a task was killed, again and again.
    """
    if self._count == 1 or len(tasks) < 2:
      for number, (function, args) in enumerate(tasks):
        yield number, function(*args)
      return
    waiting, tries = set(range(len(tasks))), collections.Counter()
    while waiting:
      self._pool = self._pool or self._started()
      running = {self._pool.submit(tasks[n][0], *tasks[n][1]): n for n in sorted(waiting)}
      try:
        for future in concurrent.futures.as_completed(running):
          result = future.result()
          waiting.discard(running[future])
          yield running[future], result
      except BrokenProcessPool:
        self._pool = None
        first = min(waiting)  # tasks start in order, so it was among those that ran
        tries[first] += 1
        if tries[first] == TRIES:
          raise BadInput(
            f'a process was killed {TRIES} times at the same work; give it more memory, or fewer '
            'config.workers'
          ) from None

  def _started(self) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(
      self._count,
      mp_context=multiprocessing.get_context('spawn'),  # a process that runs JAX cannot fork
      initializer=_begin,
      initargs=(os.getpid(),),
    )


def _begin(parent: int) -> None:
  """Ends this process when its parent does, however that ends; Ctrl-C is for the parent."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(0.5)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()

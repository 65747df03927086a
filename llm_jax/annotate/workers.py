"""Threads that run small functions of somebody else's, and are not held up by one that hangs."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Failure(NamedTuple):
  """What became of a function that raised `error`, or that was given up (None)."""

  why: str
  error: BaseException | None = None

  def __str__(self) -> str:
    return self.why


def run_all(jobs: Sequence[Callable[[], Any]], *, workers: int, timeout: float) -> list[Any]:
  """The results of `jobs` in their order; a `Failure` where one raised or took too long.

  Time is measured from the start of a job. Nothing can stop a thread in Python: one whose job is
  given up is left to itself (as a daemon, so that it does not keep the process alive), its result
  is ignored, and another thread takes its place. Only Python code can be given up: a function that
  keeps the interpreter's lock, as one match of a regular expression does, holds up everything.

  Args:
    jobs: functions without arguments, safe to run beside each other.
    workers: threads at a time.
    timeout: seconds for each job.
  """
  results: list[Any] = [None] * len(jobs)
  started: dict[int, float] = {}
  waiting, lock = iter(range(len(jobs))), threading.Condition()
  left, given_up = len(jobs), set[int]()

  def work() -> None:
    nonlocal left
    while True:
      with lock:
        i = next(waiting, None)
        if i is None:
          return
        started[i] = time.monotonic()
      try:
        result = jobs[i]()
      except BaseException as error:  # also one that wants to leave: this thread is ours
        result = Failure(f'{type(error).__name__}: {error}', error)
      with lock:
        if i in given_up:
          return  # somebody else works in our place
        del started[i]
        results[i] = result
        left -= 1
        if not left:
          lock.notify()

  def hire() -> None:
    threading.Thread(target=work, name='verify', daemon=True).start()

  for _ in range(min(workers, len(jobs))):
    hire()
  with lock:
    while left:
      lock.wait(timeout / 4)
      late = [i for i, when in started.items() if time.monotonic() - when > timeout]
      for i in late:
        del started[i]
        given_up.add(i)
        results[i] = Failure(f'gave up after {timeout:g} s')
        left -= 1
        hire()
  return results

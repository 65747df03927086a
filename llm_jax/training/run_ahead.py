"""How far the host runs ahead of the device: by seconds, not by steps."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax

from llm_jax.types import Metrics


class RunAhead:
  """Keeps the work that waits for the device below a time, and the device busy.

  A host that is told to stop has to wait for all that it has launched. So before a step is launched
  the work that is in flight, by the time that a step was seen to take, is let down to `seconds`.
  That is also how long the host may be late with a step before the device has nothing to do.

  Args:
    seconds: of work that may be in flight when another step is launched.
  """

  def __init__(self, seconds: float = 2.0) -> None:
    self._seconds = seconds
    self._flying: deque[Any] = deque()  # an array of each launched step that has not been seen done
    self._each: float | None = None  # seconds of a step
    self._since = 0.0  # when the oldest of them began to be computed

  def launched(self, metrics: Metrics) -> None:
    """Counts a step; of its metrics one array tells when it is done."""
    if not self._flying:
      self._since = time.perf_counter()
    self._flying += [x for x in jax.tree.leaves(metrics) if isinstance(x, jax.Array)][:1]

  def wait(self, stop: Callable[[], object] = lambda: None) -> None:
    """Returns when another step may be launched, or as soon as `stop()` is true."""
    exact = False  # the host may come late to what it sees first
    while not stop():
      self._look(exact)
      if not self._flying or (self._each is None and len(self._flying) < 2):
        return
      working = time.perf_counter() - self._since
      left = len(self._flying) * (self._each or math.inf) - working - self._seconds
      if left <= 0:
        return
      time.sleep(min(max(left, 1e-3), 0.02) if self._each else 1e-3)
      exact = True

  def _look(self, exact: bool) -> None:
    """Drops what is done, and learns how long a step takes: that long at most, or `exact`ly."""
    done = 0
    while self._flying and self._flying[0].is_ready():
      self._flying.popleft()
      done += 1
    if done:
      now = time.perf_counter()
      each, self._since = (now - self._since) / done, now
      known = each if self._each is None else self._each
      self._each = 0.5 * (known + each) if exact else min(known, each)

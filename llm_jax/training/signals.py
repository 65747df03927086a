"""SIGTERM and SIGINT ask a run to save what it has and to leave; then nothing more is launched."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

T = TypeVar('T')


class Signals:
  """What asked a run to stop.

  Attributes:
    number: of the signal; None as long as there was none. With several hosts JAX itself listens for
      SIGTERM, and whoever hears of it from JAX sets it.

  Args:
    reuse: steps that share a rollout; a run can only go on from between two rollouts, so one that
      is asked to stop goes on until there.
  """

  def __init__(self, reuse: int = 1) -> None:
    self.number: int | None = None
    self._reuse, self._cuts = reuse, False

  def stop(self, step: int) -> bool:
    """Whether to stop now that so many steps are done."""
    return self.number is not None and self.may_stop(step)

  def may_stop(self, step: int) -> bool:
    """Whether a run can go on from here."""
    return step % self._reuse == 0

  def cut(self, work: Callable[[], T]) -> T | None:
    """What `work` returns; None if a signal came before its end, which it then does not reach.

    Args:
      work: whose half leaves no more behind than a killed process does.
    """
    if self.number is not None:
      return None
    self._cuts = True
    try:
      return work()
    except _Cut:
      return None
    finally:
      self._cuts = False

  @contextmanager
  def handled(self) -> Iterator[None]:
    """In this context both signals are taken; the second one acts as it would outside."""
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
      self.number = number
      if self._cuts:
        self._cuts = False
        raise _Cut

    for number in (signal.SIGTERM, signal.SIGINT):
      before[number] = signal.signal(number, once)
    try:
      yield
    finally:
      restore()


class _Cut(BaseException):
  """Raised by a signal where work is not worth finishing; no Exception, so that nobody keeps it."""

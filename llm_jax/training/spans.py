"""What the host is at, by name, for whoever reads a trace of `jax.profiler`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax

PREFIX = 'llm_jax/'  # how names begin in a trace
WINDOW = f'{PREFIX}steps'  # the span of all steps of a trace
T = TypeVar('T')

_tracing: list[None] = []  # one entry while a window is open


@contextlib.contextmanager
def window() -> Iterator[None]:
  """The steps of a trace, which has been started."""
  _tracing.append(None)
  try:
    with jax.profiler.TraceAnnotation(WINDOW):
      yield
  finally:
    _tracing.pop()


@contextlib.contextmanager
def span(name: str) -> Iterator[Callable[[T], T]]:
  """What the host is at in this context; where nothing is traced it costs next to nothing.

  Returns:
    A function that gives back what the work has made, in a window once the device has made it: so
    the device is at the same work as the host.
  """
  with jax.profiler.TraceAnnotation(f'{PREFIX}{name}'):
    yield jax.block_until_ready if _tracing else lambda made: made

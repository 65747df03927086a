"""A model that is served, and what can be looked up of several."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from llm_jax.serving.conversation import Conversation
from llm_jax.serving.driver import Driver


@dataclasses.dataclass
class Served:
  """A model that is served.

  Attributes:
    name: that clients ask for.
    driver: of its engine.
    created: seconds since 1970.
    fingerprint: of the artifact.
    conversation: once it is loaded.
    positions: of a prompt with its answer, as far as they are known before it is loaded.
  """

  name: str
  driver: Driver
  created: int
  fingerprint: str = ''
  conversation: Conversation | None = None
  positions: int | None = None

  def listed(self) -> dict[str, Any]:
    """What clients are told of it."""
    found = {'id': self.name, 'object': 'model', 'created': self.created, 'owned_by': 'llm_jax'}
    known = self.conversation
    if positions := self.positions if known is None else known.about.positions:
      found['max_model_len'] = positions  # as vLLM tells it
    return found


def gauges(served: Sequence[Served]) -> dict[str, tuple[str, Callable[[], float]]]:
  """Gauges of `Metrics`: what is looked up in the engines."""

  def total(name: str) -> Callable[[], float]:
    engines = lambda: [one.driver.engine for one in served if one.driver.engine is not None]
    return lambda: sum(float(getattr(engine, name)) for engine in engines())

  usage = total('cache_usage')
  # Each engine counts what its process has compiled since, so the first has counted all of it.
  compiled = lambda: max(
    (one.driver.engine.compilations for one in served if one.driver.engine is not None), default=0
  )
  return {
    'requests_running': ('Requests in slots.', total('running')),
    'requests_waiting': ('Requests that wait for a slot.', total('waiting')),
    'kv_cache_usage_ratio': ('Used part of the caches.', lambda: usage() / len(served)),
    'compilations_total': ('Programs that were compiled.', compiled),
  }

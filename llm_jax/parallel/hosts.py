"""The processes of a multi-host job: they wait for each other and tell each other things.

All of it goes over the coordinator, since a collective of devices would give up after minutes.
"""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from llm_jax import storage

DAY = 24 * 3600 * 1000  # ms
# By topic, so that threads may use topics of their own at the same time.
_numbers: dict[str, Iterator[int]] = collections.defaultdict(itertools.count)


def barrier(topic: str = 'main') -> None:
  """Waits, a day at most, until all hosts are here."""
  if jax.process_count() > 1:
    _client().wait_at_barrier(f'llm_jax {topic} {next(_numbers[topic])}', DAY)


def exchange(text: str, topic: str) -> list[str]:
  """What each host said, in their order."""
  host, hosts = jax.process_index(), jax.process_count()
  if hosts == 1:
    return [text]
  number = next(_numbers[f'{topic} texts'])
  key = lambda host, number: f'llm_jax/{topic}/{number}/{host}'
  _client().key_value_set(key(host, number), text)
  barrier(topic)
  if number:  # whoever is here has read the texts before
    with contextlib.suppress(Exception):
      _client().key_value_delete(key(host, number - 1))
  return [_client().blocking_key_value_get(key(one, number), DAY) for one in range(hosts)]


def on_one_host(work: Callable[[], None]) -> None:
  """Does `work` once, on the first host, while the others wait; then they have what it wrote."""
  if jax.process_index() == 0:
    work()
  level(without=storage.MAKING)


def level(folder: Path | None = None, *, without: tuple[str, ...] = ()) -> None:
  """All hosts find the same in the copies of URLs, which is what is whole on the first.

  Args:
    folder: of a copy, if not all of every copy is wanted. Of a path of this machine nothing is
      brought, as hosts share it.
    without: names of folders that are not needed.
  """
  if jax.process_count() == 1:
    return
  storage.push()
  barrier()
  if folder is None or storage.url_of(folder):
    storage.pull(folder, without=without)
  barrier()


def apart(folder: Path) -> bool:
  """Whether each of several hosts has a copy of the folder to itself."""
  return jax.process_count() > 1 and storage.url_of(folder) is not None


def _client() -> Any:
  from jax._src import distributed

  return distributed.global_state.client

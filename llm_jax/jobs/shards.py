"""A list of runs, divided among processes that have nothing in common but a folder or a URL."""

import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from llm_jax import storage
from llm_jax.store import Busy
from llm_jax.text.terminal import say
from llm_jax.types import BadInput

SECONDS = 5.0  # between two looks at what the others have done
T = TypeVar('T')


class Shard(NamedTuple):
  """One of `count` processes, counted from 1."""

  number: int
  count: int

  def mine(self, runs: Sequence[T]) -> Sequence[T]:
    """Every `count`-th of them.

    >>> Shard(2, 3).mine('abcdefg')
    'be'
    """
    return runs[self.number - 1 :: self.count]

  def has(self, place: int) -> bool:
    """Whether what stands at a place, counted from 0, is among `mine`."""
    return place % self.count == self.number - 1

  def patient(self, do: Callable[[], T]) -> T:
    """Does what another process may be at work on; then it waits, and does it again."""
    told = False
    while True:
      try:
        return do()
      except Busy as error:
        if self.count == 1:
          raise
        if not told:
          say(f'{str(error).partition("; ")[0]}; waiting for it')
        told = True
        time.sleep(SECONDS)
        storage.refresh()

  def wait(self, left: Callable[[], Sequence[str]]) -> None:
    """Waits until the others have finished what is `left`."""
    told = 0
    while names := left():
      if len(names) != told:
        say(f'waiting for other shards: {len(names)} runs, such as {names[0]}')
      told = len(names)
      time.sleep(SECONDS)


def shard_of(text: str | None) -> Shard:
  """What `config.shard` says; '' is the only one.

  Raises:
    BadInput: it is none.
  """
  found = re.fullmatch(r'(\d+)/(\d+)', text or '1/1')
  if not found or not 1 <= int(found[1]) <= int(found[2]):
    raise BadInput(f'shard: {text!r}; choose one of n processes, such as 3/16, from 1/16 to 16/16')
  return Shard(int(found[1]), int(found[2]))

"""Which beginnings of prompts are kept, and in which blocks of the device they lie.

A prompt is cut into chunks of a fixed size from its first token on, and a chunk is named by a hash
of itself and of all before it. So equal names are equal beginnings, and what a block holds is what
reading the chunk again would give, bit for bit.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


class Prefixes:
  """Blocks by the names of chunks; those that were not asked for the longest are given up first.

  >>> kept = Prefixes(blocks=2, chunk=2)
  >>> names = kept.names([5, 6, 7, 8, 9])
  >>> [kept.add(name) for name in names], kept.find(names), kept.add(names[0])
  ([0, 1], [0, 1], None)
  >>> kept.find(kept.names([5, 6, 1, 1, 9])), kept.find(kept.names([5, 6, 7], salt='other'))
  ([0], [])
  """

  def __init__(self, blocks: int, chunk: int) -> None:
    self._blocks, self._chunk = blocks, chunk
    self._where: OrderedDict[bytes, int] = OrderedDict()

  def names(self, ids: Sequence[int], salt: str = '') -> list[bytes]:
    """The names of the whole chunks of a prompt, but for its last token, which is always read.

    Args:
      ids: of the prompt.
      salt: prompts of different salts share nothing.
    """
    name, found = hashlib.sha256(salt.encode('utf-8', 'surrogatepass')).digest(), []
    array = np.asarray(ids, np.int32)
    for start in range(0, len(array) - self._chunk, self._chunk):
      name = hashlib.sha256(name + array[start : start + self._chunk].tobytes()).digest()
      found.append(name)
    return found

  def find(self, names: Sequence[bytes]) -> list[int]:
    """The blocks of the longest beginning that is kept."""
    there = next((i for i, name in enumerate(names) if name not in self._where), len(names))
    for name in reversed(names[:there]):  # a beginning stays longer than what follows it
      self._where.move_to_end(name)
    return [self._where[name] for name in names[:there]]

  def add(self, name: bytes) -> int | None:
    """A block for a chunk; None where it is kept already, or nothing is."""
    if name in self._where or not self._blocks:
      return None
    full = len(self._where) == self._blocks
    self._where[name] = self._where.popitem(last=False)[1] if full else len(self._where)
    return self._where[name]

  def clear(self) -> None:
    """Forgets all, as other parameters demand."""
    self._where.clear()

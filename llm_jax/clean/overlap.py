"""Which of the pages that share a key do overlap: exact Jaccard similarities of their shingles."""

import os
import tempfile
from collections.abc import Callable, Iterable
from types import TracebackType

import numpy as np

from llm_jax.clean.clusters import merged

# Of the pages that share a key so many are compared with all others. Where more share one, pages
# that resemble none of these stay apart, so that the work grows with the number of pages only.
CENTRES = 64


def connected(
  root_N: np.ndarray,
  member_M: np.ndarray,
  starts: np.ndarray,
  similar: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
  """The components of a graph after edges between those members of groups that are similar.

  As long as a group has up to `CENTRES` + 1 members, these are the components of all its similar
  pairs, whatever their order, though those within a component are not compared.

  Args:
    root_N: the smallest number in the component of each node.
    member_M, starts: groups of nodes, as `alike` gives them.
    similar: from two arrays of nodes to whether each pair is.
  """
  for centre in range(CENTRES):
    root_M, size = root_N[member_M], np.diff(starts)
    if len(size):
      low, high = (f.reduceat(root_M, starts[:-1]) for f in (np.minimum, np.maximum))
      unfinished = (size > centre + 1) & (low < high)
      member_M, size = member_M[np.repeat(unfinished, size)], size[unfinished]
      starts = np.concatenate([[0], np.cumsum(size)])
    if not len(size):
      break
    first_M = np.repeat(member_M[starts[:-1] + centre], size)
    behind_M = np.arange(len(member_M)) - np.repeat(starts[:-1], size) > centre
    apart_M = behind_M & (root_N[first_M] != root_N[member_M])
    a_E, b_E = first_M[apart_M], member_M[apart_M]
    similar_E = similar(a_E, b_E)
    root_N = merged(root_N, a_E[similar_E], b_E[similar_E])
  return root_N


class Sets:
  """Sets of shingles, of ascending nodes, in a temporary file, which is gone at the end of `with`.

  8 bytes a shingle: somewhat more than the text. The environment's TMPDIR says where.
  """

  def __init__(self, node_C: np.ndarray):
    """With the nodes whose sets are going to be added, in this order."""
    self._node, self._starts, self._added = node_C, np.zeros(len(node_C) + 1, np.int64), 0
    self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed at the end of `with`)

  def __enter__(self) -> 'Sets':
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
  ) -> None:
    self._file.close()

  def add(self, blocks: Iterable[np.ndarray]) -> None:
    """The next node's, in parts that may repeat one another."""
    distinct = np.unique(np.concatenate([*blocks, np.zeros(0, np.uint64)]))
    self._file.write(distinct.tobytes())
    self._added += 1
    self._starts[self._added] = self._starts[self._added - 1] + len(distinct)

  def jaccard(self, a_E: np.ndarray, b_E: np.ndarray, least: float = 0) -> np.ndarray:
    """[E] the similarities of pairs of nodes; 0 where sizes alone tell that it is below `least`."""
    self._file.flush()
    a_E, b_E = np.searchsorted(self._node, a_E), np.searchsorted(self._node, b_E)
    size_C = np.diff(self._starts)
    low_E, high_E = np.minimum(size_C[a_E], size_C[b_E]), np.maximum(size_C[a_E], size_C[b_E])
    found_E, known, a_N = np.zeros(len(a_E)), -1, np.zeros(0, np.uint64)
    for pair in np.flatnonzero((low_E > 0) & (low_E >= least * high_E * (1 - 1e-9))):
      if a_E[pair] != known:
        known = a_E[pair]
        a_N = self._read(known)
      b_N = self._read(b_E[pair])
      common = np.count_nonzero(a_N.take(a_N.searchsorted(b_N), mode='clip') == b_N)
      found_E[pair] = common / (len(a_N) + len(b_N) - common)
    return found_E

  def _read(self, at: int) -> np.ndarray:
    start, end = 8 * self._starts[at], 8 * self._starts[at + 1]
    return np.frombuffer(os.pread(self._file.fileno(), int(end - start), int(start)), np.uint64)

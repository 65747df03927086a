"""Clusters of pages of which one stays: components of a graph, and what is found of their pages.

Everything follows from positions: the page at the smallest one stays, and it names its cluster.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llm_jax.clean.page import Drop, Page


def stands_for(page: Page) -> int:
  """How many pages this one stands for: itself, and what earlier steps found to be copies of it."""
  size = page.meta.get('cluster_size')
  return size if isinstance(size, int) and 1 <= size < 2**32 else 1


def alike(key_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The pages that share a key with another.

  Args:
    key_N: a key of each page; with more axes, all along them is the key.

  Returns:
    [M] the numbers of such pages, of one key after the other, ascending within each; and
    [keys + 1] where each key begins.

  >>> alike(np.array([7, 5, 7, 3, 5, 7]))
  (array([1, 4, 0, 2, 5]), array([0, 2, 5]))
  """
  order_N = np.lexsort(key_N.T) if key_N.ndim > 1 else np.argsort(key_N, kind='stable')
  sorted_N = key_N[order_N]
  new_N = np.ones(len(key_N) + 1, bool)
  differs = sorted_N[1:] != sorted_N[:-1]
  new_N[1:-1] = differs.any(1) if key_N.ndim > 1 else differs
  shared_N = ~(new_N[:-1] & new_N[1:])
  starts = np.flatnonzero(new_N[:-1][shared_N])
  return order_N[shared_N], np.append(starts, np.count_nonzero(shared_N))


def merged(root_N: np.ndarray, a_E: np.ndarray, b_E: np.ndarray) -> np.ndarray:
  """The components of a graph after more edges, in O(log N) passes over arrays.

  Args:
    root_N: the smallest number in the component of each node.
    a_E, b_E: the ends of the edges.

  >>> merged(np.arange(6), np.array([5, 3, 2]), np.array([3, 1, 4])).tolist()
  [0, 1, 2, 1, 2, 1]
  """
  root_N = root_N.copy()
  while True:
    a_E, b_E = root_N[a_E], root_N[b_E]
    apart_E = a_E != b_E
    if not apart_E.any():
      return root_N
    a_E, b_E = a_E[apart_E], b_E[apart_E]
    # Every root with a smaller one beside it goes below the smallest, so that half of them go.
    np.minimum.at(root_N, np.maximum(a_E, b_E), np.minimum(a_E, b_E))
    while not np.array_equal(root_N, above_N := root_N[root_N]):
      root_N = above_N


class Clusters(Mapping[int, Any]):
  """Position -> `{'cluster', 'size', 'kept'}` of the page there, for those in a cluster of several.

  `cluster` is the position of the page that stays, `size` how many pages it stands for.
  """

  def __init__(self, position_N: np.ndarray, root_N: np.ndarray, size_N: np.ndarray):
    """From ascending positions, the components of the pages there, and what each stands for."""
    several = np.flatnonzero(np.bincount(root_N, minlength=len(root_N))[root_N] > 1)
    total_N = np.zeros(len(root_N), np.int64)
    np.add.at(total_N, root_N, size_N)
    self._position, self._cluster = position_N[several], position_N[root_N[several]]
    self._size = total_N[root_N[several]]

  def __len__(self) -> int:
    return len(self._position)

  def __iter__(self) -> Iterator[int]:
    return map(int, self._position)

  def __getitem__(self, position: int) -> dict[str, Any]:
    at = int(np.searchsorted(self._position, position))
    if at == len(self) or self._position[at] != position:
      raise KeyError(position)
    cluster = int(self._cluster[at])
    return {'cluster': cluster, 'size': int(self._size[at]), 'kept': cluster == position}


def links(position_N: np.ndarray, root_N: np.ndarray, size_N: np.ndarray) -> np.ndarray:
  """[E, 3] position, position of the first page of its cluster, and size, of those in a cluster.

  Args: as those of `Clusters`.

  >>> links(np.array([3, 5, 8]), np.array([0, 1, 0]), np.array([1, 1, 4])).tolist()
  [[3, 3, 1], [8, 3, 4]]
  """
  several = np.flatnonzero(np.bincount(root_N, minlength=len(root_N))[root_N] > 1)
  return np.stack([position_N[several], position_N[root_N[several]], size_N[several]], 1)


def united(links_E3: np.ndarray) -> Clusters:
  """The clusters of all pages from links that were found in parts of them, in any order.

  >>> dict(united(np.array([[3, 3, 1], [8, 3, 4], [8, 8, 4], [9, 8, 1]])))[9]
  {'cluster': 3, 'size': 6, 'kept': False}
  """
  position_N, first_N, a_E = np.unique(links_E3[:, 0], return_index=True, return_inverse=True)
  b_E = np.searchsorted(position_N, links_E3[:, 1])
  root_N = merged(np.arange(len(position_N)), a_E, b_E)
  return Clusters(position_N, root_N, links_E3[first_N, 2])


def survivor(page: Page, found: Any) -> Page | Drop:
  """The page with the number and the size of its cluster in its meta, or the drop with them."""
  cluster, size = found['cluster'], found['size']
  if found['kept']:
    return page.edited(page.text, cluster=cluster, cluster_size=size)
  return Drop('duplicate', {'cluster': cluster, 'cluster_size': size})

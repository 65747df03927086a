"""Parameters of layers, stacked or apart, and which of them take turns."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from llm_jax.models.shape import Kind, Shape


def dense_of(shape: Shape) -> Shape:
  """The shape of a block without experts in a model that has some."""
  return dataclasses.replace(
    shape, experts=None, hidden_dim=shape.dense_dim, dense_layers=0, dense_dim=0
  )


def period(kinds: Sequence[Kind]) -> int:
  """The smallest number of layers after which kinds repeat, the last time perhaps cut short.

  >>> period('aabaabaa')
  3
  """
  same = lambda size: all(a == b for a, b in zip(kinds, kinds[size:]))
  return next(size for size in range(1, len(kinds) + 1) if same(size))


def repeats(blocks: Any, size: int, num_layers: int) -> tuple[Any, Sequence[Any]]:
  """Parameters [N, ...] as [N // size, size, ...] for a scan, and those of the layers left over."""
  if size == 1:
    return blocks, ()
  count, rest = divmod(num_layers, size)
  fold = lambda x: x[: count * size].reshape(count, size, *x.shape[1:])
  left = unstack(jax.tree.map(lambda x: x[count * size :], blocks), rest) if rest else ()
  return jax.tree.map(fold, blocks), left


def unstack(blocks: Any, num_layers: int) -> Sequence[Any]:
  """The parameters of each layer; a split, so that its gradient is one concatenation."""
  if isinstance(blocks, Sequence):  # from `for_decoding`, or read from disk one by one
    return blocks
  leaves, treedef = jax.tree.flatten(blocks)
  columns = [jax.lax.split(leaf, (1,) * num_layers) for leaf in leaves]
  return [treedef.unflatten([c[i][0] for c in columns]) for i in range(num_layers)]

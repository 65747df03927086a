"""Induction heads, from the first update on: a small model that soon copies.

To copy what stands further up, a model looks for where the token that it is at stood before, and
takes what came after it (Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021;
Olsson et al., arXiv:2209.11895). This needs a head in one layer that tells each token what stood
before it, and a head in the next that looks for that. Training finds the two late, since neither is
of any use without the other; so both are given here, as plain weights that it is free to change:

  embedding     the last numbers of each vector start as 0: there is room for a second token
  first layer   heads whose queries and keys are biases alone, turned by rotary positions so that
                their product is largest one token back; what they see they write into that room
  second layer  heads that compare some numbers of a token with those of the token before each
                other; what they find they add to the token itself, which makes it the likely next
"""

from typing import Any

import numpy as np

from llm_jax.models.shape import Shape

MARGIN = 8.0  # of the token before over its neighbours, in logits: e^8, so all of the weight
MATCH = 12.0  # logits of two tokens that are the same; of others they are 0 on the mean
FAR = 128  # tokens over which the numbers that are compared turn by 1 radian at most


def room(shape: Shape) -> int:
  """How many numbers of a vector are for the token before; the last ones."""
  return min(shape.inducing * shape.head_dim, shape.dim // 2)


def induction_heads(blocks: Any, shape: Shape) -> Any:
  """Stacked parameters of fresh layers, of which the first two have `shape.inducing` such heads."""
  attention = dict(blocks['attention'])
  for layer, heads in enumerate((_look_back(shape), _look_for(shape))):
    for name, value in heads.items():
      # Several queries may read the keys of one head: each of them does the same.
      count = shape.inducing
      if name in ('q', 'q_bias', 'o'):
        groups = shape.num_heads // shape.num_kv_heads
        value = np.repeat(value, groups, axis=1 if name == 'q' else 0)
        value, count = (value / groups if name == 'o' else value), count * groups
      at = (layer, slice(None), slice(count)) if name in 'qkv' else (layer, slice(count))
      attention[name] = attention[name].at[at].set(value)
  return {**blocks, 'attention': attention}


def _look_back(shape: Shape) -> dict[str, np.ndarray]:
  """Of the first layer: see the token before, and write what it is into the room for it."""
  kind, count, size = shape.blocks[0], shape.inducing, shape.head_dim

  # Each pair of numbers is one complex number: 1 for a key, and for a query turned back one token.
  half, turn = shape.rope_dim // 2, _frequency(shape, kind.rope_theta)
  key_E, query_E = np.zeros((2, size))
  key_E[:half] = 1.0
  query_E[: 2 * half] = np.concatenate([np.cos(turn), -np.sin(turn)])
  gap = np.sum(1 - np.cos(turn))
  gain = (MARGIN / (_scale(shape) * gap)) ** 0.5
  query_HE, key_HE = (np.tile(gain * x_E, (count, 1)) for x_E in (query_E, key_E))
  nothing = np.zeros((shape.dim, count, size))
  copied = np.arange(room(shape))
  read_DHE = _ones((shape.dim, count, size), copied, *divmod(copied, size))
  place = shape.dim - room(shape) + copied
  # The norm makes vectors whose room is empty longer by this root.
  written_HED = _ones((count, size, shape.dim), *divmod(copied, size), place)
  written_HED *= (1 - room(shape) / shape.dim) ** 0.5
  heads = dict(q=nothing, k=nothing, v=read_DHE, o=written_HED)
  return heads | dict(q_bias=query_HE, k_bias=key_HE)


def _look_for(shape: Shape) -> dict[str, np.ndarray]:
  """Of the second layer: find tokens whose token before is this one, and add what they are."""
  kind, count, size = shape.blocks[1], shape.inducing, shape.head_dim
  half, frequency = shape.rope_dim // 2, _frequency(shape, kind.rope_theta)
  slow = np.flatnonzero(frequency <= max(1 / FAR, frequency[-1]))  # the slowest one at least
  slots = np.concatenate([slow, slow + half, np.arange(shape.rope_dim, size)])
  gain = (MATCH / (_scale(shape) * len(slots))) ** 0.5
  # Every head compares other numbers, and copies others.
  head, slot = np.divmod(np.arange(count * len(slots)), len(slots))
  compared = np.arange(count * len(slots)) % room(shape)
  query_DHE = gain * _ones((shape.dim, count, size), compared, head, slots[slot])
  before = shape.dim - room(shape) + compared
  key_DHE = gain * _ones((shape.dim, count, size), before, head, slots[slot])
  copied = np.arange(room(shape))
  value_DHE = _ones((shape.dim, count, size), copied, *divmod(copied, size))
  added_HED = _ones((count, size, shape.dim), *divmod(copied, size), copied)
  return dict(q=query_DHE, k=key_DHE, v=value_DHE, o=added_HED)


def _frequency(shape: Shape, theta: float) -> np.ndarray:
  """Radians by which a token further turns each pair (i, i + E/2) of a head; see `rotary`."""
  half = shape.rope_dim // 2
  return theta ** (-np.arange(half) / half)


def _scale(shape: Shape) -> float:
  """Of scores."""
  return shape.query_scale or shape.head_dim**-0.5


def _ones(size: tuple[int, ...], *places: np.ndarray) -> np.ndarray:
  """Zeros but for ones at these places."""
  array = np.zeros(size)
  array[places] = 1.0
  return array

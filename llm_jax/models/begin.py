"""Induction heads, from the first update on: a small model that soon copies.

To copy what stands further up, a model looks for where the token that it is at stood before, and
takes what came after it (Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021;
Olsson et al., arXiv:2209.11895). This needs a head in one layer that tells each token what stood
before it, and a head in the next that looks for that. Training finds the two late, since neither is
of any use without the other; so both are given here, as plain weights that it is free to change:

  embedding     the last numbers of each vector start as 0: there is room for other tokens
  first layer   heads whose queries and keys are biases alone, turned by rotary positions so that
                their product is largest one token back, or two; what they see they write into that
                room
  second layer  heads that compare some numbers of a token with those of the token before each
                other; what they find they add to the token itself, which makes it the likely next

A word may stand in a text twice, with different words after it. So others of the second layer
compare the token before with those two before each other, and add what they find as well: most is
added of what follows both.
"""

from typing import Any

import numpy as np

from llm_jax.models.shape import Shape

MARGIN = 8.0  # of the token before over its neighbours, in logits: e^8, so all of the weight
MATCH = 12.0  # logits of two tokens that are the same; of others they are 0 on the mean
FAR = 128  # tokens over which the numbers that are compared turn by 1 radian at most


def offsets(shape: Shape) -> int:
  """How many tokens back heads of the first layer look: two, where there are heads to use both."""
  halves = shape.inducing > 0 and shape.inducing % 2 == 0
  return 2 if halves and shape.inducing <= shape.num_kv_heads // 2 else 1


def room(shape: Shape) -> int:
  """How many numbers of a vector are for the tokens before; the last ones."""
  return min(shape.inducing * shape.head_dim, shape.dim // 2) // offsets(shape) * offsets(shape)


def induction_heads(blocks: Any, shape: Shape) -> Any:
  """Stacked parameters of fresh layers, of which the first two have such heads."""
  attention = dict(blocks['attention'])
  for layer, heads in enumerate((_look_back(shape), _look_for(shape))):
    for name, value in heads.items():
      # Several queries may read the keys of one head: each of them does the same.
      axis = 1 if name in 'qkv' else 0
      if name in ('q', 'q_bias', 'o'):
        groups = shape.num_heads // shape.num_kv_heads
        value = np.repeat(value, groups, axis=axis)
        value = value / groups if name == 'o' else value
      at = (layer, *[slice(None)] * axis, slice(value.shape[axis]))
      attention[name] = attention[name].at[at].set(value)
  return {**blocks, 'attention': attention}


def _look_back(shape: Shape) -> dict[str, np.ndarray]:
  """Of the first layer: see a token before, and write what it is into the room for it."""
  kind, count, size, far = shape.blocks[0], shape.inducing, shape.head_dim, offsets(shape)

  # Each pair of numbers is one complex number: 1 for a key, and for a query turned back.
  half, turn = shape.rope_dim // 2, _frequency(shape, kind.rope_theta)
  back_H = 1 + np.arange(count) * far // count
  angle_HE = back_H[:, None] * turn
  key_HE, query_HE = np.zeros((2, count, size))
  key_HE[:, :half] = 1.0
  query_HE[:, : 2 * half] = np.concatenate([np.cos(angle_HE), -np.sin(angle_HE)], axis=1)
  gap = np.sum(1 - np.cos(turn))
  gain = (MARGIN / (_scale(shape) * gap)) ** 0.5
  nothing = np.zeros((shape.dim, count, size))
  # What is one token back is copied by the first heads, the same numbers of the others by the rest.
  width = room(shape) // far
  slot = np.concatenate(
    [np.flatnonzero(np.repeat(back_H, size) == 1 + i)[:width] for i in range(far)]
  )
  copied, place = np.arange(len(slot)) % width, shape.dim - room(shape) + np.arange(len(slot))
  read_DHE = _ones((shape.dim, count, size), copied, *divmod(slot, size))
  # The norm makes vectors whose room is empty longer by this root.
  written_HED = _ones((count, size, shape.dim), *divmod(slot, size), place)
  written_HED *= (1 - room(shape) / shape.dim) ** 0.5
  heads = dict(q=nothing, k=nothing, v=read_DHE, o=written_HED)
  return heads | dict(q_bias=gain * query_HE, k_bias=gain * key_HE)


def _look_for(shape: Shape) -> dict[str, np.ndarray]:
  """Of the second layer: find tokens that stand behind the same as this one, and add them."""
  kind, size, far = shape.blocks[1], shape.head_dim, offsets(shape)
  each = shape.inducing
  half, frequency = shape.rope_dim // 2, _frequency(shape, kind.rope_theta)
  slow = np.flatnonzero(frequency <= max(1 / FAR, frequency[-1]))  # the slowest one at least
  slots = np.concatenate([slow, slow + half, np.arange(shape.rope_dim, size)])
  gain = (MATCH / (_scale(shape) * len(slots))) ** 0.5
  # Every head compares other numbers, and copies others.
  head, slot = np.divmod(np.arange(each * len(slots)), len(slots))
  first, width = shape.dim - room(shape), room(shape) // far
  compared = np.arange(each * len(slots)) % width
  copied = np.arange(min(each * size, first))
  shapes, found = (shape.dim, each, size), []
  for i in range(far):  # the token itself, or what is i tokens before it, and what is before those
    own, other = (compared if i == 0 else first + (i - 1) * width + compared), first + i * width
    found.append(
      dict(
        q=gain * _ones(shapes, own, head, slots[slot]),
        k=gain * _ones(shapes, other + compared, head, slots[slot]),
        v=_ones(shapes, copied, *divmod(copied, size)),
      )
    )
  heads = {name: np.concatenate([one[name] for one in found], axis=1) for name in 'qkv'}
  added_HED = _ones((each, size, shape.dim), *divmod(copied, size), copied)
  return heads | dict(o=np.concatenate([added_HED] * far))


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

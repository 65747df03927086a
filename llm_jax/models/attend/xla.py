"""Attention as XLA compiles it: blocks of queries over the keys that they can see."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.models.attend import Attend, AttentionSpec, Positions
from llm_jax.models.layers import swap_last_axes
from llm_jax.types import Array

QUERY_BLOCK = 128  # rows of the score matrix computed at a time where causality lets us skip keys
FEW = 16  # queries with a cache that are computed one by one, as each would be without the others
# Added to hidden scores. Finite: a padding query sees nothing, and must give numbers, not NaN.
FLOOR = -1e30


class Part(NamedTuple):
  """A block of queries and the only keys it can see.

  Attributes:
    queries, keys: slices of the sequence and of the keys.
    bias: float32 [B, 1, queries, keys], 0 where a key is seen and FLOOR where not.
  """

  queries: slice
  keys: slice
  bias: Array


def refuses(spec: AttentionSpec, **asked: Any) -> str | None:
  """Nothing."""
  del spec, asked


def make(positions: Positions, spec: AttentionSpec) -> Attend:
  """Attention whose masks are made once; memory grows with the square of the length."""
  parts = cut(positions, spec)

  def attend(q_BHLE: Array, k_BKSE: Array, v_BKSE: Array, sink_H: Any = None) -> Array:
    outs: Any = [
      _attend(
        spec, q_BHLE[:, :, p.queries], k_BKSE[:, :, p.keys], v_BKSE[:, :, p.keys], p.bias, sink_H
      )
      for p in parts
    ]
    return outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=2)

  return attend


def cut(positions: Positions, spec: AttentionSpec) -> Sequence[Part]:
  """Who sees whom.

  A key is seen in the same segment, if it is no padding, not later, and inside the window.
  Positions count from 0 inside a segment, so comparing them is causality whether a row is packed,
  padded on either side, or continued in a cache. Aligned queries are cut into blocks that meet only
  the keys which can come before them, inside the window: the masked half of the score matrix is
  never computed.
  """
  length, window = positions.q_position.shape[1], spec.window
  step = QUERY_BLOCK if spec.causal and spec.aligned else length
  step = 1 if not spec.aligned and length <= FEW else step
  skips = spec.aligned and step < length
  out = []
  for start in range(0, length, step):
    stop = min(start + step, length)
    first = max(0, start - window + 1) if window is not None and skips else 0
    queries, keys = slice(start, stop), slice(first, stop if skips else None)
    see_BLS = seen(
      positions.q_position[:, queries],
      positions.q_segment[:, queries],
      positions.k_position[:, keys],
      positions.k_segment[:, keys],
      spec,
      None if positions.k_until is None else positions.k_until[:, keys],
    )
    bias = jnp.where(see_BLS, 0.0, FLOOR)[:, None]
    # Stored once: the compiler would otherwise compare positions again inside every layer.
    out.append(Part(queries, keys, jax.lax.optimization_barrier(bias)))
  return tuple(out)


def seen(
  q_position: Array,
  q_segment: Array,
  k_position: Array,
  k_segment: Array,
  spec: AttentionSpec,
  k_until: Array | None = None,
) -> Array:
  """bool [B, L, S]: whether a query sees a key; arguments [B, L] and [B, S]."""
  q_position, q_segment = q_position[:, :, None], q_segment[:, :, None]
  k_position, k_segment = k_position[:, None], k_segment[:, None]
  if k_until is None:
    see_BLS = (q_segment == k_segment) & (k_segment > 0)
  else:
    see_BLS = (q_segment >= k_segment) & (q_segment <= k_until[:, None]) & (k_segment > 0)
  if spec.causal:
    see_BLS &= q_position >= k_position
  if spec.window is not None:
    see_BLS &= jnp.abs(q_position - k_position) < spec.window
  return see_BLS


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  spec: AttentionSpec, q_BHLE: Array, k_BKSE: Array, v_BKSE: Array, bias_B1LS: Array, sink_H: Any
) -> Array:
  """Attention of one part; the gradient multiplies operands as short as those of its products."""
  return _saving(spec, q_BHLE, k_BKSE, v_BKSE, bias_B1LS, sink_H)[0]


def _saving(
  spec: AttentionSpec, q_BHLE: Array, k_BKSE: Array, v_BKSE: Array, bias_B1LS: Array, sink_H: Any
) -> tuple[Array, Any]:
  short = spec.product_dtype or q_BHLE.dtype
  q_BKRE = _rows(q_BHLE * q_BHLE.shape[-1] ** -0.5, k_BKSE).astype(short)
  k_BKSE, v_BKSE = k_BKSE.astype(short), v_BKSE.astype(short)
  if spec.aligned:
    score_BKRS = _product(q_BKRE, swap_last_axes(k_BKSE))
  else:
    score_BKRS = _product_of_rows(q_BKRE, k_BKSE)
  score_BHLS = score_BKRS.reshape(*q_BHLE.shape[:-1], -1)
  slope = jnp.ones(())
  if spec.softcap is not None:
    bent_BHLS = jnp.tanh(score_BHLS / spec.softcap)
    score_BHLS, slope = spec.softcap * bent_BHLS, _rows(1 - bent_BHLS**2, k_BKSE)
  score_BHLS += bias_B1LS
  sunk_BKR1 = None  # the share of each query that its sink takes
  if sink_H is None:
    weight_BHLS = jax.nn.softmax(score_BHLS, axis=-1)
  else:
    sink_H11 = sink_H.astype(jnp.float32)[:, None, None]
    top_BHL1 = jnp.maximum(score_BHLS.max(-1, keepdims=True), sink_H11)
    weight_BHLS, sunk_BHL1 = jnp.exp(score_BHLS - top_BHL1), jnp.exp(sink_H11 - top_BHL1)
    total_BHL1 = weight_BHLS.sum(-1, keepdims=True) + sunk_BHL1
    weight_BHLS /= total_BHL1
    sunk_BKR1 = _rows(sunk_BHL1 / total_BHL1, k_BKSE)
  weight_BKRS = _rows(weight_BHLS, k_BKSE).astype(short)
  out_BHLE = _product(weight_BKRS, v_BKSE).reshape(q_BHLE.shape).astype(q_BHLE.dtype)
  return out_BHLE, (q_BKRE, k_BKSE, v_BKSE, weight_BKRS, slope, sunk_BKR1)


def _backward(spec: AttentionSpec, saved: Any, grad_BHLE: Array) -> tuple[Any, ...]:
  del spec
  q_BKRE, k_BKSE, v_BKSE, weight_BKRS, slope, sunk_BKR1 = saved
  grad_BKRE = _rows(grad_BHLE, k_BKSE).astype(k_BKSE.dtype)
  dv_BKSE = _product(swap_last_axes(weight_BKRS), grad_BKRE)
  dweight_BKRS, wide_BKRS = (
    _product(grad_BKRE, swap_last_axes(v_BKSE)),
    weight_BKRS.astype(jnp.float32),
  )
  # Rounded weights do not add up to 1; what all keys of a query share must have no gradient.
  total_BKR1 = wide_BKRS.sum(-1, keepdims=True)
  if sunk_BKR1 is not None:
    total_BKR1 += sunk_BKR1
  mean_BKR1 = (dweight_BKRS * wide_BKRS).sum(-1, keepdims=True) / total_BKR1
  dscore_BKRS = (wide_BKRS * (dweight_BKRS - mean_BKR1) * slope).astype(k_BKSE.dtype)
  dq_BHLE = _product(dscore_BKRS, k_BKSE).reshape(grad_BHLE.shape) * grad_BHLE.shape[-1] ** -0.5
  dk_BKSE = _product(swap_last_axes(dscore_BKRS), q_BKRE)
  dsink_H = None
  if sunk_BKR1 is not None:
    dsink_H = -(sunk_BKR1 * mean_BKR1).reshape(grad_BHLE.shape[:-1]).sum((0, 2))
  return (*(x.astype(grad_BHLE.dtype) for x in (dq_BHLE, dk_BKSE, dv_BKSE)), None, dsink_H)


_attend.defvjp(_saving, _backward)


def _product_of_rows(q_BKRE: Array, k_BKSE: Array) -> Array:
  """Scores [B, K, R, S] with a cache; rows and heads are one axis, where no mesh cuts them.

  XLA for CPU would otherwise turn the keys of a single row, all of them for each token.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty and mesh.size > 1:
    return _product(q_BKRE, swap_last_axes(k_BKSE))
  join = lambda x: x.reshape(-1, *x.shape[2:])
  return _product(join(q_BKRE), swap_last_axes(join(k_BKSE))).reshape(*q_BKRE.shape[:3], -1)


def _rows(x_BHLN: Array, k_BKSE: Array) -> Array:
  """[B, K, R, N]: query heads that share a key head become more query rows of it."""
  return x_BHLN.reshape(*k_BKSE.shape[:2], -1, x_BHLN.shape[-1])


def _product(a: Array, b: Array) -> Array:
  return jnp.matmul(a, b, preferred_element_type=jnp.float32)

"""Attention (arXiv:1706.03762) with grouped key heads, segments, windows, soft-caps and a cache."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.models.layers import Norm, fan_in, product, rotate
from llm_jax.types import Array

QUERY_BLOCK = 128  # rows of the score matrix computed at a time where causality lets us skip keys
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


class Attention(nn.Module):
  """Multi-head attention of one block; parameters q, k, v `[D, heads, E]` and o `[H, E, D]`."""

  num_heads: int
  num_kv_heads: int
  head_dim: int
  qkv_bias: bool
  out_bias: bool
  qk_norm: bool
  norm_eps: float
  softcap: float | None
  out_scale: float

  @nn.compact
  def __call__(
    self,
    x_BLD: Array,
    parts: Sequence[Part],
    angles: tuple[Array, Array] | None,
    cache: Mapping[str, Array] | None,
    index: Any,
  ) -> tuple[Array, Mapping[str, Array] | None]:
    """Attends, writing new keys and values into the cache first where there is one.

    Args:
      x_BLD: normed activations.
      parts: who sees whom, from `cut`.
      angles: rotary cosines and sines [B, L, E/2], or None.
      cache: `k`, `v` [B, K, S, E] of this layer, or None; of a single row also [K, S, E].
      index: the slot of the first new key, with a cache.
    """
    dim, dtype, size = x_BLD.shape[-1], x_BLD.dtype, self.head_dim
    heads = {'q': self.num_heads, 'k': self.num_kv_heads, 'v': self.num_kv_heads}
    weights = {n: self.param(n, fan_in(dim), (dim, h, size)) for n, h in heads.items()}
    q_BLHE, k_BSKE, v_BSKE = (product(x_BLD, weight) for weight in weights.values())
    if self.qkv_bias:
      bias = lambda n: self.param(f'{n}_bias', nn.initializers.zeros, (heads[n], size))
      q_BLHE, k_BSKE, v_BSKE = (
        x + bias(n).astype(dtype) for n, x in (('q', q_BLHE), ('k', k_BSKE), ('v', v_BSKE))
      )
    if self.qk_norm:
      q_BLHE = Norm('rms', self.norm_eps, name='q_norm')(q_BLHE)
      k_BSKE = Norm('rms', self.norm_eps, name='k_norm')(k_BSKE)
    if angles is not None:
      q_BLHE, k_BSKE = rotate(q_BLHE, *angles), rotate(k_BSKE, *angles)
    # Heads lead from here on: every product of attention is then a plain batch of matrices.
    q_BHLE, k_BKSE, v_BKSE = (x.swapaxes(1, 2) for x in (q_BLHE, k_BSKE, v_BSKE))
    if cache is not None:
      cache = {'k': put(cache['k'], k_BKSE, index), 'v': put(cache['v'], v_BKSE, index)}
      k_BKSE, v_BKSE = (x.reshape(-1, *x.shape[-3:]) for x in cache.values())
    out_BHLE = attend(q_BHLE, k_BKSE.astype(dtype), v_BKSE.astype(dtype), parts, self.softcap)
    init = fan_in(self.num_heads * size, self.out_scale)
    o_HED = self.param('o', init, (self.num_heads, size, dim))
    out_BLD = product(out_BHLE.swapaxes(1, 2), o_HED, axes=2)
    if self.out_bias:
      out_BLD += self.param('o_bias', nn.initializers.zeros, (dim,)).astype(dtype)
    return out_BLD, cache


def put(cache_BKSE: Array, new_BKLE: Array, index: Any) -> Array:
  """The cache with new keys or values from slot `index` on; a single row may lack its axis."""
  if cache_BKSE.ndim == 3:
    new_BKLE = new_BKLE[0]
  start = (*(0,) * (cache_BKSE.ndim - 2), index, 0)
  return jax.lax.dynamic_update_slice(cache_BKSE, new_BKLE.astype(cache_BKSE.dtype), start)


def cut(
  place: Mapping[str, Array], *, causal: bool, window: int | None, aligned: bool
) -> tuple[Part, ...]:
  """Who sees whom, made once for all layers.

  A key is seen in the same segment, if it is no padding, not later, and inside the window.
  Positions count from 0 inside a segment, so comparing them is causality whether a row is packed,
  padded on either side, or continued in a cache.

  Args:
    place: `q_position`, `q_segment` [B, L] and `k_position`, `k_segment` [B, S].
    causal: whether later keys are hidden.
    window: keys this far away or further are hidden; None hides none.
    aligned: query i stands where key i stands (no cache). Queries are then cut into blocks that
      meet only the keys which can come before them, inside the window: the masked half of the
      score matrix is never computed.
  """
  length = place['q_position'].shape[1]
  step = QUERY_BLOCK if causal and aligned else length
  out = []
  for start in range(0, length, step):
    stop = min(start + step, length)
    first = max(0, start - window + 1) if window is not None and step < length else 0
    queries = slice(start, stop)
    keys = slice(first, stop if step < length else None)
    q_position, q_segment = (place[k][:, queries, None] for k in ('q_position', 'q_segment'))
    k_position, k_segment = (place[k][:, None, keys] for k in ('k_position', 'k_segment'))
    see_BLS = (q_segment == k_segment) & (k_segment > 0)
    if causal:
      see_BLS &= q_position >= k_position
    if window is not None:
      see_BLS &= jnp.abs(q_position - k_position) < window
    bias = jnp.where(see_BLS, 0.0, FLOOR)[:, None]
    # Stored once: the compiler would otherwise compare positions again inside every layer.
    out.append(Part(queries, keys, jax.lax.optimization_barrier(bias)))
  return tuple(out)


def attend(
  q_BHLE: Array, k_BKSE: Array, v_BKSE: Array, parts: Sequence[Part], softcap: float | None
) -> Array:
  """softmax(q k / sqrt(E)) v over the keys that are seen -> [B, H, L, E]; softmax in float32."""
  outs = [
    _attend(q_BHLE[:, :, p.queries], k_BKSE[:, :, p.keys], v_BKSE[:, :, p.keys], p.bias, softcap)
    for p in parts
  ]
  return outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=2)


def _attend(
  q_BHLE: Array, k_BKSE: Array, v_BKSE: Array, bias_B1LS: Array, softcap: float | None
) -> Array:
  batch, heads, length, size = q_BHLE.shape
  kv_heads = k_BKSE.shape[1]
  # Query heads that share a key head become more query rows of it.
  q_BKRE = (q_BHLE * size**-0.5).reshape(batch, kv_heads, -1, size)
  score = jnp.einsum('BKRE,BKSE->BKRS', q_BKRE, k_BKSE, preferred_element_type=jnp.float32)
  score_BHLS = score.reshape(batch, heads, length, -1)
  if softcap is not None:
    score_BHLS = softcap * jnp.tanh(score_BHLS / softcap)
  weight_BHLS = jax.nn.softmax(score_BHLS + bias_B1LS, axis=-1).astype(v_BKSE.dtype)
  out_BKRE = jnp.einsum('BKRS,BKSE->BKRE', weight_BHLS.reshape(score.shape), v_BKSE)
  return out_BKRE.reshape(q_BHLE.shape)

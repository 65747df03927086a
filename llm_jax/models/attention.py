"""Attention (arXiv:1706.03762) with grouped key heads, segments, windows, soft-caps and a cache."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.models.layers import Norm, fan_in, rotate
from llm_jax.types import Array

QUERY_BLOCK = 128  # rows of the score matrix computed at a time where causality lets us skip keys


class Attention(nn.Module):
  """Multi-head attention of one block; parameters q, k, v `[D, heads, E]` and o `[H, E, D]`."""

  num_heads: int
  num_kv_heads: int
  head_dim: int
  qkv_bias: bool
  out_bias: bool
  qk_norm: bool
  norm_eps: float
  causal: bool
  window: int | None
  softcap: float | None
  out_scale: float

  @nn.compact
  def __call__(
    self,
    x_BLD: Array,
    place: Mapping[str, Array],
    angles: tuple[Array, Array] | None,
    cache: Mapping[str, Array] | None,
  ) -> tuple[Array, Mapping[str, Array] | None]:
    """See `Transformer`; `place` and `cache` are made there.

    Args:
      x_BLD: normed activations.
      place: `q_position`, `q_segment` [B, L] and `k_position`, `k_segment` [B, S]; with a cache
        also `index`, the slot of the first new key.
      angles: rotary cosines and sines, or None.
      cache: `k`, `v` [B, K, S, E] of this layer, or None.
    """
    dim, dtype, size = x_BLD.shape[-1], x_BLD.dtype, self.head_dim
    heads = {'q': self.num_heads, 'k': self.num_kv_heads, 'v': self.num_kv_heads}
    weights = {n: self.param(n, fan_in(dim), (dim, h, size)).astype(dtype) for n, h in heads.items()}
    q_BHLE, k_BKSE, v_BKSE = (
      jnp.einsum('BLD,DHE->BHLE', x_BLD, weight) for weight in weights.values()
    )
    if self.qkv_bias:
      bias = lambda n: self.param(f'{n}_bias', nn.initializers.zeros, (heads[n], size))
      q_BHLE, k_BKSE, v_BKSE = (
        x + bias(n).astype(dtype)[:, None]
        for n, x in (('q', q_BHLE), ('k', k_BKSE), ('v', v_BKSE))
      )
    if self.qk_norm:
      q_BHLE = Norm('rms', self.norm_eps, name='q_norm')(q_BHLE)
      k_BKSE = Norm('rms', self.norm_eps, name='k_norm')(k_BKSE)
    if angles is not None:
      q_BHLE, k_BKSE = rotate(q_BHLE, *angles), rotate(k_BKSE, *angles)
    if cache is not None:
      start = (0, 0, place['index'], 0)
      k_BKSE = jax.lax.dynamic_update_slice(cache['k'], k_BKSE.astype(cache['k'].dtype), start)
      v_BKSE = jax.lax.dynamic_update_slice(cache['v'], v_BKSE.astype(cache['v'].dtype), start)
      cache = {'k': k_BKSE, 'v': v_BKSE}
    out_BHLE = attend(
      q_BHLE,
      k_BKSE.astype(dtype),
      v_BKSE.astype(dtype),
      place,
      causal=self.causal,
      window=self.window,
      softcap=self.softcap,
    )
    init = fan_in(self.num_heads * size, self.out_scale)
    o_HED = self.param('o', init, (self.num_heads, size, dim)).astype(dtype)
    out_BLD = jnp.einsum('BHLE,HED->BLD', out_BHLE, o_HED)
    if self.out_bias:
      out_BLD += self.param('o_bias', nn.initializers.zeros, (dim,)).astype(dtype)
    return out_BLD, cache


def visible(place: Mapping[str, Array], causal: bool, window: int | None) -> Array:
  """Which keys a query may see, bool [B, L, S]: same segment, not padding, not later, in window.

  Positions count from 0 inside a segment, so comparing them is causality whether a row is packed,
  padded on either side, or a cache.
  """
  q_segment, k_segment = place['q_segment'][:, :, None], place['k_segment'][:, None, :]
  distance = place['q_position'][:, :, None] - place['k_position'][:, None, :]
  see = (q_segment == k_segment) & (k_segment > 0)
  if causal:
    see &= distance >= 0
  if window is not None:
    see &= jnp.abs(distance) < window
  return see


def attend(
  q_BHLE: Array,
  k_BKSE: Array,
  v_BKSE: Array,
  place: Mapping[str, Array],
  *,
  causal: bool,
  window: int | None,
  softcap: float | None,
) -> Array:
  """softmax(q k / sqrt(E)) v over visible keys -> [B, H, L, E]; scores and softmax in float32.

  Without a cache the queries are cut into blocks, and each block meets only the keys that can come
  before it (and inside the window): the masked half of the score matrix is never computed.
  """
  length = q_BHLE.shape[2]
  if not causal or 'index' in place or length <= QUERY_BLOCK:
    return _attend(q_BHLE, k_BKSE, v_BKSE, visible(place, causal, window), softcap)
  outs = []
  for start in range(0, length, QUERY_BLOCK):
    stop = min(start + QUERY_BLOCK, length)
    first = 0 if window is None else max(0, start - window + 1)
    queries, keys = slice(start, stop), slice(first, stop)
    part = {k: v[:, queries if k.startswith('q_') else keys] for k, v in place.items()}
    see_BLS = visible(part, causal, window)
    k_part, v_part = k_BKSE[:, :, keys], v_BKSE[:, :, keys]
    outs.append(_attend(q_BHLE[:, :, queries], k_part, v_part, see_BLS, softcap))
  return jnp.concatenate(outs, axis=2)


def _attend(
  q_BHLE: Array, k_BKSE: Array, v_BKSE: Array, see_BLS: Array, softcap: float | None
) -> Array:
  batch, heads, length, size = q_BHLE.shape
  kv_heads = k_BKSE.shape[1]
  # Query heads that share a key head become more query rows of it.
  q_BKRE = (q_BHLE * size**-0.5).reshape(batch, kv_heads, -1, size)
  score = jnp.einsum('BKRE,BKSE->BKRS', q_BKRE, k_BKSE, preferred_element_type=jnp.float32)
  score_BKRLS = score.reshape(batch, kv_heads, heads // kv_heads, length, -1)
  if softcap is not None:
    score_BKRLS = softcap * jnp.tanh(score_BKRLS / softcap)
  # A finite floor: a padding query sees nothing, and must give numbers, not NaN.
  score_BKRLS = jnp.where(see_BLS[:, None, None], score_BKRLS, -1e30)
  weight_BKRS = jax.nn.softmax(score_BKRLS, axis=-1).astype(v_BKSE.dtype).reshape(score.shape)
  return jnp.einsum('BKRS,BKSE->BKRE', weight_BKRS, v_BKSE).reshape(q_BHLE.shape)

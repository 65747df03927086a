"""Attention (arXiv:1706.03762) with grouped key heads, rotary positions and a cache."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.models.attend import Attend
from llm_jax.models.cache import Layer, Slots, read, write
from llm_jax.models.layers import Norm, fan_in, product, products, rotate, transposed
from llm_jax.models.weights import parameter
from llm_jax.parallel.mesh import HEAD_AXES, constrain
from llm_jax.types import Array, BadInput


class Angles(NamedTuple):
  """Cosines and sines of rotary positions.

  Attributes:
    new: of the tokens given, [B, L, E/2] each.
    cached: of all keys of a cache [B, S, E/2], where that holds keys that are not turned yet; None
      where keys are turned once, before they are kept.
  """

  new: tuple[Array, Array]
  cached: tuple[Array, Array] | None = None


class Attention(nn.Module):
  """Multi-head attention of one block; parameters q, k, v `[D, heads, E]` and o `[H, E, D]`."""

  num_heads: int
  num_kv_heads: int
  head_dim: int
  qkv_bias: bool
  out_bias: bool
  qk_norm: str | None  # kind of norm
  qk_norm_wide: bool  # over all heads as one
  norm_eps: float
  out_scale: float
  query_scale: float | None = None  # of scores; None: 1 / sqrt(E)
  sinks: bool = False
  fuse: bool = False
  product_dtype: str | None = None

  @nn.compact
  def __call__(
    self,
    x_BLD: Array,
    attend: Attend,
    angles: Angles | None,
    layer: Layer | None,
    slots: Slots | None,
  ) -> tuple[Array, Layer | None]:
    """Attends, writing new keys and values into the cache first where there is one.

    Args:
      x_BLD: normed activations.
      attend: the product of attention, of a backend in models/attend.
      angles: of rotary positions, or None.
      layer: keys and values so far, of a cache (models/cache.py), or None.
      slots: where new ones go, with a cache.
    """
    dim, dtype, size = x_BLD.shape[-1], x_BLD.dtype, self.head_dim
    heads = {'q': self.num_heads, 'k': self.num_kv_heads, 'v': self.num_kv_heads}
    weights = {n: parameter(self, n, fan_in(dim), (dim, h, size)) for n, h in heads.items()}
    q_BLHE, k_BSKE, v_BSKE = products(x_BLD, [*weights.values()], self.fuse, self.product_dtype)
    if self.qkv_bias:
      bias = lambda n: self.param(f'{n}_bias', nn.initializers.zeros, (heads[n], size))
      q_BLHE, k_BSKE, v_BSKE = (
        x + bias(n).astype(dtype) for n, x in (('q', q_BLHE), ('k', k_BSKE), ('v', v_BSKE))
      )
    if self.qk_norm:
      q_BLHE, k_BSKE = self._normed('q_norm', q_BLHE), self._normed('k_norm', k_BSKE)
    if angles is not None:
      q_BLHE = rotate(q_BLHE, *angles.new)
      k_BSKE = k_BSKE if angles.cached else rotate(k_BSKE, *angles.new)
    if self.query_scale is not None:
      q_BLHE *= self.query_scale * size**0.5  # every backend divides by that root
    # Heads lead from here on: every product of attention is then a plain batch of matrices.
    swap = lambda x: transposed(x, (0, 2, 1, 3), self.product_dtype)
    q_BHLE, k_BKSE, v_BKSE = swap(q_BLHE), swap(k_BSKE), swap(v_BSKE)
    see = attend
    if self.sinks:
      sink_H = jnp.asarray(self.param('sink', nn.initializers.zeros, (self.num_heads,)))
      see = lambda q, k, v: attend(q, k, v, sink_H)
    if layer is None or slots is None:
      out_BHLE = over_heads(see, q_BHLE, k_BKSE.astype(dtype), v_BKSE.astype(dtype))
    else:
      layer = write(layer, k_BKSE, v_BKSE, slots)
      k_BKSE, v_BKSE = read(layer, dtype)
      if angles is not None and angles.cached:
        k_BKSE = rotate(k_BKSE.swapaxes(1, 2), *angles.cached).swapaxes(1, 2)
      out_BHLE = see(q_BHLE, k_BKSE, v_BKSE)
    init = fan_in(self.num_heads * size, self.out_scale)
    o_HED = parameter(self, 'o', init, (self.num_heads, size, dim))
    out_BLD = product(swap(out_BHLE), o_HED, axes=2, product_dtype=self.product_dtype)
    if self.out_bias:
      out_BLD += self.param('o_bias', nn.initializers.zeros, (dim,)).astype(dtype)
    return out_BLD, layer

  def _normed(self, name: str, x_BLHE: Array) -> Array:
    norm = Norm(self.qk_norm or 'rms', self.norm_eps, name=name)
    if self.qk_norm_wide:
      return norm(x_BLHE.reshape(*x_BLHE.shape[:2], -1)).reshape(x_BLHE.shape)
    return norm(x_BLHE)


def over_heads(attend: Attend, q_BHLE: Array, k_BKSE: Array, v_BKSE: Array) -> Array:
  """`attend` with its heads, and not the sequence, cut over devices.

  On a mesh with a `sequence` axis activations are cut along the length; attention needs whole
  sequences, and takes them by an exchange of heads for positions (arXiv:2309.14509): every device
  computes all positions of some heads, so that causality leaves none of them idle. Key heads are
  repeated where there are fewer than devices.

  Raises:
    BadInput: the heads cannot be divided.
  """
  mesh = jax.sharding.get_abstract_mesh()
  shards = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in HEAD_AXES)
  heads, kv_heads = q_BHLE.shape[1], k_BKSE.shape[1]
  if shards == 1 or (heads % shards and mesh.shape['sequence'] == 1):
    return attend(q_BHLE, k_BKSE, v_BKSE)
  if heads % shards:
    raise BadInput(
      f'mesh: {heads} attention heads cannot be divided by tensor * sequence = {shards}'
    )
  along = lambda x: constrain(x, 'batch', 'tensor', 'sequence', None)
  across = lambda x: constrain(x, 'batch', HEAD_AXES, None, None)
  copies = math.lcm(kv_heads, shards) // kv_heads
  # Both sides of each exchange are pinned: left to itself the compiler gathers whole activations.
  keys = (along(x) for x in (k_BKSE, v_BKSE))
  keys = (across(jnp.repeat(x, copies, axis=1) if copies > 1 else x) for x in keys)
  return along(across(attend(across(along(q_BHLE)), *keys)))

"""The keys and values of rows that are being written, each row at its own pace."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from llm_jax.parallel.mesh import constrain
from llm_jax.types import Array

Layer = Mapping[str, Array]


class Slots(NamedTuple):
  """Where L new tokens of each row go; the same for all layers.

  Attributes:
    start: int [R], the first of the L slots that are written.
    source: int [R, L], which token each of them gets.
    real: bool [R, L], whether it gets one at all; otherwise it keeps what it holds.
  """

  start: Array
  source: Array
  real: Array

  def put(self, x_RS: Array, new_RL: Array) -> Array:
    """Something kept for each slot, such as its token, with what is new."""
    return self.put_heads(x_RS[:, None, :, None], new_RL[:, None, :, None])[:, 0, :, 0]

  def put_heads(self, x_RKSE: Array, new_RKLE: Array) -> Array:
    """The same for keys or values."""
    length, dtype = new_RKLE.shape[2], x_RKSE.dtype
    new_RKLE = new_RKLE.astype(dtype)
    if dtype == jnp.bfloat16:
      # As integers: XLA for CPU would write a cache of bfloat16 by way of a whole one of float32.
      x_RKSE, new_RKLE = (jax.lax.bitcast_convert_type(x, jnp.uint16) for x in (x_RKSE, new_RKLE))

    def one(x_SE: Array, new_LE: Array, start: Array, source_L: Array, real_L: Array) -> Array:
      old_LE = jax.lax.dynamic_slice_in_dim(x_SE, start, length)
      if length > 1:
        new_LE = new_LE[source_L]
      new_LE = jnp.where(real_L[:, None], new_LE, old_LE)
      return jax.lax.dynamic_update_slice_in_dim(x_SE, new_LE, start, 0)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
      put_RKSE = jax.vmap(jax.vmap(one, (0, 0, None, None, None)))(x_RKSE, new_RKLE, *self)
    else:
      # Rows and heads as one axis, which no mesh cuts here: inside the loop that decodes, XLA for
      # CPU would otherwise copy all keys and values of a single row twice a token.
      joined = lambda x: x.reshape(-1, *x.shape[2:])
      each = (jnp.repeat(x, x_RKSE.shape[1], axis=0) for x in self)
      put_RKSE = jax.vmap(one)(joined(x_RKSE), joined(new_RKLE), *each).reshape(x_RKSE.shape)
    return jax.lax.bitcast_convert_type(put_RKSE, dtype) if dtype == jnp.bfloat16 else put_RKSE


@flax.struct.dataclass
class Cache:
  """R rows of at most S slots, which share nothing but the number of their slots.

  Some may read a prompt while others go on and others rest; a row can be shortened, copied or
  replaced without its neighbours.

  Attributes:
    layers: of each layer `k` and `v` [R, K, S, E]; as int8 with `k_scale`, `v_scale` [R, K, S, 1].
      One whose values are made from what its `k` holds has no `v`. Where no key of a shorter row
      can be kept there is a single one, with the `token` [R, 1, S, 1] of each slot.
    position: int32 [R, S], of the token in each slot.
    segment: int32 [R, S], its document; 0 where a slot holds nothing.
    index: int32 [R], the next slot of each row. No slot from there on holds anything.
  """

  layers: tuple[Layer, ...]
  position: Array
  segment: Array
  index: Array

  def extend(self, position_RL: Array, segment_RL: Array) -> tuple['Cache', Slots]:
    """The cache with L more tokens a row, and the slots to `write` their keys and values to.

    Nothing is written of padding, which has segment 0. Padding on the left takes slots all the
    same; padding on the right takes none, so that a row of nothing else stays as it is. The caller
    sees to it that there is room.
    """
    length, slots = segment_RL.shape[1], self.segment.shape[1]
    real_RL = segment_RL > 0
    # Where fewer than L slots are left, what is written begins before the index.
    start_R = jnp.minimum(self.index, slots - length)
    source_RL = jnp.arange(length) - (self.index - start_R)[:, None]
    inside_RL, source_RL = source_RL >= 0, jnp.maximum(source_RL, 0)
    written = Slots(start_R, source_RL, inside_RL & jnp.take_along_axis(real_RL, source_RL, axis=1))
    cache = dataclasses.replace(
      self,
      position=written.put(self.position, position_RL),
      segment=written.put(self.segment, segment_RL),
      index=self.index + jnp.where(real_RL, jnp.arange(1, length + 1), 0).max(1),
    )
    return cache, written

  def grow(self, slots: int) -> 'Cache':
    """The same rows with room for `slots` tokens each, at least as many as there are."""
    more = slots - self.segment.shape[1]
    wider = lambda x, axis: jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)])
    return dataclasses.replace(
      self,
      layers=jax.tree.map(lambda x: wider(x, 2), self.layers),
      position=wider(self.position, 1),
      segment=wider(self.segment, 1),
    )

  def rewind(self, index_R: Array) -> 'Cache':
    """The rows without what they hold from slot `index_R` on; 0 empties a row."""
    kept_RS = jnp.arange(self.segment.shape[1]) < index_R[:, None]
    segment = jnp.where(kept_RS, self.segment, 0)
    return dataclasses.replace(self, segment=segment, index=jnp.minimum(self.index, index_R))

  def take(self, rows: Any) -> 'Cache':
    """A cache of some rows, by their numbers and in that order; a row may come more than once."""
    return jax.tree.map(lambda x: x[rows], self)

  def place(self, rows: Any, others: 'Cache') -> 'Cache':
    """The cache with rows of another, which has as many slots, in the place of its `rows`."""
    return jax.tree.map(lambda x, new: x.at[rows].set(new), self, others)

  def repeat(self, times: int) -> 'Cache':
    """Each row so many times, side by side; rows and heads stay cut over the mesh in use."""
    cache = jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), self)
    rows = jax.tree.map(lambda x: constrain(x, 'batch'), cache)
    heads = jax.tree.map(lambda x: constrain(x, 'batch', 'tensor'), cache.layers)
    return dataclasses.replace(rows, layers=heads)


def empty(
  rows: int,
  slots: int,
  *,
  num_layers: int,
  num_heads: int,
  head_dim: int,
  dtype: Any,
  names: Sequence[str] = ('k', 'v'),
) -> Cache:
  """An empty cache.

  Args:
    rows: R.
    slots: S.
    num_layers: N.
    num_heads: K, of keys.
    head_dim: E.
    dtype: of keys and values. 'int8' keeps a byte a number and a float32 scale for each head of a
      token, the largest of its numbers over 127; what is read is off by half a scale at most.
    names: what a layer holds.
  """
  empty = lambda size, dtype: jnp.zeros((rows, num_heads, slots, size), dtype)
  layer = lambda: (
    {name: empty(head_dim, dtype) for name in names}
    | ({f'{name}_scale': empty(1, 'float32') for name in names} if dtype == 'int8' else {})
  )
  each_slot = lambda: jnp.zeros((rows, slots), jnp.int32)
  layers = tuple(layer() for _ in range(num_layers))
  return Cache(layers, each_slot(), each_slot(), jnp.zeros(rows, jnp.int32))


def write(layer: Layer, k_RKLE: Array, v_RKLE: Array | None, slots: Slots) -> Layer:
  """A layer with new keys, and values where it holds any."""
  new = {'k': k_RKLE} if v_RKLE is None else {'k': k_RKLE, 'v': v_RKLE}
  if 'k_scale' in layer:
    new = {name: part for key, x in new.items() for name, part in _quantized(key, x).items()}
  return {name: slots.put_heads(x, new[name]) for name, x in layer.items()}


def read(layer: Layer, dtype: Any) -> tuple[Array, Array]:
  """The keys and values [R, K, S, E] of a layer, for products of `dtype`; keys twice without."""

  def one(name: str) -> Array:
    x_RKSE = layer[name]
    if f'{name}_scale' in layer:
      x_RKSE = x_RKSE.astype(jnp.float32) * layer[f'{name}_scale']
    return x_RKSE.astype(dtype)

  k_RKSE = one('k')
  return k_RKSE, one('v') if 'v' in layer else k_RKSE


def _quantized(name: str, x_RKLE: Array) -> Layer:
  """int8 numbers, and the float32 scales that they are to be multiplied by."""
  x_RKLE = x_RKLE.astype(jnp.float32)
  scale_RKL1 = jnp.abs(x_RKLE).max(-1, keepdims=True) / 127
  whole_RKLE = jnp.round(x_RKLE / jnp.where(scale_RKL1 > 0, scale_RKL1, 1)).astype(jnp.int8)
  return {name: whole_RKLE, f'{name}_scale': scale_RKL1}

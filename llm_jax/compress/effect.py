"""What compression changes: bits per weight, and logits, a layer at a time."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.models.compressed import Compressed
from llm_jax.models.transformer import Transformer
from llm_jax.models.weights import Quantized, Table, Weight
from llm_jax.types import Array, Batch, Params


def whole(params: Any) -> Any:
  """The parameters as float32 arrays, as they are read."""

  def one(x: Any) -> Any:
    if isinstance(x, Table):
      return x.codes.astype(jnp.float32) * x.scale
    return x.dense(jnp.float32) if isinstance(x, Quantized) else x

  return jax.tree.map(one, params, is_leaf=lambda x: isinstance(x, Weight))


def size(params: Any) -> int:
  """Bytes of parameters."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def bits_per_weight(params: Params) -> float:
  """Of the weights that are in few bits: scales and zero points are shared among them."""
  is_one = lambda x: isinstance(x, Weight)
  few = [x for x in jax.tree.leaves(params, is_leaf=is_one) if is_one(x)]
  weights = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(whole, few)))
  return 8 * size(few) / weights


def logit_errors(
  model: Compressed, before: Params, after: Params, batch: Batch
) -> tuple[float, list[float]]:
  """Root mean squares of what logits change by on a batch: of all, and with one layer changed.

  Args:
    model: the compressed one.
    before: parameters of its base.
    after: its own parameters.
    batch: `tokens`, `position`, `segment` [B, L]; padding does not count.
  """
  base, dense = model.base, whole(after)
  wanted = _logits(base, before, batch)
  together = _error(base, dense, batch, wanted)
  first, errors = base.shape.dense_layers, []
  for i in range(base.shape.num_layers):
    stack, at = ('dense_blocks', i) if i < first else ('blocks', i - first)
    mixed = {**before, stack: _one(before[stack], dense[stack], at)}
    errors.append(float(_error(base, mixed, batch, wanted)))
  return float(together), errors


@jax.jit
def _one(before: Any, after: Any, at: Any) -> Any:
  """Stacked parameters, of which one layer is that of others."""
  return jax.tree.map(lambda a, b: jnp.asarray(a).at[at].set(b[at]), before, after)


@functools.partial(jax.jit, static_argnums=0)
def _logits(base: Transformer, params: Mapping[str, Any], batch: Batch) -> Array:
  return base.apply(params, batch['tokens'], batch['position'], batch['segment'])[0]


@functools.partial(jax.jit, static_argnums=0)
def _error(base: Transformer, params: Mapping[str, Any], batch: Batch, wanted: Array) -> Array:
  real = batch['segment'] > 0
  square = jnp.square(_logits(base, params, batch) - wanted)
  square = square.reshape(*real.shape, -1).mean(-1)
  return jnp.sqrt((square * real).sum() / jnp.maximum(real.sum(), 1))

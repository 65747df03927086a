"""Attention in blocks with an online softmax (arXiv:2205.14135), in plain JAX, on any device.

Scores exist for one block of queries and one of keys at a time, forward and backward, so memory is
linear in the length. Pairs of blocks that cannot see each other, by causality, the window or the
documents that they hold, are passed over.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llm_jax.models.attend import Attend, AttentionSpec, Positions
from llm_jax.models.attend.xla import FLOOR, seen
from llm_jax.types import Array

BLOCK = 512  # queries and keys of a block


class Plan(NamedTuple):
  """Which blocks meet; int32 [N] each.

  Attributes:
    where: of the queries and keys of each block, [N, B, block].
    keys_of: for each block of queries the first block of keys it meets and the one after the last.
    queries_of: the same, for each block of keys.
  """

  where: Positions
  keys_of: tuple[Array, Array]
  queries_of: tuple[Array, Array]


def refuses(spec: AttentionSpec, **asked: Any) -> str | None:
  """A cache and branches, which `choose` never gives it."""
  del asked
  return None if spec.aligned and not spec.branches else 'has neither a cache nor branches'


def make(positions: Positions, spec: AttentionSpec) -> Attend:
  """Attention whose memory is linear in the length.

  Gradients of a query that sees nothing are 0, and so is its output.
  """
  length = positions.q_position.shape[1]
  block = min(BLOCK, length)
  count = -(-length // block)
  pad = ((0, 0), (0, count * block - length))
  # Blocks lead: [N, B, block].
  where = Positions(*(_cut(jnp.pad(x, pad), count, axis=1) for x in positions if x is not None))
  pair_NN = _pairs(where, spec, block)
  ranges = lambda pairs: (pairs.argmax(1), pairs.shape[1] - pairs[:, ::-1].argmax(1))
  plan = Plan(where, ranges(pair_NN), ranges(pair_NN.T))

  def attend(q_BHLE: Array, k_BKSE: Array, v_BKSE: Array, sink_H: Any = None) -> Array:
    batch, heads, _, size = q_BHLE.shape
    kv_heads = k_BKSE.shape[1]
    if sink_H is not None:
      sink_H = sink_H.astype(jnp.float32).reshape(kv_heads, -1, 1)
    wide = (*((0, 0),) * 2, pad[1], (0, 0))
    q = _cut(jnp.pad(q_BHLE * size**-0.5, wide), count, axis=2)
    q_NBKGIE = q.reshape(count, batch, kv_heads, heads // kv_heads, block, size)
    k_NBKJE, v_NBKJE = (_cut(jnp.pad(x, wide), count, axis=2) for x in (k_BKSE, v_BKSE))
    out_NBKGIE: Any = _attend(spec, plan, q_NBKGIE, k_NBKJE, v_NBKJE, sink_H)
    out_BHNIE = jnp.moveaxis(out_NBKGIE.reshape(count, batch, heads, block, size), 0, 2)
    return out_BHNIE.reshape(batch, heads, -1, size)[:, :, :length]

  return attend


def _cut(x: Array, count: int, axis: int) -> Array:
  """`count` blocks of an axis, on a new first one."""
  shape = (*x.shape[:axis], count, -1, *x.shape[axis + 1 :])
  return jnp.moveaxis(x.reshape(shape), axis, 0)


def _pairs(where: Positions, spec: AttentionSpec, block: int) -> Array:
  """bool [N, N]: whether any query of block i may see any key of block j; each i meets itself."""
  real = where.q_segment > 0
  low_NB = jnp.where(real, where.q_segment, jnp.iinfo(jnp.int32).max).min(-1)
  high_NB = where.q_segment.max(-1)
  meet = (low_NB[:, None] <= high_NB[None]) & (low_NB[None] <= high_NB[:, None])
  number = jnp.arange(len(low_NB))
  ahead = number[:, None] - number  # how many blocks the queries are ahead of the keys
  pairs = meet.any(-1)
  if spec.causal:
    pairs &= ahead >= 0
  if spec.window is not None:
    pairs &= (jnp.abs(ahead) - 1) * block + 1 < spec.window
  return pairs | (ahead == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  spec: AttentionSpec, plan: Plan, q_NBKGIE: Array, k_NBKJE: Array, v_NBKJE: Array, sink_KG1: Any
) -> Array:
  return _saving(spec, plan, q_NBKGIE, k_NBKJE, v_NBKJE, sink_KG1)[0]


def _scores(
  spec: AttentionSpec, where: Positions, q_BKGIE: Array, k_BKJE: Array, i: Any, j: Any
) -> tuple[Array, Array, Array]:
  """Scores [B, K, G, I, J] of two blocks, whether they are seen, and the slope of the soft-cap."""
  raw = _product('BKGIE,BKJE->BKGIJ', q_BKGIE, k_BKJE)
  slope = jnp.ones(())
  if spec.softcap is not None:
    bent = jnp.tanh(raw / spec.softcap)
    raw, slope = spec.softcap * bent, 1 - bent**2
  see = seen(where.q_position[i], where.q_segment[i], where.k_position[j], where.k_segment[j], spec)
  return raw, see[:, None, None], slope


def _forward(
  spec: AttentionSpec, plan: Plan, q: Array, k: Array, v: Array, sink_KG1: Any
) -> tuple[Array, Array]:
  """Outputs [N, B, K, G, I, E] and logsumexp of each query's scores [N, B, K, G, I], float32."""

  def queries(block: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
    q_BKGIE, i, first, last = block

    def keys(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
      out, top, total = carry
      score, see, _ = _scores(spec, plan.where, q_BKGIE, k[j], i, j)
      score = jnp.where(see, score, FLOOR)
      new_top = jnp.maximum(top, score.max(-1))
      weight = jnp.where(see, jnp.exp(score - new_top[..., None]), 0)
      shrink = jnp.exp(top - new_top)
      more = _product('BKGIJ,BKJE->BKGIE', weight.astype(v.dtype), v[j])
      return out * shrink[..., None] + more, new_top, total * shrink + weight.sum(-1)

    zero = jnp.zeros(q_BKGIE.shape, jnp.float32)
    carry = (zero, jnp.full_like(zero[..., 0], FLOOR), jnp.zeros_like(zero[..., 0]))
    if sink_KG1 is not None:  # a score that has been seen, and whose value is 0
      carry = (zero, zero[..., 0] + sink_KG1, jnp.ones_like(zero[..., 0]))
    out, top, total = jax.lax.fori_loop(first, last, keys, carry)
    blind = total == 0
    total = jnp.where(blind, 1, total)
    # A logsumexp so large that the backward pass finds no weight in this row.
    logsumexp = jnp.where(blind, -FLOOR, top + jnp.log(total))
    return out / total[..., None], logsumexp

  return jax.lax.map(queries, (q, jnp.arange(len(q)), *plan.keys_of))


def _saving(
  spec: AttentionSpec, plan: Plan, q: Array, k: Array, v: Array, sink_KG1: Any
) -> tuple[Array, Any]:
  dtype = q.dtype
  q, k, v = (x.astype(spec.product_dtype or dtype) for x in (q, k, v))
  out, logsumexp = _forward(spec, plan, q, k, v, sink_KG1)
  out, logsumexp = (checkpoint_name(x, 'attention') for x in (out.astype(dtype), logsumexp))
  return out, (plan, q, k, v, out, logsumexp, sink_KG1)


def _backward(spec: AttentionSpec, saved: Any, grad: Array) -> tuple[Any, ...]:
  plan, q, k, v, out, logsumexp, sink_KG1 = saved
  dtype = out.dtype
  delta = (out.astype(jnp.float32) * grad).sum(-1)  # over the keys, the sum of weight * dweight
  grad = grad.astype(q.dtype)

  def keys(dq: Array, block: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
    k_BKJE, v_BKJE, j, first, last = block

    def queries(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
      dq, dk, dv = carry
      score, see, slope = _scores(spec, plan.where, q[i], k_BKJE, i, j)
      weight = jnp.where(see, jnp.exp(score - logsumexp[i][..., None]), 0)
      dweight = _product('BKGIE,BKJE->BKGIJ', grad[i], v_BKJE)
      dscore = (weight * (dweight - delta[i][..., None]) * slope).astype(q.dtype)
      dv += _product('BKGIJ,BKGIE->BKJE', weight.astype(v.dtype), grad[i])
      dk += _product('BKGIJ,BKGIE->BKJE', dscore, q[i])
      return dq.at[i].add(_product('BKGIJ,BKJE->BKGIE', dscore, k_BKJE)), dk, dv

    zero = jnp.zeros(k_BKJE.shape, jnp.float32)
    dq, dk, dv = jax.lax.fori_loop(first, last, queries, (dq, zero, zero))
    return dq, (dk.astype(dtype), dv.astype(dtype))

  dq = jnp.zeros(q.shape, jnp.float32)
  dq, (dk, dv) = jax.lax.scan(keys, dq, (k, v, jnp.arange(len(k)), *plan.queries_of))
  dsink_KG1 = None
  if sink_KG1 is not None:
    dsink_KG1 = -(jnp.exp(sink_KG1 - logsumexp) * delta).sum((0, 1, 4))[..., None]
  return None, dq.astype(dtype), dk, dv, dsink_KG1


def _product(spec: str, a: Array, b: Array) -> Array:
  return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


_attend.defvjp(_saving, _backward)

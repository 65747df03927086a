"""Splash attention, JAX's flash kernel for TPUs, with segments, windows and soft-caps."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.models.attend import Attend, AttentionSpec, Positions
from llm_jax.parallel.mesh import BATCH_AXES, HEAD_AXES
from llm_jax.types import Array

LANES = 128  # the kernel's unit of length and head size
BLOCKS = (1024, 512, 256, 128)  # queries and keys of a block: the largest that divides the length
INTERPRET = False  # run the kernel's body as plain JAX, for tests without a TPU


def refuses(spec: AttentionSpec, *, length: int, **asked: Any) -> str | None:
  """Why the kernel cannot, where it cannot."""
  del asked
  if not spec.aligned:
    return 'has no cache'
  if spec.sinks:
    return 'has no sinks'
  if length % LANES:
    return f'needs rows of a multiple of {LANES} tokens, not {length}'
  return None


def make_mask(length: int, spec: AttentionSpec) -> Any:
  """Who sees whom in a row, without its segments; the kernel asks for it block by block.

  Most blocks are seen whole or not at all, and all of these are the same two arrays. Comparing the
  positions of each block would take minutes for a row of 128k tokens.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

  shape: Any = (length, length)
  if spec.window is None and not spec.causal:
    return masks.FullMask(shape)
  before = math.inf if spec.window is None else spec.window - 1  # how far back a query sees
  after = 0 if spec.causal else before
  whole = functools.cache(lambda seen, *size: np.full(size, seen))

  kind: Any = masks.CausalMask if spec.window is None else masks.LocalMask

  class Band(kind):
    """The keys up to `before` behind a query and `after` ahead of it."""

    def __getitem__(self, idx: tuple[slice, slice]) -> np.ndarray:
      rows, columns = idx
      nearest, furthest = rows.start - columns.stop + 1, rows.stop - 1 - columns.start
      size = rows.stop - rows.start, columns.stop - columns.start
      if furthest < -after or nearest > before:
        return whole(False, *size)
      if nearest >= -after and furthest <= before:
        return whole(True, *size)
      return super().__getitem__(idx)

  return Band(shape) if spec.window is None else Band(shape, (before, after), 0)


def make(positions: Positions, spec: AttentionSpec) -> Attend:
  """Attention by the kernel, each device on its own rows and heads."""
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
  from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask import MultiHeadMask

  length = positions.q_segment.shape[1]
  mask = make_mask(length, spec)
  block = next(size for size in BLOCKS if length % size == 0)
  names = ('block_q', 'block_kv', 'block_kv_compute', 'block_q_dkv', 'block_kv_dkv')
  names += ('block_kv_dkv_compute', 'block_q_dq', 'block_kv_dq')
  sizes = splash.BlockSizes(**dict.fromkeys(names, block))

  def alone(q_BHLE: Array, k_BKSE: Array, v_BKSE: Array, segment_BL: Array) -> Array:
    """On one device."""
    batch, heads, _, size = q_BHLE.shape
    kv_heads = k_BKSE.shape[1]
    kernel = splash.make_splash_mqa_single_device(
      MultiHeadMask([mask] * (heads // kv_heads)),
      block_sizes=sizes,
      attn_logits_soft_cap=spec.softcap,
      residual_checkpoint_name='attention',
      interpret=INTERPRET,
    )
    pad = lambda x: jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, -size % LANES),))
    q_BKGLE = pad(q_BHLE * size**-0.5).reshape(batch, kv_heads, heads // kv_heads, length, -1)
    one = lambda q, k, v, segment: kernel(q, k, v, splash.SegmentIds(segment, segment))
    many = jax.vmap(jax.vmap(one, (0, 0, 0, None)))
    out_BKGLE: Any = many(q_BKGLE, pad(k_BKSE), pad(v_BKSE), segment_BL)
    return out_BKGLE.reshape(batch, heads, length, -1)[..., :size].astype(q_BHLE.dtype)

  def attend(q_BHLE: Array, k_BKSE: Array, v_BKSE: Array) -> Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
      return alone(q_BHLE, k_BKSE, v_BKSE, positions.q_segment)
    P = jax.sharding.PartitionSpec
    cut = P(BATCH_AXES, HEAD_AXES)
    spread = jax.shard_map(
      alone, in_specs=(cut, cut, cut, P(BATCH_AXES)), out_specs=cut, check_vma=False
    )
    return spread(q_BHLE, k_BKSE, v_BKSE, positions.q_segment)

  return attend

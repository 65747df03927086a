"""cuDNN's flash attention on NVIDIA GPUs; packed documents by their offsets, never by a mask.

JAX offers the packed layout in a private module only, which is why this file is strict about what
it passes, and why a row that does not fit goes to `chunked`, and not to a kernel that would be
wrong.
"""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llm_jax.models.attend import Attend, AttentionSpec, Positions, chunked
from llm_jax.parallel.mesh import platform
from llm_jax.types import Array

DOCUMENTS = 32  # that a row may hold; a batch with a fuller row is computed by `chunked`


def refuses(spec: AttentionSpec, *, head_dim: int, dtype: Any, **asked: Any) -> str | None:
  """Why cuDNN cannot: its kernel is half precision, causal, without a cap or a cache."""
  del asked
  if jnp.dtype(dtype).itemsize != 2:
    return f'needs 16-bit activations, not {jnp.dtype(dtype).name}; set config.compute.dtype'
  if not (spec.causal and spec.aligned):
    return 'is for causal training only'
  if spec.softcap is not None:
    return 'has no soft-cap'
  if spec.sinks:
    return 'has no sinks'
  if head_dim % 8 or head_dim > 128:
    return f'needs a head_dim that is a multiple of 8 up to 128, not {head_dim}'
  if platform() != 'gpu':
    return f'needs an NVIDIA GPU, and this machine has {platform()}'
  if not (capability := _capability()) or capability < 9:
    return 'reads packed documents on NVIDIA GPUs from Hopper on (H100) only'
  return None


def _capability() -> float | None:
  """The compute capability of this machine's GPUs, or None where they are not NVIDIA's."""
  told = str(getattr(jax.devices()[0], 'compute_capability', ''))
  return float(told) if re.fullmatch(r'[\d.]+', told) else None


class Packing(NamedTuple):
  """Where the documents are; see `documents`."""

  positions: Positions
  offsets: Array
  sizes: Array
  fits: Array


def make(positions: Positions, spec: AttentionSpec) -> Attend:
  """Attention by cuDNN. Every run of one segment in a row is a document, padding too."""
  packing = Packing(positions, *documents(positions.q_segment, DOCUMENTS))
  return lambda q, k, v: _attend(spec, packing, q, k, v)


def _packed(spec: AttentionSpec, packing: Packing, q: Array, k: Array, v: Array) -> Array:
  from jax._src.cudnn import fused_attention_stablehlo as fused

  offsets, sizes = packing.offsets, packing.sizes
  out_BLHE: Any = fused.dot_product_attention(
    *(x.swapaxes(1, 2) for x in (q, k, v)),
    q_seqlen=sizes,
    kv_seqlen=sizes,
    q_offsets=offsets,
    kv_offsets=offsets,
    scale=q.shape[-1] ** -0.5,
    mask_type=fused.MaskType.PADDING_CAUSAL,
    sliding_window_length=spec.window,
  )
  return out_BLHE.swapaxes(1, 2)


# The gradient of a `cond` would keep what either side needs. So the choice is made by hand: what
# cuDNN leaves is kept, and the spare side, which hardly ever runs, begins from nothing.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(spec: AttentionSpec, packing: Packing, q: Array, k: Array, v: Array) -> Array:
  spare = lambda: chunked.make(packing.positions, spec)(q, k, v)
  return jax.lax.cond(packing.fits, lambda: _packed(spec, packing, q, k, v), spare)


def _saving(
  spec: AttentionSpec, packing: Packing, q: Array, k: Array, v: Array
) -> tuple[Array, Any]:
  out, pull = jax.vjp(lambda q, k, v: _packed(spec, packing, q, k, v), q, k, v)
  given = (q, k, v, packing.offsets, packing.sizes)
  kept = lambda x: x if any(x is y for y in given) else checkpoint_name(x, 'attention')
  spare = lambda: chunked.make(packing.positions, spec)(q, k, v)
  out = jax.lax.cond(packing.fits, lambda: out, spare)
  return out, (jax.tree.map(kept, pull), packing, q, k, v)


def _backward(spec: AttentionSpec, saved: Any, grad: Array) -> tuple[Any, ...]:
  pull, packing, q, k, v = saved
  spare = lambda: jax.vjp(chunked.make(packing.positions, spec), q, k, v)[1](grad)
  return None, *jax.lax.cond(packing.fits, lambda: pull(grad), spare)


_attend.defvjp(_saving, _backward)


def documents(segment_BL: Array, most: int) -> tuple[Array, Array, Array]:
  """Where the documents of each row begin, in the form that cuDNN reads.

  Args:
    segment_BL: int segments.
    most: M, documents of a row.

  Returns:
    The first token of each document, int32 [B, M + 1], and its size [B, M], both -1 where a row has
    fewer documents; and a bool, whether every row has at most M of them and none stands in two
    places.
  """
  batch, length = segment_BL.shape
  changes = segment_BL[:, 1:] != segment_BL[:, :-1]
  begins_BL = jnp.concatenate([jnp.ones((batch, 1), bool), changes], axis=1)
  number_BL = begins_BL.cumsum(1)  # from 1
  count_B1 = number_BL[:, -1:]
  wanted_M = jnp.arange(1, most + 2)
  # The first place whose number is at least m; a row of fewer documents ends at its length.
  offsets = jax.vmap(lambda number: jnp.searchsorted(number, wanted_M))(number_BL)
  sizes = jnp.where(wanted_M[:-1] <= count_B1, jnp.diff(offsets, axis=1), -1)
  offsets = jnp.where((wanted_M <= count_B1) & (wanted_M <= most), offsets, -1)
  # A document in two places: its segment is not above all that stand before it.
  before = jax.lax.cummax(segment_BL, axis=1)
  before = jnp.pad(before[:, :-1], ((0, 0), (1, 0)))
  again = (begins_BL & (segment_BL > 0) & (segment_BL <= before)).any()
  as_int = lambda x: x.astype(jnp.int32)
  return as_int(offsets), as_int(sizes), (count_B1 <= most).all() & ~again

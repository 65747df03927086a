"""The small layers of a Transformer: norms, rotary positions, the two kinds of MLP."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.models.rope_scaling import scaling_of
from llm_jax.models.weights import Weight, parameter
from llm_jax.parallel.mesh import platform
from llm_jax.types import Array


class Model(nn.Module):
  """A linen module that is used with plain parameters: `apply(params, ...)`, `init(rng, ...)`."""

  def init(self, rng: Array, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Plain nested dict of parameters."""
    variables: Any = super().init(rng, *args, **kwargs)
    return variables['params']

  def apply(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Calls the model (or `method=`) with plain parameters."""
    return super().apply({'params': params}, *args, **kwargs)


class Norm(nn.Module):
  """RMSNorm (arXiv:1910.07467) or LayerNorm (arXiv:1607.06450), computed in float32.

  `kind` is 'rms', 'layer', or 'zero_centered_rms', whose parameter is the scale less 1; `start` is
  the scale of a fresh one.
  """

  kind: str
  eps: float
  start: float = 1.0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    size = x.shape[-1]
    centered = self.kind == 'zero_centered_rms'
    init = nn.initializers.constant(self.start - 1 if centered else self.start)
    scale = self.param('scale', init, (size,))
    y = x.astype(jnp.float32)
    if self.kind == 'layer':
      y = y - y.mean(-1, keepdims=True)
    scale = 1 + scale if centered else scale
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps) * scale
    if self.kind == 'layer':
      y = y + self.param('bias', nn.initializers.zeros, (size,))
    return y.astype(x.dtype)


GATED = ('swiglu', 'geglu')  # the kinds of MLP with a gate beside the hidden layer


class MLP(nn.Module):
  """SwiGLU or GEGLU (arXiv:2002.05202), or a hidden layer with GELU (GPT-2); see `Shape.mlp`."""

  hidden_dim: int
  kind: str
  bias: bool
  out_scale: float
  fuse: bool = False
  product_dtype: str | None = None
  gate_bias: bool = False

  @nn.compact
  def __call__(self, x_BLD: Array) -> Array:
    dim, dtype = x_BLD.shape[-1], x_BLD.dtype
    names = ('up', 'gate') if self.kind in GATED else ('up',)
    shape = (dim, self.hidden_dim)
    weights = [parameter(self, name, fan_in(dim), shape) for name in names]
    hidden_BLF, *gate = products(x_BLD, weights, self.fuse, self.product_dtype)
    if self.bias:
      hidden_BLF += self.param('up_bias', nn.initializers.zeros, (self.hidden_dim,)).astype(dtype)
    if self.gate_bias:
      gate[0] += self.param('gate_bias', nn.initializers.zeros, (self.hidden_dim,)).astype(dtype)
    if self.kind == 'swiglu':
      hidden_BLF = gated(gate[0], hidden_BLF)
    elif self.kind == 'geglu':
      hidden_BLF *= jax.nn.gelu(gate[0], approximate=True)
    else:
      hidden_BLF = jax.nn.gelu(hidden_BLF, approximate=self.kind == 'gelu')
    init = fan_in(self.hidden_dim, self.out_scale)
    down_FD = parameter(self, 'down', init, (self.hidden_dim, dim))
    out_BLD = product(hidden_BLF, down_FD, product_dtype=self.product_dtype)
    if self.bias:
      out_BLD += self.param('down_bias', nn.initializers.zeros, (dim,)).astype(dtype)
    return out_BLD


@jax.custom_vjp
def gated(gate: Array, up: Array) -> Array:
  """silu(gate) * up, which keeps nothing but its arguments for the gradient."""
  return jax.nn.silu(gate) * up


def _gated_saving(gate: Array, up: Array) -> tuple[Array, tuple[Array, Array]]:
  return gated(gate, up), (gate, up)


def _gated_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  gate, up = saved
  open_ = jax.nn.sigmoid(gate)
  passed = gate * open_
  return grad * up * (open_ + passed * (1 - open_)), grad * passed


gated.defvjp(_gated_saving, _gated_backward)


@flax.struct.dataclass
class LowRank:
  """The weight W + scale * a b (LoRA, arXiv:2106.09685, sec. 4.1), which is never built.

  Attributes:
    weight: W [*K, *N].
    a: [*K, R].
    b: [R, *N].
    scale: alpha / R.
  """

  weight: Array
  a: Array
  b: Array
  scale: float = flax.struct.field(pytree_node=False)


def product(
  x: Array, weight: Any, axes: int = 1, dtype: Any = None, product_dtype: str | None = None
) -> Array:
  """Contracts the last `axes` axes of x with the first of a weight, as one plain matrix product.

  Leading axes are flattened into rows: the gradient of a product over [B, L, D] would contract two
  axes, which XLA does on CPU by copying a transposed operand. Not where a mesh cuts both of them:
  rows that are cut so have no sharding of their own.

  Args:
    x: [..., *K].
    weight: [*K, *N], cast to the dtype of x; a LowRank, multiplied part by part; or a Weight, which
      does it by itself.
    axes: how many axes K has.
    dtype: of the result, float32 or default that of x.
    product_dtype: 'bfloat16' rounds the operands of a float32 product, here and in the gradients,
      and adds up in float32.

  Returns:
    [..., *N].
  """
  if isinstance(weight, LowRank):
    few = product(x, weight.a, axes, product_dtype=product_dtype)
    return product(x, weight.weight, axes, dtype, product_dtype) + weight.scale * product(
      few, weight.b, 1, dtype, product_dtype
    )
  lead, inner = x.shape[:-axes], x.shape[-axes:]
  outer = weight.outer if isinstance(weight, Weight) else weight.shape[axes:]
  mesh = jax.sharding.get_abstract_mesh()
  flat = mesh.empty or mesh.shape['sequence'] == 1
  rows = x.reshape(*((-1,) if flat else lead), math.prod(inner))
  if isinstance(weight, Weight):
    return weight.multiply(rows, dtype or x.dtype).reshape(*lead, *outer)
  columns = weight.astype(x.dtype).reshape(math.prod(inner), -1)
  rounds = product_dtype and x.dtype == jnp.float32
  if rounds or (dtype is not None and jnp.dtype(dtype).itemsize > x.dtype.itemsize):
    out: Any = _rounded(product_dtype if rounds else x.dtype, x.dtype, rows, columns)
  else:
    out = jnp.matmul(rows, columns)
  return out.reshape(*lead, *outer)


def products(
  x: Array, weights: Sequence[Any], fuse: bool, product_dtype: str | None = None
) -> list[Array]:
  """`product` of x with several weights [D, *N]; with `fuse` as one, over their joined columns.

  Joining copies the weights, which pays where rows are many and columns few; not on a mesh that
  cuts the columns (`tensor`), nor for a LowRank or a Weight, where they stay apart.
  """
  mesh = jax.sharding.get_abstract_mesh()
  cut = not mesh.empty and mesh.shape['tensor'] > 1
  if not fuse or cut or any(isinstance(weight, (LowRank, Weight)) for weight in weights):
    return [product(x, weight, product_dtype=product_dtype) for weight in weights]
  flat = [weight.astype(x.dtype).reshape(x.shape[-1], -1) for weight in weights]
  out = product(x, jnp.concatenate(flat, axis=1), product_dtype=product_dtype)
  ends = list(itertools.accumulate(weight.shape[1] for weight in flat))
  parts = jnp.split(out, ends[:-1], axis=-1)
  return [
    part.reshape(*x.shape[:-1], *weight.shape[1:])
    for part, weight in zip(parts, weights, strict=True)
  ]


def transposed(x: Array, order: Sequence[int], product_dtype: str | None = None) -> Array:
  """x.transpose(order); of 16 bits (or soon, of `product_dtype`) on a CPU stored in that order.

  XLA for CPU multiplies 16-bit operands as such only where neither looks like a transpose before it
  has optimised anything; otherwise it widens both. An axis of one hides it until then.
  """
  if platform() != 'cpu' or not (product_dtype or x.dtype.itemsize == 2):
    return x.transpose(order)
  hidden = x[None].transpose(0, *(axis + 1 for axis in order))
  return hidden.reshape(hidden.shape[1:])


def swap_last_axes(x: Array, product_dtype: str | None = None) -> Array:
  """The matrices x [..., M, N], `transposed`."""
  last = x.ndim - 1
  return transposed(x, (*range(last - 1), last, last - 1), product_dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded(product_dtype: Any, kept: Any, a: Array, b: Array) -> Array:
  """a [..., M, K] @ b [K, N] of 16-bit operands in float32, and a gradient of 16-bit operands too.

  JAX's own gradient multiplies the float32 cotangent with a 16-bit operand, which is done as a
  float32 product: some sixteen times slower on a GPU, four times on a CPU.

  Args:
    product_dtype: dtype of the operands, of what is kept for the gradient and of the cotangent.
    kept: dtype of a and b as given, and so of their gradients.
  """
  return _rounded_saving(product_dtype, kept, a, b)[0]


def _rounded_saving(
  product_dtype: Any, kept: Any, a: Array, b: Array
) -> tuple[Array, tuple[Array, Array]]:
  del kept
  a, b = a.astype(product_dtype), b.astype(product_dtype)
  return jnp.matmul(a, b, preferred_element_type=jnp.float32), (a, b)


def _rounded_backward(
  product_dtype: Any, kept: Any, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
  a, b = saved
  grad = grad.astype(product_dtype)
  # XLA for CPU widens the operands of what has a 16-bit result.
  wide: Any = dict(preferred_element_type=jnp.float32 if platform() == 'cpu' else kept)
  grad_a = jnp.matmul(grad, swap_last_axes(b), **wide)
  if a.ndim == 2:
    grad_b = jnp.matmul(swap_last_axes(a), grad, **wide)
  else:
    lead = tuple(range(a.ndim - 1))
    grad_b = jnp.tensordot(a, grad, (lead, lead), **wide)
  return grad_a.astype(kept), grad_b.astype(kept)


_rounded.defvjp(_rounded_saving, _rounded_backward)


def fan_in(size: int, scale: float = 1.0) -> nn.initializers.Initializer:
  """Truncated normal of standard deviation scale / sqrt(size), so that outputs keep unit size."""
  return nn.initializers.truncated_normal(scale / math.sqrt(size))


def rotary(
  position_BL: Array,
  head_dim: int,
  theta: float,
  scaling: Mapping[str, Any] | None = None,
  length: Any = None,
) -> tuple[Array, Array]:
  """Cosines and sines [B, L, E/2] of rotary position embedding (arXiv:2104.09864), float32.

  Args:
    position_BL: positions, counted from 0 inside each segment.
    head_dim: E, numbers of a head that are turned; a multiple of 4.
    theta: base of the frequencies.
    scaling: a stretch for longer contexts, see models/rope_scaling.py.
    length: tokens of the longest row so far, for stretches that depend on it.
  """
  frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
  magnitude = None
  if scaling:
    frequency, magnitude = scaling_of(scaling).stretch(frequency, theta, length)
  # The loop of two turns is a fence: whatever stands outside of a loop XLA for CPU fuses into its
  # readers, and takes every cosine again for each head of each layer.
  turn = lambda _, f: (None, jnp.stack([g(position_BL[..., None] * f) for g in (jnp.cos, jnp.sin)]))
  _, parts = jax.lax.scan(turn, None, frequency.reshape(2, -1))
  cos_BLE, sin_BLE = jnp.concatenate(parts, axis=-1)
  if magnitude is not None:
    cos_BLE, sin_BLE = cos_BLE * magnitude, sin_BLE * magnitude
  return cos_BLE, sin_BLE


def rotate(x_BLHE: Array, cos_BLE: Array, sin_BLE: Array) -> Array:
  """Turns the pairs (i, i + E/2) of each head by their angles; the Hugging Face pairing.

  Where there are angles for the first numbers of a head only, the rest stays as it is.
  """
  turned = 2 * cos_BLE.shape[-1]
  if turned < x_BLHE.shape[-1]:
    first = rotate(x_BLHE[..., :turned], cos_BLE, sin_BLE)
    return jnp.concatenate([first, x_BLHE[..., turned:]], axis=-1)
  if platform() == 'tpu' and x_BLHE.dtype.itemsize == 2:
    return _rotate_whole(x_BLHE, cos_BLE, sin_BLE)
  first, second = jnp.split(x_BLHE.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos_BLE[:, :, None], sin_BLE[:, :, None]
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x_BLHE.dtype)


@jax.custom_vjp
def _rotate_whole(x_BLHE: Array, cos_BLE: Array, sin_BLE: Array) -> Array:
  """`rotate` of 16-bit heads, which changes their halves by a product with 1 and -1; it is exact.

  TPUs cut no head in two without copying all of them to another order and back.
  """
  half, wide = cos_BLE.shape[-1], jnp.float32
  change = np.eye(2 * half, k=half) - np.eye(2 * half, k=-half)  # (a, b) to (-b, a)
  other = jnp.matmul(x_BLHE, jnp.asarray(change, x_BLHE.dtype), preferred_element_type=wide)
  cos, sin = (jnp.concatenate([a, a], axis=-1)[:, :, None] for a in (cos_BLE, sin_BLE))
  return (x_BLHE.astype(wide) * cos + other * sin).astype(x_BLHE.dtype)


def _rotate_saving(x: Array, cos: Array, sin: Array) -> tuple[Array, tuple[Array, Array]]:
  return _rotate_whole(x, cos, sin), (cos, sin)


def _rotate_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, None, None]:
  cos, sin = saved
  return _rotate_whole(grad, cos, -sin), None, None


_rotate_whole.defvjp(_rotate_saving, _rotate_backward)

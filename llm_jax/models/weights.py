"""Weights in few bits: what a compressed artifact holds, and how a model multiplies by it.

A model reads a `Weight` wherever `layers.product` would read a matrix. Codes lie as [I, O], the
inputs and outputs of a product each as one axis; two codes of 4 bits share a byte.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from llm_jax.options import at_least
from llm_jax.parallel.parameters import facts_of, path_of
from llm_jax.types import Array

FLOAT8 = 'float8_e4m3fn'
MOST_FLOAT8 = 448.0  # its largest number


class Weight:
  """What stands for the matrix of a product.

  Attributes:
    outer: sizes of the axes of the output.
  """

  outer: tuple[int, ...]

  def multiply(self, rows: Array, dtype: Any) -> Array:
    """rows [..., I] times the matrix, [..., O], in a type."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Form:
  """How a parameter is stored; `artifact.json` has it for each that is no plain array.

  Attributes:
    dtype: 'int8', 'int4' (of two a byte, in which 3 bits are kept too) or 'float8_e4m3fn'.
    group: inputs that share a scale; 0: all of an output. Of a table, a row has one.
    zero: whether groups have zero points.
    scale: type of the scales.
  """

  dtype: Literal['int8', 'int4', 'float8_e4m3fn'] = 'int8'
  group: Annotated[int, at_least(0)] = 0
  zero: bool = False
  scale: Literal['float32', 'float16'] = 'float32'

  def empty(self, path: str, shape: Sequence[int], facts: Any) -> 'Quantized | Table':
    """A parameter of 0 that is stored so.

    Args:
      path: of the parameter.
      shape: that it has as an array.
      facts: its row of parallel/parameters.py.
    """
    if path == TABLE:
      return Table(jnp.zeros(tuple(shape), jnp.int8), jnp.ones((shape[0], 1), jnp.float32))
    lead, inner, outer = facts.split(shape)
    inputs, outputs = math.prod(inner), math.prod(outer)
    groups = inputs // (self.group or inputs)
    packed = self.dtype == 'int4'
    codes = jnp.zeros(
      (*lead, inputs // 2 if packed else inputs, outputs), 'uint8' if packed else self._kind
    )
    scale = jnp.ones((*lead, groups, outputs), self.scale)
    zero = jnp.zeros(scale.shape, jnp.uint8) if self.zero else None
    return Quantized(codes, scale, zero, inner, outer)

  @property
  def _kind(self) -> str:
    return 'uint8' if self.zero else self.dtype


@flax.struct.dataclass
class Quantized(Weight):
  """The matrix (codes - zero) * scale.

  Attributes:
    codes: [*lead, I, O] int8, uint8 or float8; or [*lead, I / 2, O] uint8 with two codes of 4 bits
      a byte, those of the first half of each group in the low bits. `lead` counts layers, experts.
    scale: [*lead, groups, O].
    zero: [*lead, groups, O] uint8, or None, for which codes of 4 bits have 8.
    inner, outer: sizes of the axes of the input, and of the output.
    rounds: whether activations are rounded to int8 too, a row at a time, where codes are int8 and
      an output has one scale.
  """

  codes: Array
  scale: Array
  zero: Array | None
  inner: tuple[int, ...] = flax.struct.field(pytree_node=False)
  outer: tuple[int, ...] = flax.struct.field(pytree_node=False)
  rounds: bool = flax.struct.field(pytree_node=False, default=False)

  @property
  def packed(self) -> bool:
    """Whether a byte holds two codes."""
    return 2 * self.codes.shape[-2] == math.prod(self.inner)

  def dense(self, dtype: Any) -> Array:
    """The parameter as an array [*lead, *inner, *outer]."""
    lead = self.codes.shape[:-2]
    return self._matrix(dtype).reshape(*lead, *self.inner, *self.outer)

  def multiply(self, rows: Array, dtype: Any) -> Array:
    """rows [..., I] times the matrix, [..., O], in a type; sums are float32."""
    wide: Any = dict(preferred_element_type=jnp.float32)
    if self.codes.shape[-2] != rows.shape[-1] or self.scale.shape[-2] > 1 or self.zero is not None:
      return jnp.matmul(rows, self._matrix(rows.dtype), **wide).astype(dtype)
    if self.rounds and self.codes.dtype == jnp.int8:
      return (whole_product(rows, self.codes) * self.scale[0]).astype(dtype)
    return (jnp.matmul(rows, self.codes.astype(rows.dtype), **wide) * self.scale[0]).astype(dtype)

  def _matrix(self, dtype: Any) -> Array:
    groups = self.scale.shape[-2]
    codes, zero = self.codes, self.zero
    codes = codes.reshape(*codes.shape[:-2], groups, -1, codes.shape[-1])
    if self.packed:
      codes = jnp.concatenate([codes & 15, codes >> 4], axis=-2)
      zero = jnp.asarray(8, jnp.uint8) if zero is None else zero
    value = codes.astype(jnp.float32)
    if zero is not None:
      value -= (zero[..., None, :] if zero.ndim else zero).astype(jnp.float32)
    value *= self.scale[..., None, :].astype(jnp.float32)
    return value.reshape(*self.codes.shape[:-2], -1, self.codes.shape[-1]).astype(dtype)


def whole_product(rows: Array, codes: Array) -> Array:
  """rows [..., I] times codes [I, O] int8, float32 [..., O]; rows are rounded to int8 first.

  Whole numbers are multiplied and added up, so the order of the sums changes nothing.

  >>> whole_product(jnp.array([[127.0, 1.0]]), jnp.array([[1], [-2]], jnp.int8)).tolist()
  [[125.0]]
  """
  rows = rows.astype(jnp.float32)
  step = jnp.maximum(jnp.abs(rows).max(-1, keepdims=True) / 127, jnp.finfo(jnp.float32).tiny)
  near = jnp.round(rows / step).astype(jnp.int8)
  return jnp.matmul(near, codes, preferred_element_type=jnp.int32).astype(jnp.float32) * step


@flax.struct.dataclass
class Table(Weight):
  """An embedding whose rows are int8 codes [V, D] times a scale [V, 1] each."""

  codes: Array
  scale: Array

  def take(self, tokens: Array, dtype: Any) -> Array:
    """Rows [..., D] of tokens."""
    return (self.codes[tokens].astype(jnp.float32) * self.scale[tokens]).astype(dtype)

  @property
  def head(self) -> Quantized:
    """What reads hidden states [..., D] with it: logits [..., V]."""
    size, dim = self.codes.shape
    return Quantized(self.codes.T, self.scale.T, None, (dim,), (size,))


@flax.struct.dataclass
class Blocks(Weight):
  """A matrix cut into blocks, so that how it adds up depends less on the number of rows.

  XLA for CPU leaves a product to a library that cuts long sums, and where it cuts depends on the
  other sizes. Blocks are so small that it mostly does not, and are added up here.

  Attributes:
    parts: of each block of inputs those of its outputs, [I', O'] each.
    outer: sizes of the axes of the output.
  """

  parts: tuple[tuple[Array, ...], ...]
  outer: tuple[int, ...] = flax.struct.field(pytree_node=False)

  @classmethod
  def of(cls, weight: Array, inputs: int) -> 'Blocks':
    """A weight whose first `inputs` axes are contracted."""
    outer = weight.shape[inputs:]
    matrix = weight.reshape(-1, math.prod(outer))
    cut = lambda x, size, axis: jnp.split(x, [*range(size, x.shape[axis], size)], axis)
    rows = cut(matrix, INPUTS, 0)
    return cls(tuple(tuple(cut(row, OUTPUTS, 1)) for row in rows), tuple(outer))

  def multiply(self, rows: Array, dtype: Any) -> Array:
    """rows [..., I] times the matrix, [..., O], in a type."""
    total, start = None, 0
    for parts in self.parts:
      some = rows[..., start : (start := start + parts[0].shape[0])]
      new = jnp.concatenate([jnp.matmul(some, part) for part in parts], axis=-1)
      total = new if total is None else total + new
    assert total is not None
    return total.astype(dtype)


INPUTS, OUTPUTS = 256, 1024  # of a block
TABLE = 'embedding/table'


def pack(
  codes: np.ndarray,
  scale: np.ndarray,
  zero: np.ndarray | None,
  form: Form,
  inner: Sequence[int],
  outer: Sequence[int],
) -> Quantized:
  """What was rounded, as it is stored.

  Args:
    codes: [*lead, O, I]; of a float8, numbers of that type.
    scale: [*lead, O, groups].
    zero: the same, or None.
    form: how it is stored.
    inner, outer: sizes of the axes of input and output.
  """
  codes = codes.swapaxes(-1, -2)
  turned = lambda x, dtype: jnp.asarray(x.swapaxes(-1, -2).astype(dtype))
  if form.dtype == 'int4':
    codes = codes.astype(np.int16) + (0 if zero is not None else 8)
    halves = codes.astype(np.uint8).reshape(
      *codes.shape[:-2], scale.shape[-1], 2, -1, codes.shape[-1]
    )
    codes = halves[..., 0, :, :] | halves[..., 1, :, :] << 4
    codes = codes.reshape(*codes.shape[:-3], -1, codes.shape[-1])
  zeros = None if zero is None else turned(zero, np.uint8)
  return Quantized(jnp.asarray(codes), turned(scale, form.scale), zeros, tuple(inner), tuple(outer))


def float8(weight_OI: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The nearest numbers of float8 (e4m3) [O, I], and scales [O, 1]."""
  most_O1 = np.abs(weight_OI).max(-1, keepdims=True).astype(np.float32)
  scale_O1 = np.where(most_O1 == 0, np.float32(1), most_O1 / np.float32(MOST_FLOAT8))
  return (weight_OI / scale_O1).astype(ml_dtypes.float8_e4m3fn), scale_O1


def parameter(module: nn.Module, name: str, init: Any, shape: tuple[int, ...]) -> Any:
  """A parameter of a layer, which may be a `Weight`."""
  if not module.is_initializing():
    given = module.get_variable('params', name)
    if isinstance(given, Weight):
      return given
  return module.param(name, init, shape)


def in_blocks(params: Any) -> Any:
  """Parameters of single layers with their matrices as Blocks; a Weight or LowRank stays one."""

  def cut(key_path: Any, x: Any) -> Any:
    path = re.sub(r'/\d+', '', path_of(key_path))  # layers have numbers
    if isinstance(x, Weight) or path.endswith('/weight'):
      return x
    facts = facts_of(path)
    return Blocks.of(x, facts.inputs) if facts.low_rank else x

  return jax.tree_util.tree_map_with_path(cut, params, is_leaf=lambda x: isinstance(x, Weight))


def dense(weight: Any, dtype: Any) -> Array:
  """An array or a Quantized as an array of a type."""
  return weight.dense(dtype) if isinstance(weight, Quantized) else jnp.asarray(weight).astype(dtype)


def with_rounds(params: Any) -> Any:
  """The same parameters, whose products round activations to int8 where they can."""
  mark = lambda x: dataclasses.replace(x, rounds=True) if isinstance(x, Quantized) else x
  return jax.tree.map(mark, params, is_leaf=lambda x: isinstance(x, Weight))

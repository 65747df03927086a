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
import numpy as np

from llm_jax.options import at_least
from llm_jax.parallel.mesh import platform
from llm_jax.parallel.parameters import facts_of, path_of
from llm_jax.types import Array

FLOAT8 = 'float8_e4m3fn'
FEWEST = 8  # rows that XLA for CPU multiplies fast


def group_size(group: int, inputs: int) -> int:
  """How many inputs share a scale: all where there is no group, or a larger one than there are.

  >>> group_size(0, 64), group_size(32, 64), group_size(32, 15)
  (64, 32, 16)
  """
  return min(group or inputs, inputs + inputs % 2)


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
    group: inputs that share a scale, the last ones perhaps fewer; 0: all of an output. Of a table,
      a row has one.
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
    inputs, outputs, packed = math.prod(inner), math.prod(outer), self.dtype == 'int4'
    size = group_size(self.group, inputs)
    groups = -(-inputs // size)
    rows = groups * size // (2 if packed else 1)
    codes = jnp.zeros((*lead, rows, outputs), 'uint8' if packed else self._kind)
    scale = jnp.ones((*lead, groups, outputs), self.scale)
    zero = jnp.zeros(scale.shape, jnp.uint8) if self.zero else None
    return Quantized(codes, scale, zero, inner, outer, packed)

  @property
  def _kind(self) -> str:
    return 'uint8' if self.zero else self.dtype


@flax.struct.dataclass
class Quantized(Weight):
  """The matrix (codes - zero) * scale.

  Attributes:
    codes: [*lead, I, O] int8, uint8 or float8, with I filled up to whole groups. `lead` counts
      layers, experts.
    scale: [*lead, groups, O].
    zero: [*lead, groups, O] uint8, or None, for which codes of 4 bits have 8.
    inner, outer: sizes of the axes of the input, and of the output.
    packed: whether codes are [*lead, I / 2, O] uint8, two of 4 bits a byte; the first half of each
      group has the low bits.
    rounds: whether activations are rounded to int8 too, a row at a time, where codes are int8 and
      an output has one scale.
    turned: whether codes are [O, I], as CPUs like them; see `for_cpu`.
  """

  codes: Array
  scale: Array
  zero: Array | None
  inner: tuple[int, ...] = flax.struct.field(pytree_node=False)
  outer: tuple[int, ...] = flax.struct.field(pytree_node=False)
  packed: bool = flax.struct.field(pytree_node=False, default=False)
  rounds: bool = flax.struct.field(pytree_node=False, default=False)
  turned: bool = flax.struct.field(pytree_node=False, default=False)

  def dense(self, dtype: Any) -> Array:
    """The parameter as an array [*lead, *inner, *outer]."""
    lead = self.codes.shape[:-2]
    return self._matrix(dtype).reshape(*lead, *self.inner, *self.outer)

  def multiply(self, rows: Array, dtype: Any) -> Array:
    """rows [..., I] times the matrix, [..., O], in a type; sums are float32."""
    wide: Any = dict(preferred_element_type=jnp.float32)
    if not self._plain:
      return jnp.matmul(rows, self._matrix(rows.dtype), **wide).astype(dtype)
    if self.whole:
      codes = self.codes if self.turned else self.codes.T
      return (whole_product(rows, codes) * self.scale[0]).astype(dtype)
    return (jnp.matmul(rows, self.codes.astype(rows.dtype), **wide) * self.scale[0]).astype(dtype)

  @property
  def whole(self) -> bool:
    """Whether products are of whole numbers."""
    return self.rounds and self._plain and self.codes.dtype == jnp.int8

  @property
  def _plain(self) -> bool:
    """Whether an output has one scale, by which sums over codes may be multiplied."""
    whole = self.codes.size == math.prod(self.codes.shape[:-2] + self.inner + self.outer)
    return self.scale.shape[-2] == 1 and self.zero is None and whole

  def for_cpu(self, dtype: Any) -> Any:
    """The same for a CPU that takes one row at a time, without `lead`.

    XLA for CPU widens codes before each product, which takes longer than to read an array of
    float32. So it is given that array, or else codes that it can multiply as they are.
    """
    if not self.whole:
      return self.dense(dtype)
    return dataclasses.replace(self, codes=self.codes.T, turned=True)

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
    value = value.reshape(*self.codes.shape[:-2], -1, self.codes.shape[-1])
    return value[..., : math.prod(self.inner), :].astype(dtype)


def whole_product(rows: Array, codes: Array) -> Array:
  """rows [..., I] times codes [O, I] int8, float32 [..., O]; rows are rounded to int8 first.

  Whole numbers are multiplied and added up, so the order of the sums changes nothing. For a single
  row XLA for CPU has no fast product of int8, for eight it has: the others are filled with 0.

  >>> whole_product(jnp.array([[127.0, 1.0]]), jnp.array([[1, -2]], jnp.int8)).tolist()
  [[125.0]]
  """
  lead, rows = rows.shape[:-1], rows.astype(jnp.float32).reshape(-1, rows.shape[-1])
  step = jnp.maximum(jnp.abs(rows).max(-1, keepdims=True) / 127, jnp.finfo(jnp.float32).tiny)
  near = jnp.round(rows / step).astype(jnp.int8)
  if platform() == 'cpu' and len(near) < FEWEST:
    near = jnp.pad(near, ((0, FEWEST - len(near)), (0, 0)))
  sums = jax.lax.dot_general(
    near, codes, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32
  )
  return (sums[: len(rows)].astype(jnp.float32) * step).reshape(*lead, -1)


@flax.struct.dataclass
class Table(Weight):
  """An embedding whose rows are int8 codes [V, D] times a scale [V, 1] each."""

  codes: Array
  scale: Array
  rounds: bool = flax.struct.field(pytree_node=False, default=False)

  def take(self, tokens: Array, dtype: Any) -> Array:
    """Rows [..., D] of tokens."""
    return (self.codes[tokens].astype(jnp.float32) * self.scale[tokens]).astype(dtype)

  @property
  def head(self) -> Quantized:
    """What reads hidden states [..., D] with it: logits [..., V]."""
    size, dim = self.codes.shape
    return Quantized(self.codes.T, self.scale.T, None, (dim,), (size,), rounds=self.rounds)


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
  packed, group = form.dtype == 'int4', group_size(form.group, codes.shape[-1])
  codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % group)])
  codes = codes.swapaxes(-1, -2)
  turned = lambda x, dtype: jnp.asarray(x.swapaxes(-1, -2).astype(dtype))
  if packed:
    codes = codes.astype(np.int16) + (0 if zero is not None else 8)
    halves = codes.astype(np.uint8).reshape(
      *codes.shape[:-2], scale.shape[-1], 2, -1, codes.shape[-1]
    )
    codes = halves[..., 0, :, :] | halves[..., 1, :, :] << 4
    codes = codes.reshape(*codes.shape[:-3], -1, codes.shape[-1])
  zeros = None if zero is None else turned(zero, np.uint8)
  axes = tuple(inner), tuple(outer)
  return Quantized(jnp.asarray(codes), turned(scale, form.scale), zeros, *axes, packed)


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
  mark = lambda x: dataclasses.replace(x, rounds=True) if isinstance(x, (Quantized, Table)) else x
  return jax.tree.map(mark, params, is_leaf=lambda x: isinstance(x, Weight))

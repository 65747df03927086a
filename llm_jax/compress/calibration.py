"""What the matrices of a layer are multiplied with, on rows of text: moments of their inputs."""

import contextlib
import functools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from llm_jax.models.transformer import Transformer
from llm_jax.models.weights import Weight
from llm_jax.parallel.parameters import facts_of
from llm_jax.types import Array, BadInput, Batch

# Matrices that are multiplied with the same inputs, in the order in which a layer uses them.
TOGETHER = (
  ('attention/q_a', 'attention/q', 'attention/k', 'attention/v', 'attention/kv_a'),
  ('attention/q_b',),
  ('attention/kv_b',),
  ('attention/o',),
  ('mlp/gate', 'mlp/up'),
  ('mlp/down',),
  ('experts/shared/gate', 'experts/shared/up'),
  ('experts/shared/down',),
)


class Inputs(NamedTuple):
  """Moments of the inputs X [n, I] of a matrix, over tokens that are no padding.

  Attributes:
    hessian: 2 X^T X / n, float64 [I, I].
    mean: of |X|, float32 [I].
    count: n.
  """

  hessian: np.ndarray
  mean: np.ndarray
  count: int


@flax.struct.dataclass
class Watched(Weight):
  """A matrix that notes what it is multiplied with, while a program is traced.

  Attributes:
    matrix: [I, O].
    outer: as of any weight.
    name: under which inputs are noted.
    seen: where; name -> [..., I].
  """

  matrix: Array
  outer: tuple[int, ...] = flax.struct.field(pytree_node=False)
  name: str = flax.struct.field(pytree_node=False)
  seen: dict[str, Array] = flax.struct.field(pytree_node=False)

  def multiply(self, rows: Array, dtype: Any) -> Array:
    self.seen[self.name] = rows
    return jnp.matmul(rows, self.matrix, preferred_element_type=jnp.float32).astype(dtype)


def split(name: str, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Sizes of the axes of input and output of a matrix of one layer.

  >>> split('attention/o', (4, 8, 32))
  ((4, 8), (32,))
  """
  _, inner, outer = facts_of(f'blocks/{name}').split((1, *shape))
  return inner, outer


class Layer:
  """A layer that is being compressed, one matrix after the other, and what it reads.

  Attributes:
    number: of the layer, from 0.
    params: path inside of the layer -> array, float32; those of matrices that were compressed are
      what their codes stand for.
    model: that it is part of.
  """

  def __init__(
    self,
    model: Transformer,
    number: int,
    params: Mapping[str, Any],
    batches: Sequence[Batch],
    chosen: Collection[str],
  ) -> None:
    """A layer as it was.

    Args:
      model: that it is part of.
      number: of the layer.
      params: path inside of the layer -> array.
      batches: what it reads: `x` [B, L, D], `position` and `segment` [B, L].
      chosen: paths of the matrices to compress.
    """
    self.model, self.number, self.params = model, number, dict(params)
    self._batches, self._chosen = batches, chosen

  def matrix(self, name: str) -> np.ndarray:
    """The weights of a matrix [O, I]; of experts [X, O, I]."""
    array = np.asarray(self.params[name], np.float32)
    inner, outer = split(name, array.shape)
    lead = array.shape[: array.ndim - len(inner) - len(outer)]
    return array.reshape(*lead, math.prod(inner), math.prod(outer)).swapaxes(-1, -2)

  def set(self, name: str, matrix: np.ndarray) -> None:
    """Other weights [O, I] for a matrix."""
    shape = self.params[name].shape
    self.params[name] = jnp.asarray(matrix.swapaxes(-1, -2).reshape(shape), jnp.float32)

  def inputs(self, name: str) -> Inputs:
    """What a matrix is multiplied with, in the layer as it is now.

    Raises:
      BadInput: there is no token that is no padding.
    """
    found = [_moments(self.model, self.number, name, self.params, b) for b in self._batches]
    square, size, count = (
      np.sum([np.asarray(part, np.float64) for part in parts], axis=0) for parts in zip(*found)
    )
    if not count:
      raise BadInput('the calibration text has no tokens')
    return Inputs(2 * square / count, (size / count).astype(np.float32), int(count))

  @property
  def matrices(self) -> list[str]:
    """Names of the matrices that are compressed, in the order in which the layer uses them."""
    order = {name: i for i, name in enumerate(name for names in TOGETHER for name in names)}
    return sorted(self._chosen, key=lambda name: order.get(name, len(order)))

  @property
  def together(self) -> list[tuple[str, ...]]:
    """Those of `matrices` that are multiplied with the same inputs, but for `experts`."""
    groups = (tuple(name for name in names if name in self._chosen) for names in TOGETHER)
    return [names for names in groups if names]

  @property
  def experts(self) -> list[str]:
    """Those of `matrices` that hold one for each expert, whose inputs are not watched."""
    return [name for name in self.matrices if facts_of(f'blocks/{name}').stacked > 1]

  @contextlib.contextmanager
  def named(self, name: str) -> Iterator[None]:
    """Says which matrix bad input is about."""
    try:
      yield
    except BadInput as error:
      tokens = sum(int((b['segment'] > 0).sum()) for b in self._batches)
      raise BadInput(
        f'compress: layer {self.number}, {name}: {error}; {tokens} tokens of calibration text'
      ) from None

  def norm_before(self, names: Sequence[str]) -> str | None:
    """The norm whose output is all that these matrices read, and that nothing else reads."""
    if not self.model.shape.pre_norm:
      return None
    readers = {'attention/q': 'attention_norm', 'mlp/gate': 'mlp_norm', 'mlp/up': 'mlp_norm'}
    norm = readers.get(names[0])
    wanted = next((group for group in TOGETHER if names[0] in group), ())
    readers_here = [name for name in wanted if name in self.params]
    return norm if norm and readers_here == list(names) else None

  def divide(self, norm: str, scale_I: np.ndarray) -> None:
    """Divides the output of a norm by scales."""
    one = int(self.model.shape.norm == 'zero_centered_rms')  # whose parameter is the scale less 1
    self.params[f'{norm}/scale'] = (self.params[f'{norm}/scale'] + one) / scale_I - one
    if f'{norm}/bias' in self.params:
      self.params[f'{norm}/bias'] = self.params[f'{norm}/bias'] / scale_I

  def outputs(self) -> list[Batch]:
    """What the next layer reads."""
    run = lambda b: _outputs(self.model, self.number, self.params, b)
    return [{**batch, 'x': run(batch)} for batch in self._batches]


def _apply(model: Transformer, number: int, flat: Mapping[str, Any], batch: Batch) -> Array:
  params, places = unflatten_dict(dict(flat), sep='/'), (batch['position'], batch['segment'])
  return model.apply({}, number, params, batch['x'], *places, method='layer')


_outputs = jax.jit(_apply, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _moments(
  model: Transformer, number: int, name: str, params: Mapping[str, Any], batch: Batch
) -> tuple[Array, Array, Array]:
  """Sums of X^T X [I, I] and of |X| [I] over the inputs of a matrix, and their number."""
  inner, outer = split(name, params[name].shape)
  seen: dict[str, Array] = {}
  matrix = params[name].reshape(math.prod(inner), -1)
  _apply(model, number, {**params, name: Watched(matrix, outer, name, seen)}, batch)
  rows = seen[name].astype(jnp.float32).reshape(-1, math.prod(inner))
  real = batch['segment'].reshape(-1, 1) > 0
  rows = jnp.where(real, rows, 0)
  square = jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)
  return square, jnp.abs(rows).sum(0), real.sum()

"""What is to be known of each parameter: one row a path, from which everything else follows."""

import functools
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax.types import BadInput, Params


class Parameter(NamedTuple):
  """Facts of the parameters whose path has a pattern.

  Attributes:
    pattern: regular expression, searched in the path.
    axes: the mesh axis that cuts each axis of the array. `fsdp` cuts the axis that a product
      contracts or writes from the residual stream, `tensor` cuts heads and hidden units, so that a
      block needs one all-reduce over `tensor` after each half.
    stacked: how many leading axes only count: layers, then experts.
    inputs: how many axes after those a product contracts with its input; 0: no matrix. Matrices are
      decayed, and those of layers are what Muon moves; vectors that scale, shift or place are not.
    exact: whether it is read in float32, whatever the type of products.
    low_rank: whether `layers.product` multiplies by it, so that it may be a LowRank.
  """

  pattern: str
  axes: P
  stacked: int = 0
  inputs: int = 0
  exact: bool = False
  low_rank: bool = False

  def split(self, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Sizes of the axes that are stacked, contracted with the input, and of the output."""
    inner = self.stacked + self.inputs
    return tuple(shape[: self.stacked]), tuple(shape[self.stacked : inner]), tuple(shape[inner:])


_MATRIX: dict[str, Any] = dict(stacked=1, inputs=1)
_PRODUCT: dict[str, Any] = dict(stacked=1, inputs=1, low_rank=True)
_EXPERT: dict[str, Any] = dict(stacked=2, inputs=1)
_BITS = '/(codes|scale|zero)$'  # parts of models.weights.Quantized, which are read as they are
_STORED: dict[str, Any] = dict(stacked=1, inputs=1, exact=True)
_STORED_EXPERT: dict[str, Any] = dict(stacked=2, inputs=1, exact=True)

# Each path has exactly one row.
PARAMETERS: tuple[Parameter, ...] = (
  Parameter(r'blocks/attention/[qkv]$', P(None, 'fsdp', 'tensor', None), **_PRODUCT),
  Parameter(
    r'blocks/attention/o$', P(None, 'tensor', None, 'fsdp'), stacked=1, inputs=2, low_rank=True
  ),
  Parameter(r'blocks/attention/(q|kv)_a$', P(None, 'fsdp', None), **_MATRIX),
  Parameter(r'blocks/attention/(q|kv)_b$', P(None, 'fsdp', 'tensor', None), **_MATRIX),
  Parameter(r'blocks/attention/[qkv]_bias$', P(None, 'tensor', None), stacked=1),
  Parameter(r'blocks/attention/o_bias$', P(), stacked=1),
  Parameter(r'blocks/attention/sink$', P(None, 'tensor'), stacked=1, exact=True),
  Parameter(r'blocks/(mlp|experts/shared)/(gate|up)$', P(None, 'fsdp', 'tensor'), **_PRODUCT),
  Parameter(r'blocks/(mlp|experts/shared)/down$', P(None, 'tensor', 'fsdp'), **_PRODUCT),
  Parameter(r'blocks/mlp/(gate|up)_bias$', P(None, 'tensor'), stacked=1),
  Parameter(r'blocks/mlp/down_bias$', P(), stacked=1),
  Parameter(r'blocks/experts/router$', P(None, 'fsdp', None), **_MATRIX, exact=True),
  Parameter(r'blocks/experts/router_(bias|offset)$', P(), stacked=1, exact=True),
  Parameter(r'blocks/experts/(gate|up)$', P(None, 'expert', 'fsdp', 'tensor'), **_EXPERT),
  Parameter(r'blocks/experts/down$', P(None, 'expert', 'tensor', 'fsdp'), **_EXPERT),
  Parameter(r'blocks/experts/(gate|up)_bias$', P(None, 'expert', 'tensor'), stacked=2),
  Parameter(r'blocks/experts/down_bias$', P(None, 'expert', 'fsdp'), stacked=2),
  Parameter(r'blocks/experts/shared_gate$', P(None, 'fsdp', None), **_MATRIX),
  Parameter(r'blocks/.*norm/(scale|bias)$', P(), stacked=1, exact=True),
  Parameter(r'final_norm/(scale|bias)$', P(), exact=True),
  Parameter(r'embedding/table$', P('tensor', 'fsdp')),
  Parameter(r'embedding/position$', P(None, 'fsdp')),
  Parameter(r'head/kernel$', P('fsdp', 'tensor'), inputs=1, low_rank=True),
  Parameter(r'head/(scalar|bias)$', P(), exact=True),
  Parameter(r'head/classes$', P('fsdp', None), inputs=1, exact=True),
  # Codes, scales and zero points of weights in few bits are cut as these, whose heads are one axis.
  Parameter(
    rf'blocks/(attention/([qkv]|(q|kv)_b)|(mlp|experts/shared)/(gate|up)){_BITS}',
    P(None, 'fsdp', 'tensor'),
    **_STORED,
  ),
  Parameter(
    rf'blocks/(attention/o|(mlp|experts/shared)/down){_BITS}', P(None, 'tensor', 'fsdp'), **_STORED
  ),
  Parameter(rf'blocks/attention/(q|kv)_a{_BITS}', P(None, 'fsdp', None), **_STORED),
  Parameter(
    rf'blocks/experts/(gate|up){_BITS}', P(None, 'expert', 'fsdp', 'tensor'), **_STORED_EXPERT
  ),
  Parameter(rf'blocks/experts/down{_BITS}', P(None, 'expert', 'tensor', 'fsdp'), **_STORED_EXPERT),
  Parameter(rf'embedding/table{_BITS}', P('tensor', 'fsdp'), exact=True),
  Parameter(rf'head/kernel{_BITS}', P('fsdp', 'tensor'), inputs=1, exact=True),
  # The factors of a LowRank are cut as the axis they share with the weight they add to.
  Parameter(
    r'blocks/(attention/[qkv]|.*(mlp|shared)/(gate|up))/a$', P(None, 'fsdp', None), **_MATRIX
  ),
  Parameter(r'blocks/attention/o/a$', P(None, 'tensor'), stacked=1, inputs=2),
  Parameter(r'blocks/(mlp|experts/shared)/down/a$', P(None, 'tensor'), **_MATRIX),
  Parameter(r'blocks/attention/[qkv]/b$', P(None, None, 'tensor', None), **_MATRIX),
  Parameter(r'blocks/(mlp|experts/shared)/(gate|up)/b$', P(None, None, 'tensor'), **_MATRIX),
  Parameter(r'blocks/(attention/o|(mlp|experts/shared)/down)/b$', P(None, None, 'fsdp'), **_MATRIX),
  Parameter(r'head/kernel/a$', P('fsdp', None), inputs=1),
  Parameter(r'head/kernel/b$', P(None, 'tensor'), inputs=1),
)


def path_of(key_path: tuple[Any, ...]) -> str:
  """A JAX key path as text: 'blocks/attention/q'."""
  return '/'.join(
    str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in key_path
  )


@functools.cache
def facts_of(path: str, table: Sequence[Parameter] = PARAMETERS) -> Parameter:
  """The row of a parameter path.

  >>> facts_of('policy/blocks/attention/o').inputs
  2

  Raises:
    BadInput: no row matches; a parameter that nobody placed would be copied to every device.
  """
  for row in table:
    if re.search(row.pattern, path):
      return row
  raise BadInput(
    f'parameters: no row for {path!r}; add one to PARAMETERS in parallel/parameters.py'
  )


def shardings(tree: Any, mesh: Mesh, table: Sequence[Parameter] = PARAMETERS) -> Any:
  """NamedShardings for a tree of arrays or shapes, by parameter path.

  A mesh axis that does not divide an array axis is left out for that array: three key heads on a
  tensor axis of two are kept whole rather than refused.
  """

  def place(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    axes = [
      axis if axis is None or leaf.shape[i] % _size(mesh, axis) == 0 else None
      for i, axis in enumerate(facts_of(path_of(key_path), table).axes)
    ]
    return NamedSharding(mesh, P(*axes))

  return jax.tree_util.tree_map_with_path(place, tree)


def _size(mesh: Mesh, axis: str | tuple[str, ...]) -> int:
  names = (axis,) if isinstance(axis, str) else axis
  return math.prod(mesh.shape[name] for name in names)


def state_shardings(state: Any, params: Mapping[str, Any], mesh: Mesh) -> Any:
  """Shardings of a whole train state: what has a parameter's path and shape lives where it lives.

  Optimizer moments and averages mirror the parameters under some prefix of their path; whatever
  mirrors none of them (counters, factored statistics) is small and kept whole on every device.

  Args:
    state: tree of arrays or shapes that contains parameters and optimizer state.
    params: the parameters (arrays or shapes) that the optimizer state mirrors.
    mesh: the device mesh.
  """
  placed = shardings(params, mesh)
  known = {
    path_of(key_path): (leaf.shape, sharding)
    for (key_path, leaf), sharding in zip(
      jax.tree_util.tree_flatten_with_path(params)[0], jax.tree.leaves(placed), strict=True
    )
  }

  def place(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    names = path_of(key_path).split('/')
    for start in range(len(names)):
      shape, sharding = known.get('/'.join(names[start:]), (None, None))
      if shape == leaf.shape:
        return sharding
    return NamedSharding(mesh, P())

  return jax.tree_util.tree_map_with_path(place, state)


def abstract_params(model: Any) -> Params:
  """Shapes and dtypes of a model's parameters; a model that can be hashed is traced only once."""
  return _traced(model) if isinstance(model, Hashable) else _traced.__wrapped__(model)


@functools.lru_cache(maxsize=32)
def _traced(model: Any) -> Params:
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))  # makes none, which would compile
  return jax.eval_shape(model.init, key, tokens)

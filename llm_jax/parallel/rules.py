"""Where each parameter lives: one table from parameter path to PartitionSpec."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax.types import BadInput

# The first pattern found in the path wins. `blocks` are stacked: their first axis is the layer.
# fsdp cuts the axis that a product contracts or writes from the residual stream, tensor cuts heads
# and hidden units, so that a block needs one all-reduce over `tensor` after each half.
RULES: tuple[tuple[str, P], ...] = (
  (r'blocks/attention/[qkv]$', P(None, 'fsdp', 'tensor', None)),
  (r'blocks/attention/o$', P(None, 'tensor', None, 'fsdp')),
  (r'blocks/attention/[qkv]_bias$', P(None, 'tensor', None)),
  (r'blocks/attention/o_bias$', P()),
  (r'blocks/mlp/(gate|up)$', P(None, 'fsdp', 'tensor')),
  (r'blocks/mlp/down$', P(None, 'tensor', 'fsdp')),
  (r'blocks/experts/router$', P(None, 'fsdp', None)),
  (r'blocks/experts/router_bias$', P()),
  (r'blocks/experts/(gate|up)$', P(None, 'expert', 'fsdp', 'tensor')),
  (r'blocks/experts/down$', P(None, 'expert', 'tensor', 'fsdp')),
  (r'blocks/mlp/up_bias$', P(None, 'tensor')),
  (r'blocks/mlp/down_bias$', P()),
  (r'norm/(scale|bias)$', P()),
  (r'embedding/table$', P('tensor', 'fsdp')),
  (r'embedding/position$', P(None, 'fsdp')),
  (r'head/kernel$', P('fsdp', 'tensor')),
  (r'head/(scalar|bias)$', P()),
  # The factors of a LowRank are cut as the axis they share with the weight they add to.
  (r'blocks/(attention/[qkv]|mlp/(gate|up))/a$', P(None, 'fsdp', None)),
  (r'blocks/attention/[qkv]/b$', P(None, None, 'tensor', None)),
  (r'blocks/mlp/(gate|up)/b$', P(None, None, 'tensor')),
  (r'blocks/(attention/o|mlp/down)/a$', P(None, 'tensor')),
  (r'blocks/(attention/o|mlp/down)/b$', P(None, None, 'fsdp')),
  (r'head/kernel/a$', P('fsdp', None)),
  (r'head/kernel/b$', P(None, 'tensor')),
)

# Parameters that a model reads in float32, whatever the type of its products.
EXACT = re.compile(r'norm/|router|head/(scalar|bias)$')


def path_of(key_path: tuple[Any, ...]) -> str:
  """A JAX key path as text: 'blocks/attention/q'."""
  return '/'.join(
    str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in key_path
  )


def spec_of(path: str, rules: tuple[tuple[str, P], ...] = RULES) -> P:
  """The PartitionSpec of a parameter path.

  Raises:
    BadInput: no rule matches; a parameter that nobody placed would be copied to every device.
  """
  for pattern, spec in rules:
    if re.search(pattern, path):
      return spec
  raise BadInput(f'sharding: no rule for parameter {path!r}; add one to RULES in parallel/rules.py')


def shardings(tree: Any, mesh: Mesh, rules: tuple[tuple[str, P], ...] = RULES) -> Any:
  """NamedShardings for a tree of arrays or shapes, by parameter path.

  A mesh axis that does not divide an array axis is left out for that array: three key heads on a
  tensor axis of two are kept whole rather than refused.
  """

  def place(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    spec = spec_of(path_of(key_path), rules)
    axes = [
      axis if axis is None or leaf.shape[i] % _size(mesh, axis) == 0 else None
      for i, axis in enumerate(spec)
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

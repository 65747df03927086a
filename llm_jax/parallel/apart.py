"""Each device on its own: with its own tokens, and parameters that it makes whole for itself."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from llm_jax.parallel.mesh import BATCH_AXES, divides, platform
from llm_jax.parallel.parameters import Parameter, facts_of, path_of
from llm_jax.types import Array

TOKENS = (*BATCH_AXES, 'sequence')  # the mesh axes that cut tokens


def apart(
  run: Callable[..., Any],
  params: Any,
  *tokens: Array,
  under: str = '',
  ahead: Any = None,
) -> Any:
  """`run(params, *tokens)` on each device alone, with its own tokens.

  Where parameters are made whole is written down so, and the compiler does not choose it: once,
  outside of a loop, or once a layer. Their gradients are added up on a device first, and over
  devices where the parameters were made whole, of which each keeps its part.

  Without a mesh that cuts tokens, or if tokens or parameters cannot be cut evenly, this is a plain
  call.

  Args:
    run: arrays [B, L, *] of arrays [B, L, *]; what it makes of a row depends on no other row, and
      where a mesh cuts the length, on no other token.
    params: what `run` reads, in parts that it makes `whole`; or with `ahead`, whole.
    tokens: arrays [B, L, *].
    under: what comes before the paths of `params` in PARAMETERS.
    ahead: the type in which parameters are exchanged before `run` is called, if that is to be. It
      gets them in their own type, in which their gradients are added up.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.manual_axes or all(mesh.shape[axis] == 1 for axis in TOKENS):
    return run(params, *tokens)
  rows, length = tokens[0].shape[:2]
  even = divides(mesh, BATCH_AXES, rows) and divides(mesh, 'sequence', length)
  for key_path, x in jax.tree_util.tree_leaves_with_path(params):
    row = _row(key_path, under)
    even = even and all(divides(mesh, axis, x.shape[dim]) for dim, axis in _cuts(row, mesh))
  if not even:
    return run(params, *tokens)

  def spec(key_path: Any, x: Any) -> P:
    axes = dict(_cuts(_row(key_path, under), mesh))
    return P(*(axes.get(dim) for dim in range(x.ndim)))

  def local(params: Any, *tokens: Array) -> Any:
    if ahead is not None:
      kept, params = params, whole(params, ahead, under)
      params = jax.tree.map(lambda x, part: x.astype(part.dtype), params, kept)
    return run(params, *tokens)

  place = P(BATCH_AXES, 'sequence')
  spread = jax.shard_map(
    local,
    in_specs=(jax.tree_util.tree_map_with_path(spec, params), *[place] * len(tokens)),
    out_specs=place,
    axis_names=set(mesh.axis_names if mesh.shape['tensor'] == 1 else TOKENS),
    check_vma=False,
  )
  return spread(params, *tokens)


def on_one_device() -> bool:
  """Whether this is traced for a device alone, inside of `apart`."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and bool(mesh.manual_axes)


def whole(params: Any, dtype: Any, under: str = '', layer: bool = False) -> Any:
  """Parameters of which a device has parts, for what is traced inside of `apart`.

  Args:
    params: parts.
    dtype: in which they are exchanged and given, if they are not read exactly.
    under: what comes before their paths in PARAMETERS.
    layer: whether they are those of one layer, without the first axis.
  """
  mesh = jax.sharding.get_abstract_mesh()

  def one(key_path: Any, x: Any) -> Any:
    row = _row(key_path, under)
    for dim, axis in _cuts(row, mesh):
      x = _gather(axis, dim - layer, x if row.exact else x.astype(dtype))
    return x

  return jax.tree_util.tree_map_with_path(one, params)


def _row(key_path: Any, under: str) -> Parameter:
  return facts_of(under + re.sub('/weight$', '', path_of(key_path)))  # of a LowRank


def _cuts(row: Parameter, mesh: Any) -> list[tuple[int, str]]:
  """The axes of an array that are cut as tokens are, and the mesh axes that cut them."""
  return [(i, axis) for i, axis in enumerate(row.axes) if axis in TOKENS and mesh.shape[axis] > 1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(axis: str, dim: int, part: Array) -> Array:
  """The parts of all devices along a mesh axis, joined; the gradient is their sum, cut again."""
  return jax.lax.all_gather(part, axis, axis=dim, tiled=True)


def _gather_saving(axis: str, dim: int, part: Array) -> tuple[Array, None]:
  return _gather(axis, dim, part), None


def _gather_backward(axis: str, dim: int, saved: None, grad: Array) -> tuple[Array]:
  del saved
  scatter: Any = functools.partial(
    jax.lax.psum_scatter, axis_name=axis, scatter_dimension=dim, tiled=True
  )
  size = jax.lax.axis_size(axis)
  across = 2 ** (int(math.log2(size)) // 2)
  if platform() != 'tpu' or across == 1 or size % across:
    return (scatter(grad),)
  # A sum over all chips the compiler for TPUs makes whole on each of them and cuts then, which
  # moves everything twice. Over columns and rows of chips, one after the other, it does not.
  rows = np.arange(size).reshape(across, -1)
  part = scatter(grad, axis_index_groups=rows.T.tolist())
  return (scatter(part, axis_index_groups=rows.tolist()),)


_gather.defvjp(_gather_saving, _gather_backward)

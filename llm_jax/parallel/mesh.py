"""The device mesh: its axes, and how batches are sharded over it."""

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax.parallel.chips import find_chip
from llm_jax.types import BadInput, Batch

AXES = ('data', 'fsdp', 'tensor', 'sequence', 'expert')
BATCH_AXES = ('data', 'fsdp', 'expert')
HEAD_AXES = ('tensor', 'sequence')  # these shard the heads of attention


def make_mesh(
  *,
  data: int | None = None,
  fsdp: int | None = None,
  tensor: int | None = None,
  sequence: int | None = None,
  expert: int | None = None,
  devices: Sequence[Any] | None = None,
  **others: int,
) -> Mesh:
  """A mesh with the axes of `AXES`; one size may be -1, which stands for the devices that are left.

  An axis that is not named has size 1. If none is named, all devices go to `fsdp`.

  Args:
    data: groups of devices that have the parameters, all of them, and read different rows.
    fsdp: devices that split parameters and optimizer between them, and read different rows.
    tensor: devices that split the products of a layer.
    sequence: devices that split rows along their length.
    expert: devices that split experts, and read different rows.
    devices: of the mesh; by default all that this process sees. For compilation ahead of time they
      may belong to a machine that does not exist.
    others: no axis has another name.

  Raises:
    BadInput: an unknown axis, or sizes that do not fit the devices.
  """
  for name in others:
    raise BadInput(f'mesh: unknown axis {name!r}; choose from: {", ".join(AXES)}')
  given = zip(AXES, (data, fsdp, tensor, sequence, expert), strict=True)
  axes = {name: size for name, size in given if size is not None}
  there = jax.devices() if devices is None else devices
  sizes = [axes.get(name, 1) for name in AXES] if axes else [1, -1, 1, 1, 1]
  if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
    raise BadInput(f'mesh: sizes {dict(axes)} must be positive, at most one of them -1 (the rest)')
  known = math.prod(size for size in sizes if size != -1)
  if -1 in sizes and known <= len(there):
    if len(there) % known:
      raise BadInput(
        f'mesh: {len(there)} devices cannot be divided by {known}, the product of {dict(axes)}'
      )
    sizes[sizes.index(-1)] = len(there) // known
  wanted = known if -1 in sizes else math.prod(sizes)
  if wanted > len(there):
    raise BadInput(
      f'mesh: {dict(axes)} needs {wanted} devices, there are {len(there)} '
      f'({there[0].device_kind}); choose sizes whose product fits'
    )
  if wanted < len(there) and jax.process_count() > 1 and devices is None:
    raise BadInput(f'mesh: {dict(axes)} uses {wanted} of {len(there)} devices; use all of them')
  placed = _place(sizes, there[:wanted])
  return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _place(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
  """Arranges devices as an array of `sizes`, so that its last axes join devices that are near.

  TPU slices, which only the network of the data centre connects, are joined along `data`, and along
  `fsdp` too where that is too small.
  """
  # On GPUs a "slice" may be a host; JAX itself orders those.
  number = lambda device: getattr(device, 'slice_index', 0) if device.platform == 'tpu' else 0
  slices = left = len({number(device) for device in devices})
  split: Any = dict(allow_split_physical_axes=True)
  if slices == 1:
    return mesh_utils.create_device_mesh(sizes, devices, **split)
  between = [1] * len(AXES)
  for axis in map(AXES.index, ('data', 'fsdp')):
    between[axis] = math.gcd(sizes[axis], left)
    left //= between[axis]
  if left > 1:
    raise BadInput(
      f'mesh: {slices} slices are joined along data and fsdp, but data * fsdp = '
      f'{sizes[0] * sizes[1]} is not a multiple of {slices}'
    )
  within = [size // number for size, number in zip(sizes, between, strict=True)]
  return mesh_utils.create_hybrid_device_mesh(within, between, devices, **split)


def batch_shards(mesh: Mesh) -> int:
  """How many shards the batch axis has."""
  return math.prod(mesh.shape[name] for name in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows are sharded over `BATCH_AXES`; the other axes of a batch are whole on each device."""
  return NamedSharding(mesh, P(BATCH_AXES))


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> Batch:
  """The rows this host read, as global arrays whose axis 0 is sharded over `BATCH_AXES`."""
  sharding = batch_sharding(mesh)
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def local_rows(x: jax.Array) -> np.ndarray:
  """The rows of an array that this host read, in order; the inverse of `shard_batch`.

  Waits for the device.
  """
  if jax.process_count() == 1:
    return np.asarray(x)
  # Mesh axes that do not shard the rows hold copies of the same shard.
  shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
  rows = np.concatenate([np.asarray(shards[first]) for first in sorted(shards)])
  if not getattr(x, 'is_fully_replicated', False):
    return rows
  # A program has left all rows on every host; this one takes the part that it read.
  hosts, host = jax.process_count(), jax.process_index()
  return rows[host * len(rows) // hosts : (host + 1) * len(rows) // hosts]


def reshard(batch: Batch, mesh: Mesh) -> Batch:
  """The batch as `shard_batch` shards it, wherever the programs that wrote its arrays left them."""
  place = batch_sharding(mesh)
  there = lambda x: isinstance(x, jax.Array) and x.sharding.is_equivalent_to(place, x.ndim)
  if all(map(there, batch.values())):
    return batch
  return _resharder(mesh)(batch)


@functools.lru_cache
def _resharder(mesh: Mesh) -> Callable[[Batch], Batch]:
  return jax.jit(lambda batch: batch, out_shardings=batch_sharding(mesh))


def constrain(x: jax.Array, *axes: Any) -> jax.Array:
  """Constrains the sharding of an activation on the mesh in use; without a mesh it does nothing.

  Args:
    x: any array of a traced computation.
    axes: one mesh axis (or tuple, or None) for each of the first dimensions; 'batch' stands for
      BATCH_AXES. An axis that does not divide its dimension is left out.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or mesh.manual_axes:
    return x
  names = [BATCH_AXES if axis == 'batch' else axis for axis in axes]
  both = zip(names, x.shape, strict=False)  # dimensions that are not named are not sharded
  spec = [axis if divides(mesh, axis, size) else None for axis, size in both]
  return jax.lax.with_sharding_constraint(x, P(*spec))


def divides(mesh: Any, axis: str | Sequence[str] | None, size: int) -> bool:
  """Whether a mesh axis, or several together, can shard a dimension of `size` evenly."""
  names = (axis,) if isinstance(axis, str) else axis or ()
  return size % math.prod(mesh.shape[name] for name in names) == 0


def platform() -> str:
  """'cpu', 'gpu' or 'tpu', for the mesh in use (its devices may be elsewhere) or this machine."""
  device = getattr(jax.sharding.get_abstract_mesh(), 'abstract_device', None)
  name = device.platform if device is not None else jax.default_backend()
  return 'gpu' if name in ('cuda', 'rocm') else name


def device_memory(mesh: Mesh) -> int | None:
  """Bytes that the devices of a mesh have together, or None if they do not say."""
  devices = mesh.devices.flat
  if devices[0].platform == 'cpu':  # all those of one process share its memory
    hosts = len({device.process_index for device in devices})
    return hosts * os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  stats = jax.local_devices()[0].memory_stats() or {}
  return mesh.size * stats['bytes_limit'] if 'bytes_limit' in stats else None


def peak_flops() -> float | None:
  """Peak bfloat16 FLOP/s of all devices together, or None if the table does not know them."""
  chip = find_chip(jax.devices()[0].device_kind)
  return chip.flops * jax.device_count() if chip else None

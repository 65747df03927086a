"""Meshes that can be are made, others are refused in one line; rows are cut over data and fsdp."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from llm_jax.parallel import mesh as meshes
from llm_jax.parallel.mesh import AXES, batch_sharding, batch_shards, constrain, make_mesh
from llm_jax.types import BadInput


@pytest.mark.parametrize(
  'axes, sizes',
  [
    ({}, (1, 8, 1, 1, 1)),
    (dict(data=1), (1, 1, 1, 1, 1)),
    (dict(data=2, fsdp=2, tensor=2), (2, 2, 2, 1, 1)),
    (dict(data=1, fsdp=-1, tensor=1), (1, 8, 1, 1, 1)),
    (dict(fsdp=-1, tensor=2), (1, 4, 2, 1, 1)),
    (dict(sequence=2, data=-1), (4, 1, 1, 2, 1)),
    (dict(tensor=3), (1, 1, 3, 1, 1)),
    (dict(fsdp=-1, tensor=8), (1, 1, 8, 1, 1)),
  ],
)
def test_sizes(axes, sizes):
  mesh = make_mesh(**axes)
  assert mesh.axis_names == AXES
  assert tuple(mesh.shape.values()) == sizes
  assert len({device.id for device in mesh.devices.flat}) == mesh.size


@pytest.mark.parametrize(
  'axes, message',
  [
    (dict(model=2), "mesh: unknown axis 'model'; choose from: data, fsdp, tensor, sequence"),
    (dict(data=-1, fsdp=-1), 'at most one of them -1'),
    (dict(data=0), 'must be positive'),
    (dict(data=-2), 'must be positive'),
    (dict(data=16), "'data': 16} needs 16 devices, there are 8"),
    (dict(data=3, fsdp=3), 'needs 9 devices'),
    (dict(fsdp=-1, tensor=3), '8 devices cannot be divided by 3'),
    (dict(fsdp=-1, tensor=16), 'needs 16 devices, there are 8'),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(axes, message):
  with pytest.raises(BadInput) as error:
    make_mesh(**axes)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_job_of_many_hosts_uses_all_devices(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(BadInput, match='uses 4 of 8 devices; use all of them'):
    make_mesh(fsdp=4)


def test_rows_are_cut_over_data_and_fsdp():
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  assert batch_shards(mesh) == 4
  assert batch_sharding(mesh).spec == P(('data', 'fsdp', 'expert'))
  whole = {'tokens': np.arange(24).reshape(8, 3), 'label': np.arange(8)}
  batch = meshes.shard_batch(whole, mesh)
  for name, value in whole.items():
    np.testing.assert_array_equal(batch[name], value)
    assert batch[name].sharding.is_equivalent_to(batch_sharding(mesh), value.ndim)
    for shard in batch[name].addressable_shards:
      assert shard.data.shape == (2, *value.shape[1:])  # all columns of two rows
      np.testing.assert_array_equal(shard.data, value[shard.index])


@pytest.mark.parametrize('axes', [dict(data=1), dict(fsdp=8), dict(data=2, fsdp=2, tensor=2)])
def test_rows_come_back_in_the_order_in_which_they_were_given(monkeypatch, axes):
  mesh = make_mesh(**axes)
  whole = {'tokens': np.arange(48).reshape(16, 3), 'label': np.arange(16)}
  batch = meshes.shard_batch(whole, mesh)
  # A host of several reads its own devices, which are all of them here.
  for hosts in (1, 2) if mesh.size > 1 else (1,):
    monkeypatch.setattr(jax, 'process_count', lambda hosts=hosts: hosts)
    for name, value in whole.items():
      found = meshes.local_rows(batch[name])
      assert isinstance(found, np.ndarray) and found.dtype == batch[name].dtype
      np.testing.assert_array_equal(found, value)


def test_a_host_has_the_rows_of_its_own_devices_alone(monkeypatch):
  mesh = make_mesh(data=4, tensor=2)
  batch = meshes.shard_batch({'tokens': np.arange(24).reshape(8, 3)}, mesh)['tokens']
  mine = set(mesh.devices.reshape(4, 2)[2:].flat)
  # Of two hosts the one with the later half of the devices, in any order.
  pieces = [piece for piece in reversed(batch.addressable_shards) if piece.device in mine]
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  found = meshes.local_rows(SimpleNamespace(addressable_shards=pieces))
  np.testing.assert_array_equal(found, np.arange(24).reshape(8, 3)[4:])


def test_of_rows_that_every_host_has_each_takes_its_part(monkeypatch):
  rows = np.arange(24).reshape(8, 3)
  whole = jax.device_put(rows, NamedSharding(make_mesh(fsdp=8), P()))
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  np.testing.assert_array_equal(meshes.local_rows(whole), rows[4:])


def test_a_batch_is_spread_wherever_it_was_left():
  mesh = make_mesh(fsdp=8)
  cut = meshes.shard_batch({'tokens': np.arange(16)}, mesh)
  assert meshes.reshard(cut, mesh) is cut
  left = cut | {'log': jax.device_put(np.arange(8.0), NamedSharding(mesh, P()))}
  out = meshes.reshard(left, mesh)
  assert {x.sharding.spec for x in out.values()} == {batch_sharding(mesh).spec}
  np.testing.assert_array_equal(out['log'], np.arange(8.0))


def test_the_platform_is_that_of_the_mesh(monkeypatch):
  assert meshes.platform() == 'cpu'
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert meshes.platform() == 'tpu'
  with jax.set_mesh(make_mesh(data=1)):
    assert meshes.platform() == 'cpu'


def test_constrain_without_a_mesh_does_nothing():
  x = jnp.ones((8, 2))
  assert constrain(x, 'batch', None) is x
  with jax.set_mesh(make_mesh(data=1)):
    assert constrain(x, 'batch', None) is x
  assert 'sharding_constraint' not in str(jax.make_jaxpr(lambda x: constrain(x, 'batch'))(x))


def test_constrain_pins_to_the_mesh_in_use():
  with jax.set_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
    y = jax.jit(lambda x: constrain(x * 1, 'batch', 'tensor'))(jnp.ones((8, 2)))
  assert y.sharding.spec == P(('data', 'fsdp'), 'tensor')
  np.testing.assert_array_equal(y, 1)


class Device:
  def __init__(self, kind):
    self.device_kind = kind


@pytest.mark.parametrize(
  'kind, peak',
  [
    ('NVIDIA H200', 989e12),
    ('NVIDIA H100 80GB HBM3', 989e12),
    ('NVIDIA H100 PCIe', 756e12),
    ('NVIDIA GH200 480GB', 989e12),
    ('NVIDIA A100-SXM4-80GB', 312e12),
    ('NVIDIA A10', 125e12),
    ('NVIDIA L4', 121e12),
    ('NVIDIA L40S', 362e12),
    ('Tesla T4', 65e12),
    ('NVIDIA GeForce RTX 3090', 71e12),
    ('NVIDIA GeForce RTX 4090', 165e12),
    ('NVIDIA GeForce RTX 5090', 209e12),
    ('NVIDIA B200', 2250e12),
    ('TPU7x', 1153.5e12),
    ('TPU v4', 275e12),
    ('TPU v5 lite', 197e12),
    ('TPU v5p', 459e12),
    ('TPU v6 lite', 918e12),
    ('cpu', None),
    # Not in the table, though a name that is there is part of theirs.
    ('NVIDIA L40', None),
    ('NVIDIA GeForce RTX 3090 Ti', None),
    ('NVIDIA GeForce RTX 4090 Laptop GPU', None),
    ('NVIDIA RTX A1000', None),
    ('NVIDIA T400 4GB', None),
  ],
)
def test_peak_of_a_device(monkeypatch, kind, peak):
  monkeypatch.setattr(jax, 'devices', lambda: [Device(kind)] * 3)
  monkeypatch.setattr(jax, 'device_count', lambda: 3)
  assert meshes.peak_flops() == (peak and 3 * peak)

"""A plan says whether a run fits, what it takes and what stands in its way."""

import importlib.util
import json

import pytest

from configs import plan as configs
from llm_jax.jobs import plan
from llm_jax.main import run
from llm_jax.parallel.mesh import make_mesh
from llm_jax.types import BadInput

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is for Linux on x86-64 only'
)


def config_of(tmp_path, size='1b', **changes):
  c = configs.get_config(size)
  c.output = str(tmp_path / 'plan.json')
  c.update(changes)
  return c


def narrow(tmp_path, hardware, layers=1, **mesh):
  """Narrow layers on 8 rows of 256 tokens: quick to compile; with a mesh, on that."""
  c = config_of(tmp_path, '125m', hardware=hardware, search=not mesh)
  c.train.model.update(num_layers=layers, vocab_size=4096, dim=512, hidden_dim=512)
  c.train.model.update(num_heads=4, num_kv_heads=4)
  c.train.mesh.update(mesh)
  c.train.batch_size, c.train.accumulate, c.length = 8, 1, 256
  return c


def planned(c, captured):
  run(c)
  told, errors = captured.readouterr()
  assert errors == ''
  with open(c.output) as file:
    return json.load(file), told


def test_gpus_are_estimated(tmp_path, capsys):
  c = config_of(tmp_path, hardware='h100:64', price=2.5, tokens=1e11)
  report, told = planned(c, capsys)
  assert report['fits'] and 'verdict    fits h100:64' in told
  assert report['cost'] == pytest.approx(2.5 * report['device_hours'])
  assert report['flops'] == pytest.approx(6 * report['parameters'] * 1e11, rel=0.3)
  assert 0.3 < report['mfu'] <= 0.5
  assert report['days'] * report['tokens_per_day'] == pytest.approx(1e11)


def test_what_does_not_fit_is_said(tmp_path, capsys):
  report, told = planned(config_of(tmp_path, '405b', hardware='h100:16'), capsys)
  assert not report['fits'] and 'does not fit h100:16' in told
  assert report['memory_total'] > report['memory_of_chip']


def test_a_layout_can_be_given(tmp_path, capsys):
  c = config_of(tmp_path, hardware='h100:8', search=False)
  c.train.mesh.tensor, c.train.accumulate, c.train.compute.remat = 2, 8, 'full'
  report, _ = planned(c, capsys)
  assert report['layout'] == {
    'mesh': {'fsdp': 4, 'tensor': 2}, 'remat': 'full', 'accumulate': 8,
  }  # fmt: skip


def test_a_given_layout_has_to_cut_the_rows(tmp_path):
  c = config_of(tmp_path, hardware='h100:8', search=False)
  c.train.batch_size, c.train.accumulate = 12, 2
  with pytest.raises(BadInput, match='12 rows cannot be cut into 16'):
    run(c)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(hardware='v9:4x4'), r"no hardware 'v9'; .*, as in v5e:4x4 or h100:512"),
    (dict(hardware='h100'), "hardware 'h100' has no size"),
    (dict(hardware='v5e:4x4*'), "hardware 'v5e:4x4.' has no size"),
    (dict(hardware='h100:8*2'), 'only TPUs come in slices; write h100:16'),
    (dict(hardware='h100:64', length=10**6), 'rows of 1000000 tokens, and config.train.model.max'),
    (dict(hardware='h100:13'), '13 devices cannot share 512 rows .* multiple of 13 rows'),
    (dict(hardware='h100:0'), "hardware 'h100:0' has no size"),
    (dict(hardware='v5e:0x4'), "hardware 'v5e:0x4' has no size"),
    (dict(hardware='v5e:4x4*0'), "hardware 'v5e:4x4.0' has no size"),
    (dict(hardware='TPU v5 lite:4x4'), "no hardware 'TPU v5 lite'"),
  ],
)
def test_bad_input(tmp_path, changes, message):
  with pytest.raises(BadInput, match=message):
    run(config_of(tmp_path, **changes))


@pytest.mark.parametrize(
  ('mesh', 'message'),
  [
    (dict(data=0), 'mesh.data 0; give a size from 1, or -1'),
    (dict(data=-2, fsdp=-4), 'mesh.data -2; give a size from 1, or -1'),
    (dict(data=2.0), 'mesh.data 2.0; give a size from 1, or -1'),
    (dict(foo=2), "mesh has no axis 'foo'"),
    (dict(data=-1, fsdp=-1), 'two axes of config.train.mesh are -1'),
    (dict(tensor=8), '4 heads cannot be shared by 8 devices'),
    (dict(data=3), 'is not of 8 devices'),
  ],
)
def test_a_layout_that_cannot_be_is_refused_before_anything_is_compiled(tmp_path, mesh, message):
  c = narrow(tmp_path, 'v5e:2x4', data=1, fsdp=1)
  with c.unlocked(), c.ignore_type():
    for axis, size in mesh.items():
      c.train.mesh[axis] = size
  with pytest.raises(BadInput, match=message):
    plan.check(c)


@pytest.mark.parametrize('spelled', ['tpu7x', 'TPU7x', 'Tpu7X'])
def test_a_chip_of_two_cores_is_one_however_it_is_spelled(spelled):
  kind, _, devices, slices = plan._hardware(f'{spelled}:2x2x1')
  assert (kind, devices, slices) == ('tpu7x', 8, 1)


def test_without_libtpu_a_slice_is_estimated_only(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(plan, '_has_libtpu', lambda: False)
  with pytest.raises(BadInput, match=r"pip install 'llm_jax\[libtpu\]'"):
    run(config_of(tmp_path))
  report, _ = planned(config_of(tmp_path, compile=False), capsys)
  assert report['hardware'] == 'v5e:4x4' and 'compiled' not in report


@needs_libtpu
def test_a_slice_is_compiled_for(tmp_path, capfd, monkeypatch):
  monkeypatch.setenv('LIBTPU_INIT_ARGS', '--xla_tpu_enable_data_parallel_all_reduce_opt=false')
  report, told = planned(narrow(tmp_path, 'v5e:2x2', 2, fsdp=4), capfd)  # libtpu is silent, too
  (compiled,) = report['compiled']
  assert compiled['flags'] == {'xla_tpu_data_parallel_opt_different_sized_ops': 'true'}
  assert 'with LIBTPU_INIT_ARGS --xla_tpu_data_parallel_opt_different_sized_ops=true\n' in told
  assert report['fits'] and compiled['fits']
  # In 16 bits every weight of a layer comes twice, and the table once; a fourth of all is here.
  layers, table = 2 * 7 * 512 * 512, 4096 * 512
  received = {kind: c['bytes_received'] for kind, c in compiled['collectives'].items()}
  assert received['all-gather'] == 2 * (2 * layers + table) * 3 / 4
  # What was once reached may not creep up: 28.6 MB, 11.0 MB, 1.32 million cycles.
  assert sum(received.values()) <= 29e6
  assert compiled['bytes_copied'] <= 11.5e6 and compiled['estimated_cycles'] <= 1.36e6
  assert compiled['kernels'] >= 3  # splash attention, forward and backward
  held = report['memory']['parameters'] + report['memory']['optimizer']
  assert compiled['bytes_of_arguments'] == pytest.approx(held, rel=0.1)
  assert compiled['collectives']
  assert 'compiled   in' in told


@needs_libtpu
def test_the_compiler_has_the_last_word(tmp_path, capsys):
  c = config_of(tmp_path, '125m', hardware='v5e:2x2', search=False)
  c.train.model.update(num_layers=2, vocab_size=4096)
  c.train.compute.remat = 'none'
  c.train.batch_size, c.train.accumulate, c.length = 4096, 1, 2048
  report, told = planned(c, capsys)
  assert not report['fits'] and not report['compiled'][0]['fits']
  assert 'does not fit' in told


@needs_libtpu
def test_a_slice_that_does_not_exist_is_bad_input(tmp_path):
  with pytest.raises(BadInput, match='plan: hardware v5e:3x5'):
    c = config_of(tmp_path, hardware='v5e:3x5')
    c.train.batch_size = 15
    run(c)


@needs_libtpu
def test_slices_are_cut_along_data_and_compiled_for(tmp_path, capsys):
  report, _ = planned(narrow(tmp_path, 'v5e:2x2*2', data=2, fsdp=4), capsys)
  (compiled,) = report['compiled']
  assert compiled['fits'] and report['devices'] == 8
  mesh = make_mesh(devices=plan._topology('v5e:2x2', 2), data=2, fsdp=4)
  assert [{d.slice_index for d in row.flat} for row in mesh.devices] == [{0}, {1}]
  mesh = make_mesh(devices=plan._topology('v5e:2x2', 2), fsdp=8)
  assert [d.slice_index for d in mesh.devices.flat] == [0] * 4 + [1] * 4
  with pytest.raises(
    BadInput, match=r'2 slices are joined along data and fsdp, but data \* fsdp = 1'
  ):
    make_mesh(devices=plan._topology('v5e:2x2', 2), tensor=8)


@needs_libtpu
def test_axes_need_not_be_those_of_the_slice():
  # 8 is no product of axes of 4 x 4 x 4, and is made by splitting one.
  mesh = make_mesh(devices=plan._topology('v5p:4x4x4', 1), fsdp=8, tensor=8)
  assert mesh.shape['fsdp'] == mesh.shape['tensor'] == 8


@needs_libtpu
def test_tensor_parallel_layers_add_up_twice_each_way(tmp_path, capsys):
  # After attention and MLP going forward, before them going back, as in arXiv:1909.08053.
  report, _ = planned(narrow(tmp_path, 'v5e:2x2', 2, tensor=4, fsdp=1), capsys)
  (compiled,) = report['compiled']
  sums = compiled['collectives']['all-reduce']
  once = (2 * 3 / 4) * 8 * 256 * 512 * 2  # of bfloat16 activations, by a ring of four
  assert compiled['collectives'].keys() == {'all-reduce'}
  # Four in each of two layers, and the embedding's lookup and the head's gradient.
  assert sums['bytes_received'] == pytest.approx((4 * 2 + 2) * once, rel=0.02)

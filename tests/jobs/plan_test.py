"""A plan says whether a run fits, what it takes and what stands in its way."""

import importlib.util
import json

import pytest

from configs import plan as configs
from llm_jax.jobs import plan
from llm_jax.main import run
from llm_jax.types import BadInput

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is for Linux on x86-64 only'
)


def config_of(tmp_path, size='1b', **changes):
  c = configs.get_config(size)
  c.output = str(tmp_path / 'plan.json')
  c.update(changes)
  return c


def planned(c, capsys):
  run(c)
  with open(c.output) as file:
    return json.load(file), capsys.readouterr().out


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
  c.train.mesh.tensor, c.train.accumulate, c.train.model.remat = 2, 8, 'full'
  report, _ = planned(c, capsys)
  assert report['layout'] == {
    'mesh': {'fsdp': 4, 'tensor': 2}, 'remat': 'full', 'accumulate': 8,
  }  # fmt: skip


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(hardware='v9:4x4'), r"no hardware 'v9'; .*, as in v5e:4x4 or h100:512"),
    (dict(hardware='h100'), "hardware 'h100' has no size"),
    (dict(hardware='h100:64', length=10**6), 'rows of 1000000 tokens, and config.train.model.max'),
    (dict(hardware='h100:13'), '13 devices cannot share 512 rows'),
  ],
)
def test_bad_input(tmp_path, changes, message):
  with pytest.raises(BadInput, match=message):
    run(config_of(tmp_path, **changes))


def test_without_libtpu_a_slice_is_estimated_only(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(plan, '_has_libtpu', lambda: False)
  with pytest.raises(BadInput, match=r"pip install 'llm_jax\[libtpu\]'"):
    run(config_of(tmp_path))
  report, _ = planned(config_of(tmp_path, compile=False), capsys)
  assert report['hardware'] == 'v5e:4x4' and 'compiled' not in report


@needs_libtpu
def test_a_slice_is_compiled_for(tmp_path, capsys):
  c = config_of(tmp_path, '125m', hardware='v5e:2x2')
  c.train.model.update(num_layers=2, vocab_size=4096)
  c.train.batch_size, c.length = 32, 1024
  report, told = planned(c, capsys)
  (compiled,) = report['compiled']
  assert report['fits'] and compiled['fits']
  assert compiled['kernels'] >= 3  # splash attention, forward and backward
  held = report['memory']['parameters'] + report['memory']['optimizer']
  assert compiled['bytes_of_arguments'] == pytest.approx(held, rel=0.1)
  assert compiled['collectives']
  assert 'compiled   in' in told


@needs_libtpu
def test_the_compiler_has_the_last_word(tmp_path, capsys):
  c = config_of(tmp_path, '125m', hardware='v5e:2x2', search=False)
  c.train.model.update(num_layers=2, vocab_size=4096, remat='none')
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

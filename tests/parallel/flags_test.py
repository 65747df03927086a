"""Flags are those of the device, the user's win, and every one of them is known to XLA."""

import os
import subprocess
import sys

import pytest

from llm_jax.parallel import flags


@pytest.fixture(autouse=True)
def unset(monkeypatch):
  for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS'):
    monkeypatch.setenv(name, '')


@pytest.mark.parametrize(
  ('kind', 'variable'),
  [
    ('cpu', 'XLA_FLAGS'),
    ('NVIDIA H100 80GB HBM3', 'XLA_FLAGS'),
    ('NVIDIA GeForce RTX 4090', 'XLA_FLAGS'),
    ('Tesla T4', 'XLA_FLAGS'),
    ('TPU v6 lite', 'LIBTPU_INIT_ARGS'),
    ('TPU7x', 'LIBTPU_INIT_ARGS'),
  ],
)
def test_a_device_gets_its_own_and_what_the_user_names_stays(monkeypatch, kind, variable):
  ((read_by, found),) = flags.wanted(kind).items()
  assert read_by == variable and found
  for name in found:
    monkeypatch.setenv(variable, f'--other=1 --{name}=mine')
    left = flags.wanted(kind).get(variable, {})
    assert left == {k: v for k, v in found.items() if k != name}
  monkeypatch.setenv(variable, '--other=1')
  said = flags.set_flags(kind)
  words = [f'--{name}={value}' for name, value in found.items()]
  assert os.environ[variable].split() == ['--other=1', *words]
  assert said == f'flags for {kind}: {variable} {" ".join(words)}'
  assert flags.set_flags(kind) is None  # they are there


def test_one_device_exchanges_nothing():
  assert flags.wanted('NVIDIA H100', several=False) == flags.wanted('TPU v5p', several=False) == {}


def test_gpus_are_found_without_starting_jax(monkeypatch, tmp_path):
  for i in range(2):
    (tmp_path / f'0000:0{i}:00.0').mkdir()
    (tmp_path / f'0000:0{i}:00.0' / 'information').write_text(
      'Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 44\n'
    )
  monkeypatch.setattr(flags, 'DRIVER', tmp_path)
  monkeypatch.setattr(flags.importlib.util, 'find_spec', lambda name: object())
  assert flags.accelerators() == []  # JAX_PLATFORMS names the CPU
  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  assert flags.accelerators() == ['NVIDIA H100 80GB HBM3'] * 2


def test_xla_knows_them():
  words = [
    f'--{name}={value}'
    for row in flags.FLAGS
    if row.variable == 'XLA_FLAGS'
    for name, value in row.flags.items()
  ]
  program = 'import jax; print(jax.jit(lambda x: x + 1)(1))'
  environ = os.environ | {'XLA_FLAGS': ' '.join(words)}
  done = subprocess.run([sys.executable, '-c', program], env=environ, capture_output=True)
  assert done.returncode == 0 and done.stdout == b'2\n', done.stderr

"""Every notebook runs from top to bottom, in a process of its own, with few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from llm_jax import artifact
from llm_jax.text.tokenizer import Tokenizer

NAMES = ('train', 'loss', 'rollout', 'chat', 'model')
NOTEBOOKS = Path(__file__).parents[1] / 'notebooks'
SHAPE = dict(
  name='transformer', vocab_size=320, dim=16, num_layers=1, num_heads=2, max_length=512
)  # fmt: skip

# What comes after the first cell, which finds the package: all that is trained is small.
SMALL = """
from configs import base

whole = base.get_config


def small(*args):
  c = whole(*args)
  c.model.update(dim=16, num_layers=1, num_heads=2)
  c.evals.validation.max_rows = 8
  return c


base.get_config = small
"""


def cells(path, kind):
  return [
    ''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind
  ]


def test_there_are_notebooks():
  assert {path.stem for path in NOTEBOOKS.glob('*.ipynb')} == {
    'train',
    'loss',
    'rollout',
    'chat',
    'model',
  }


@pytest.mark.parametrize('path', sorted(NOTEBOOKS.glob('*.ipynb')), ids=lambda path: path.stem)
def test_it_holds_no_output_and_begins_alike(path):
  assert cells(path, 'markdown')[0].startswith('# ')
  assert cells(path, 'code')[0] == cells(NOTEBOOKS / 'train.ipynb', 'code')[0]
  found = [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
  assert not any(c['outputs'] or c['execution_count'] for c in found)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """A folder for what notebooks write, with an untrained chat model in it."""
  runs = tmp_path_factory.mktemp('notebooks')
  tokenizer = Tokenizer.train(['user assistant The answer is $12.'] * 50, vocab_size=320)
  model = artifact.build(SHAPE)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  config = {'model': SHAPE, 'data': {'template': 'llm_jax'}}
  artifact.save(runs / 'untrained', artifact.Artifact(model, params, tokenizer, config))
  return runs


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_it_runs(name, runs, tmp_path):
  script = tmp_path / f'{name}.py'
  first, *others = cells(NOTEBOOKS / f'{name}.ipynb', 'code')
  script.write_text('\n\n'.join([first, SMALL, *others]))
  environ = os.environ | dict(
    STEPS='3',
    RUNS=str(runs),
    ARTIFACT=str(runs / 'untrained'),
    XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=1',
  )
  said = subprocess.run(
    [sys.executable, str(script)], cwd=NOTEBOOKS, env=environ, capture_output=True, text=True,
    timeout=600,
  )  # fmt: skip
  assert said.returncode == 0, said.stdout + said.stderr

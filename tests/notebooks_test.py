"""Every notebook runs from top to bottom in a kernel of its own, and holds what it showed."""

import base64
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import pytest

from llm_jax import artifact, main
from llm_jax.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / 'notebooks'
NAMES = ('train', 'loss', 'rollout', 'compare', 'hugging_face')  # the first leaves what others use
TINY = '--config.{0}model.dim=16 --config.{0}model.num_layers=1 --config.{0}model.num_heads=2'
VOCABULARY = '--config.{0}tokenize.tokenizer.vocab_size=800 --config.{0}model.vocab_size=800'
TEXT = '--config.{0}tokenize.sources.text=text.jsonl --config.{0}tokenize.validation_fraction=0.1'
FEW = '--config.{0}evals.validation.max_rows=8 --config.{0}batch_size=8 --config.{0}accumulate=1'
ALL = f'{TINY} {VOCABULARY} {TEXT} {FEW}'
SPELLING = '--config.data.sources.builtin=builtin:spelling'
SFT = '--config.total_steps=2 --config.batch_size=8 --config.evals.validation.max_rows=8'

# What runs after the cell of parameters, so that all that is trained is small.
SMALL = {
  'train': f"""
PRETRAIN = {['--config.total_steps=2', *ALL.format('').split()]}
SFT = {[*SFT.split(), '--config.sample.max_new=4', SPELLING]}
""",
  'loss': f"""
COMMON += {['--config.total_steps=2', '--config.eval_every=1', *ALL.format('').split()]}
""",
  'compare': f"""
COMMON += {['--config.budget.steps=2', '--config.base.eval_every=1', '--config.tune=unset',
            '--config.seeds=2', *ALL.format('base.').split()]}
""",
  'hugging_face': f"""
SFT = {SFT.split()}
""",
}  # fmt: skip
SMALL['rollout'] = SMALL['train']


def read(name):
  return json.loads((NOTEBOOKS / f'{name}.ipynb').read_text())


def source(cell):
  return ''.join(cell['source'])


def code(name):
  return [cell for cell in read(name)['cells'] if cell['cell_type'] == 'code']


def pictures(cell):
  """The PNG pictures below a cell, as arrays of numbers from 0 to 1."""
  shown = [
    out['data']['image/png'] for out in cell['outputs'] if 'image/png' in out.get('data', {})
  ]
  return [matplotlib.image.imread(io.BytesIO(base64.b64decode(png))) for png in shown]


def check_pictures(cells):
  """Every cell that draws shows one picture, on which something can be seen."""
  for cell in cells:
    drawn = pictures(cell)
    assert len(drawn) == source(cell).count('plt.show()'), source(cell)
    for picture in drawn:
      assert min(picture.shape[:2]) > 100
      assert 0.01 < (picture[..., :3].min(-1) < 0.95).mean() < 0.9  # ink, and ground


def test_these_are_all():
  assert {path.stem for path in NOTEBOOKS.glob('*.ipynb')} == {*NAMES}
  assert all(f'notebooks/{name}.ipynb' in (ROOT / 'README.md').read_text() for name in NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_every_cell_of_code_follows_a_sentence_that_introduces_it(name):
  cells = read(name)['cells']
  for before, cell in zip([None, *cells], cells):
    if cell['cell_type'] == 'code':
      assert before['cell_type'] == 'markdown', source(cell)
      assert source(before).rstrip().endswith(('.', ':', '?')), source(before)


@pytest.mark.parametrize('name', NAMES)
def test_all_begin_alike(name):
  title = source(read(name)['cells'][0])
  assert title.startswith('# ') and '](https://colab.research.google.com/)' in title
  assert source(code(name)[0]) == source(code('train')[0])


@pytest.mark.parametrize('name', NAMES)
def test_what_it_showed_is_stored(name):
  cells = code(name)
  assert [cell['execution_count'] for cell in cells] == [*range(1, 1 + len(cells))]
  outs = [out for cell in cells for out in cell['outputs']]
  assert outs and all(out['output_type'] != 'error' for out in outs)
  text = json.dumps([{**out, 'data': {**out.get('data', {}), 'image/png': ''}} for out in outs])
  assert not re.search(r'"name": "stderr"|/tmp/|/home/|/root/|/Users/|site-packages', text)
  assert any(pictures(cell) for cell in cells)
  check_pictures(cells)


ADDRESS = 'https://example.com/llm_jax'
DRIVERS = {
  'NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56': 'gpu12',
  'NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build': 'gpu',
}


@pytest.mark.parametrize('files, plugin, extra', [
  ((), False, ''),
  (('dev/vfio/vfio',), False, ''),  # a machine that could lend its devices
  (('dev/accel0',), False, ',tpu'),
  (('dev/vfio/0',), False, ',tpu'),
  *(((driver,), False, f',{extra}') for driver, extra in DRIVERS.items()),
  *(((driver,), True, ',gpu12') for driver in DRIVERS),
])  # fmt: skip
def test_the_first_cell_finds_the_extra_of_the_machine(files, plugin, extra, tmp_path, monkeypatch):
  for name in files:
    path = tmp_path / ('proc/driver/nvidia/version' if name in DRIVERS else name)
    path.parent.mkdir(parents=True)
    path.write_text(name)
  ran = installed(monkeypatch, tmp_path, plugin=plugin)
  (command,) = ran
  assert command[:4] == [sys.executable, '-m', 'pip', 'install']
  assert command[-1] == f'llm_jax[notebook{extra}] @ git+{ADDRESS}'


def test_the_first_cell_asks_for_the_address_where_nothing_is(tmp_path, monkeypatch):
  with pytest.raises(SystemExit, match='write the address of its repository into ADDRESS'):
    installed(monkeypatch, tmp_path, address='')


def test_the_first_cell_installs_the_clone_that_it_stands_in(tmp_path, monkeypatch):
  (tmp_path / 'llm_jax').mkdir()
  (tmp_path / 'llm_jax' / 'model.py').touch()
  (tmp_path / 'notebooks').mkdir()
  (command,) = installed(monkeypatch, tmp_path, start=tmp_path / 'notebooks')
  assert command[-2:] == ['-e', f'{tmp_path}[notebook]']
  assert Path.cwd() == tmp_path and sys.path[0] == str(tmp_path)


def test_the_first_cell_installs_nothing_where_llm_jax_is(tmp_path, monkeypatch):
  assert not installed(monkeypatch, tmp_path, missing=())


def installed(
  monkeypatch, root, *, plugin=False, start=None, missing=('llm_jax',), address=ADDRESS
):
  """The commands that the first cell runs on a machine whose /dev and /proc are below `root`."""
  ran = []
  found = lambda name: None if name in missing or (name.startswith('jax_') and not plugin) else True
  monkeypatch.setattr(importlib.util, 'find_spec', found)
  monkeypatch.setattr(subprocess, 'run', lambda command, check: ran.append(command))
  monkeypatch.setattr(sys, 'path', [*sys.path])
  monkeypatch.chdir(start or root)
  first = (
    source(code('train')[0])
    .replace("ADDRESS = ''", f'ADDRESS = {address!r}')
    .replace("'/dev", f"'{root}/dev")
    .replace("'/proc", f"'{root}/proc")
  )
  exec(compile(first, 'first cell', 'exec'), {'__name__': 'notebook'})
  return ran


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Where notebooks run, with a text and a Hugging Face folder in it."""
  folder = tmp_path_factory.mktemp('notebooks')
  paragraphs = (ROOT / 'README.md').read_text().split('\n\n')
  (folder / 'text.jsonl').write_text('\n'.join(json.dumps({'text': one}) for one in paragraphs))
  shape = dict(
    name='transformer', vocab_size=320, dim=16, num_layers=1, num_heads=2, max_length=256
  )  # fmt: skip
  tokenizer = Tokenizer.train(['Lily has a red ball. What color is the ball?'] * 50, vocab_size=320)
  model = artifact.build(shape)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  made = artifact.Artifact(model, params, tokenizer, {'model': shape, 'data': {'template': None}})
  artifact.save(folder / 'untrained', made)
  words = [f'--config.artifact={folder}/untrained', f'--config.workdir={folder}/theirs']
  main.run(main.read_config(['notebook', '--config=convert', *words]))
  return folder


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_it_runs_and_its_pictures_appear(name, folder):
  found = importlib.util.spec_from_file_location('store', NOTEBOOKS / 'store.py')
  store = importlib.util.module_from_spec(found)
  found.loader.exec_module(store)
  environ = os.environ | dict(
    MODEL=str(folder / 'theirs'),
    PYTHONPATH=str(ROOT),
    XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=1',
  )
  run = store.run(NOTEBOOKS / f'{name}.ipynb', folder, environ, SMALL[name])
  check_pictures([cell for cell in run.cells if cell.cell_type == 'code'])

"""The wheel, installed beside nothing of the clone, knows the configs and runs from anywhere."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


# Refuses to import whatever a plain `pip install` of the package would not have brought.
LEAN = """
import importlib, importlib.metadata as metadata, pkgutil, re, sys
sys.path.insert(0, {root!r})
extras = re.compile(r'extra *==')
brought, todo = set(), {core!r}
key = lambda name: re.sub(r'[-_.]+', '-', name).lower()
while todo:
  name = key(re.match(r'[\\w.-]+', todo.pop())[0])
  if name in brought:
    continue
  brought.add(name)
  try:
    asked = metadata.requires(name) or []
  except metadata.PackageNotFoundError:  # of another system
    continue
  todo += [one for one in asked if not extras.search(one)]
top = {{m for m, of in metadata.packages_distributions().items() if brought & {{*map(key, of)}}}}
top |= {{*sys.stdlib_module_names, *sys.builtin_module_names, 'llm_jax', 'configs'}}
known = metadata.packages_distributions()

class Refuse:
  def find_spec(self, name, path=None, target=None):
    first = name.partition('.')[0]
    if first in known and first not in top:
      raise ModuleNotFoundError(f'{{name}} is of an extra', name=first)

sys.meta_path.insert(0, Refuse())
import llm_jax
for found in pkgutil.walk_packages(llm_jax.__path__, 'llm_jax.'):
  importlib.import_module(found.name)
for found in pkgutil.iter_modules([{root!r} + '/configs']):
  importlib.import_module('configs.' + found.name)
print(len(sys.modules), sorted(top & {{'jax', 'flax', 'zstandard', 'uvicorn'}}))
"""


def test_every_module_imports_without_the_extras(tmp_path):
  source = ast.parse((ROOT / 'setup.py').read_text())
  core = next(
    ast.literal_eval(node.value)
    for node in source.body
    if isinstance(node, ast.Assign) and node.targets[0].id == 'CORE'
  )
  program = LEAN.format(root=str(ROOT), core=core)
  command = [sys.executable, '-c', program]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip().endswith("['flax', 'jax']")


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """What a process needs in its environment to see the installed package alone."""
  site = tmp_path_factory.mktemp('site')
  options = ['--no-deps', '--no-build-isolation', '--disable-pip-version-check', '--target', site]
  source = tmp_path_factory.mktemp('source')  # a build leaves folders in the tree that it builds
  for name in ('setup.py', 'README.md', 'llm_jax', 'configs'):
    (source / name).symlink_to(ROOT / name)
  command = [sys.executable, '-m', 'pip', 'install', '--quiet', *map(str, options), str(source)]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return os.environ | {'PYTHONPATH': str(site)}, site


def run(installed, folder, *words):
  environ, site = installed
  done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def test_a_config_by_its_name_and_one_that_starts_from_ours(installed, tmp_path):
  llm_jax = str(installed[1] / 'bin' / 'llm_jax')
  shown = run(installed, tmp_path, llm_jax, '--config=dpo', '--print')
  assert shown == run(installed, ROOT, llm_jax, '--config=configs/dpo.py', '--print')
  assert 'dpo' in run(installed, tmp_path, llm_jax)
  (tmp_path / 'configs').mkdir()  # of somebody's own
  (tmp_path / 'configs' / 'mine.py').write_text(
    'from configs import sft\n\n\ndef get_config():\n'
    "  c = sft.get_config('tiny')\n  c.total_steps = 7\n  return c\n"
  )
  (tmp_path / 'mine.py').write_text('from configs.mine import get_config\n')
  for name in ('configs/mine.py', 'mine.py'):
    shown = run(
      installed, tmp_path, sys.executable, '-m', 'llm_jax.main', f'--config={name}', '--print'
    )
    assert 'total_steps: 7' in shown or 'total_steps = 7' in shown
  where = run(installed, tmp_path, sys.executable, '-c', 'import llm_jax; print(llm_jax.__file__)')
  assert Path(where.strip()).is_relative_to(installed[1])

"""The plan of the house, held against the imports: an arrow only runs down."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'llm_jax'

FLOORS = {
  6: ['main', '__main__'],
  5: ['jobs'],
  4: ['annotate', 'judges', 'model', 'serving', 'compress'],
  3: ['artifact', 'run_folder', 'evals', 'tools'],
  2: ['data', 'labels', 'models', 'losses', 'sampling', 'training'],
  1: ['text', 'clean', 'parallel', 'rewards'],
  # The last is the package's own __init__.py.
  0: [
    'types',
    'nearest',
    'options',
    'find',
    'files',
    'store',
    'copies',
    'storage',
    'lease',
    'lock',
    'llm_jax',
  ],
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# The arrows along a floor: what is found is checked, and what is wrong is bad input.
LEVEL = {
  *(
    ('__main__', 'main'),
    ('options', 'nearest'),
    ('options', 'types'),
    ('find', 'types'),
    ('find', 'options'),
    ('lock', 'types'),
  ),
  *(('files', 'types'), ('store', 'types'), ('copies', 'types'), ('copies', 'files')),
  *(('copies', 'store'), ('storage', 'types'), ('storage', 'store'), ('storage', 'copies')),
  *(('lease', 'types'), ('lease', 'store'), ('lease', 'copies'), ('lock', 'lease')),
  ('lock', 'storage'),
  ('lock', 'store'),
}
# An arrow that would run down, and still must not: an evaluation is given its model.
CLOSED = {('evals', 'models')}

# Outside packages that only some rooms may know; an empty set: none.
ONLY_IN = {
  'flax.linen': {'models'},
  'ml_collections': {'jobs', 'main'},
  'absl.app': {'jobs', 'main'},
  'absl.flags': {'jobs', 'main'},
  'tensorflow': set(),
  'torch': set(),
  'configs': set(),
  'experiments': set(),
  'tests': set(),
}
# Outside packages that a room must not know.
NOT_IN = {room: {'jax', 'flax', 'optax', 'orbax'} for room in ('text', 'clean', 'labels')}

NO_NOUNS = {'utils', 'util', 'helpers', 'common', 'misc'}
MAX_LINES = 500


def module_of(path):
  """('llm_jax', 'losses', 'dpo') for llm_jax/losses/dpo.py."""
  return path.relative_to(ROOT).with_suffix('').parts


def room_of(module):
  """The room of a dotted name inside the package, as a tuple of its words."""
  return module[1] if len(module) > 1 and module[1] != '__init__' else module[0]


def imports(source, module):
  """The (line, dotted name) of every import, in functions too; `from a import b` names a.b."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      base = [*module[: -node.level]] if node.level else []
      base += node.module.split('.') if node.module else []
      for alias in node.names:
        yield node.lineno, '.'.join([*base, alias.name])


def starts(name, package):
  return name == package or name.startswith(package + '.')


def inside(here, name):
  """What is wrong with room `here` importing `name`, a dotted name inside the package, or None."""
  parts = name.split('.')
  there = room_of(parts)
  if len(parts) == 2 and there not in FLOOR and there.startswith('__'):
    there = 'llm_jax'  # from llm_jax import __version__
  if there not in FLOOR:
    return f'imports {there}, a room that has no floor; give it one in tests/layers_test.py'
  if (here, there) in CLOSED:
    return f'imports {there}, which it should be given as an argument'
  if here == there or (here, there) in LEVEL or FLOOR[here] > FLOOR[there]:
    return None
  return f'on floor {FLOOR[here]} imports {there} on floor {FLOOR[there]}; pass it as an argument'


def outside(here, name):
  """What is wrong with room `here` importing `name`, a name of another package, or None."""
  for package, rooms in ONLY_IN.items():
    if starts(name, package) and here not in rooms:
      return f'imports {name}, which belongs to: {", ".join(sorted(rooms)) or "no room"}'
  for package in NOT_IN.get(here, ()):
    if starts(name, package):
      return f'imports {name}; this room does without {package}'
  return None


def faults(source, module):
  """One line for each import of `source` that the plan forbids."""
  here = room_of(module)
  if here not in FLOOR:
    return [f'{"/".join(module)}: {here} has no floor; give it one in tests/layers_test.py']
  found = []
  for line, name in imports(source, module):
    fault = inside(here, name) if starts(name, 'llm_jax') else outside(here, name)
    if fault:
      found.append(f'{"/".join(module)}.py:{line}: {here} {fault}')
  return found


def files():
  return sorted(PACKAGE.rglob('*.py'))


def test_imports_run_down():
  found = [fault for path in files() for fault in faults(path.read_text(), module_of(path))]
  assert not found, '\n' + '\n'.join(found)


def test_every_folder_has_a_floor():
  folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.rglob('*.py'))}
  assert folders <= FLOOR.keys(), f'no floor: {sorted(folders - FLOOR.keys())}'


def test_a_file_is_one_noun_of_readable_length():
  vague = [str(path) for path in files() if path.stem in NO_NOUNS]
  assert not vague, f'name these after what they hold: {vague}'
  lines = {str(path): len(path.read_text().splitlines()) for path in files()}
  long = {path: n for path, n in lines.items() if n > MAX_LINES}
  assert not long, f'over {MAX_LINES} lines, find the second noun: {long}'


def test_the_architecture_page_draws_the_same_floors():
  page = (ROOT / 'docs' / 'architecture.md').read_text()
  drawn = {
    int(floor): re.findall(r'\w+', rooms.replace('.py', ''))
    for floor, rooms in re.findall(r'^(\d)  ((?:\w+(?:\.py|/) ?)+)', page, re.MULTILINE)
  }
  held = {floor: [room for room in rooms if room != 'llm_jax'] for floor, rooms in FLOORS.items()}
  assert drawn == held


@pytest.mark.parametrize(
  ('where', 'source', 'fault'),
  [
    ('losses/ipo', 'from llm_jax.models import transformer', 'on floor 2 imports models'),
    ('losses/ipo', 'from llm_jax import models', 'on floor 2 imports models'),
    ('losses/ipo', 'import llm_jax.jobs.train', 'imports jobs on floor 5'),
    ('losses/ipo', 'from ..annotate import gae', 'imports annotate on floor 4'),
    ('losses/ipo', 'from .. import artifact', 'imports artifact on floor 3'),
    ('text/chat', 'def f():\n  from llm_jax.data import packed', 'imports data on floor 2'),
    ('text/chat', 'import jax.numpy as jnp', 'does without jax'),
    ('types', 'from llm_jax import find', 'imports find on floor 0'),
    ('artifact', 'from llm_jax.evals import tasks', 'imports evals on floor 3'),
    ('evals/tasks', 'from llm_jax.models import transformer', 'given as an argument'),
    ('losses/ipo', 'import flax.linen as nn', 'belongs to: models'),
    ('losses/ipo', 'from flax import linen', 'belongs to: models'),
    ('losses/ipo', 'from flax.linen import Module', 'belongs to: models'),
    ('training/loop', 'import ml_collections', 'belongs to: jobs, main'),
    ('training/loop', 'from absl import flags', 'belongs to: jobs, main'),
    ('jobs/train', 'from configs import sft', 'belongs to: no room'),
    ('jobs/train', 'from llm_jax.attic import old', 'attic, a room that has no floor'),
    ('attic/old', 'import os', 'attic has no floor'),
    ('attic', 'import os', 'attic has no floor'),
  ],
)
def test_a_forbidden_import_is_caught(where, source, fault):
  found = faults(source, ('llm_jax', *where.split('/')))
  assert len(found) == 1
  assert fault in found[0]


@pytest.mark.parametrize(
  ('where', 'source'),
  [
    ('losses/dpo', 'from llm_jax.losses.logprobs import score\nfrom . import logprobs'),
    ('losses/dpo', 'import jax\nfrom llm_jax.types import Mean'),
    ('find', 'from llm_jax.types import BadInput'),
    (
      'artifact',
      'from llm_jax import __version__\nfrom llm_jax.parallel.parameters import shardings',
    ),
    ('jobs/pipeline', 'import ml_collections\nfrom llm_jax.jobs import train'),
    ('models/transformer', 'import flax.linen as nn'),
    ('losses/dpo', 'import flax.struct\nfrom absl import logging'),
    ('text/chat', 'import jaxtyping_is_another_package'),
  ],
)
def test_an_import_that_runs_down_is_allowed(where, source):
  assert faults(source, ('llm_jax', *where.split('/'))) == []

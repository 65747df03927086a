"""Every option that there is is listed, with what can be known of it, and no other."""

import inspect
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from llm_jax.find import find
from llm_jax.jobs.config_file import load
from llm_jax.jobs.option_list import lines, sections
from llm_jax.options import options_of

ROOT = Path(__file__).parents[2]
CONFIGS = [
  path.stem
  for path in sorted((ROOT / 'configs').glob('*.py'))
  if re.search(r'^def get_config\((size|recipe|base): str = ', path.read_text(), re.MULTILINE)
  and path.stem != 'evaluate'
]
JOB = '''"""A job of a user's. It has two groups."""

import dataclasses
from typing import Any, Literal

from llm_jax.options import Positive, Share, kinds

PRESETS = {'theirs': {'beta': 0.5}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """What it has.

  Attributes:
    job: this file.
    steps: how many.
    loss: what is computed.
    limits: name -> largest value.
  """

  job: str
  steps: int
  loss: dict
  limits: dict | None = None


def soft(*, beta: Positive = 0.1):
  return beta


def hard(*, beta: Positive = 0.2, tau: Share | None = None):
  return beta


@kinds({'soft': soft, 'hard': hard})
def loss_fn(params, *, model, kind: Any = 'soft', average: Literal['mean', 'sum'] = 'mean'):
  """A loss.

  Args:
    kind: which it is.
    beta: how much.
    tau: how hot.
    average: of tokens.
  """


def groups(config):
  yield 'loss', loss_fn, ('model',)


def main(config): ...
'''


def test_an_option_is_shown_with_its_value_what_it_may_be_and_its_meaning(tmp_path):
  (tmp_path / 'job.py').write_text(JOB)
  c = ConfigDict(dict(job=str(tmp_path / 'job.py'), steps=3, loss=dict(beta=0.3), limits=dict(x=1)))
  told = [line.rstrip() for line in lines(c)]
  at = lambda start: told[next(i for i, line in enumerate(told) if line.startswith(start)) :]
  assert told[0] == "A job of a user's. It has two groups."
  assert at('  steps = 3')[1] == '      how many.'
  assert at('limits')[:2] == ['limits: name -> largest value.', '  limits.x = 1']
  assert at('loss')[0] == 'loss: what is computed.'
  assert at('  loss.preset')[0].split()[2:] == ['None', 'theirs']
  assert at('  loss.kind')[0].split()[2:] == ["'soft'", 'soft', '|', 'hard']
  assert re.search(
    r'= 0.3 +number above 0; default 0.1; used by soft, hard \(default$', at('  loss.beta')[0]
  )
  assert at('  loss.beta')[1].strip() == '0.2)'
  assert (
    at('  loss.tau')[0].split('None', 1)[1].strip() == 'number from 0 to 1 or None; used by hard'
  )
  assert at('  loss.average')[0].split()[2:] == ["'mean'", 'mean', '|', 'sum']
  assert 'model' not in ' '.join(told)


def existing(config):
  """Paths of everything that can be set, without groups that have fields."""
  found = set()
  job = find('jobs', config.job)
  for path, function, supplied in [('', job.Fields, ()), *job.groups(config)]:
    names = {name for name in options_of(function) if name not in supplied}
    names |= {'preset'} if hasattr(inspect.getmodule(function), 'PRESETS') else set()
    found |= {f'{path}.{name}'.lstrip('.') for name in names}

  def add(group, prefix):
    for name, value in group.items():
      found.add(f'{prefix}{name}')
      if isinstance(value, ConfigDict):
        add(value, f'{prefix}{name}.')

  def add_configs(group, prefix):
    for name, inner in group.items():
      if isinstance(inner, ConfigDict) and 'job' in inner:
        found.update(f'{prefix}{name}.{path}' for path in existing(inner))
      elif isinstance(inner, ConfigDict):
        add_configs(inner, f'{prefix}{name}.')

  add(config, '')
  add_configs(config, '')
  opened = {path.rpartition('.')[0] for path in found}
  return {path for path in found if path not in opened}


@pytest.mark.parametrize('name', CONFIGS)
def test_each_option_is_printed_and_each_that_is_printed_exists(name, monkeypatch):
  monkeypatch.chdir(ROOT)
  config = load(name)
  printed = re.findall(r'^  (\S+) = ', '\n'.join(lines(config)), re.MULTILINE)
  assert all(row.meaning for rows in sections(config).values() for row in rows)
  assert len(printed) == len({*printed})
  assert {*printed} == existing(config)

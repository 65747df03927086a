"""The variants of a config that job `compare` sets against each other, and the runs they take.

A variant is a name and changes, made to the base as the command line would make them. A run is a
variant with a seed and, where something is tuned, the values of what is tuned.
"""

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from llm_jax import storage
from llm_jax.jobs import command, rounds
from llm_jax.options import suggest
from llm_jax.training import boards
from llm_jax.types import BadInput

BASE = 'base'  # what the unchanged config is called
CACHE = 'reference'  # the folder of what runs that start from one model keep of it
STAGES = 'stages'  # the folder of what the runs of pipelines share
SHOWN = ('wandb', 'histograms', 'profile')  # fields that change nothing of a stage
LONGEST = 200  # bytes of a name, of 255 that file systems allow
SAFE = re.compile(r'\w[\w=.,+ -]*')

Changes = Mapping[str, Any]  # path of a field -> its value


class Run(NamedTuple):
  """A run of the comparison.

  Attributes:
    variant: its name.
    seed: of parameters, order of the data, and whatever else is drawn.
    setting: path of a field that is tuned -> its value.
    folder: of its own.
    config: of all of it.
    stages: name -> config, in order; '' is the name of a base that is a single stage.
  """

  variant: str
  seed: int
  setting: Changes
  folder: Path
  config: Any
  stages: Mapping[str, Any]

  @property
  def label(self) -> str:
    """What the run is called where people read it."""
    tuned = f'{told(self.setting)}, ' if self.setting else ''
    return f'{self.variant}, {tuned}seed {self.seed}'

  @property
  def model(self) -> str:
    """The folder of the model that is compared: the last policy, or else the last stage."""
    kinds = {rounds.makes(one): one.workdir for one in self.stages.values() if one.job == 'train'}
    return kinds.get('policy', [*self.stages.values()][-1].workdir)


def variants(config: Any) -> dict[str, Changes]:
  """Name -> changes; first what the others are compared with.

  Those of `config.variants`, a variant for each combination of `config.grid`, and the base itself,
  unless `config.against` names one of them to be compared with.

  Raises:
    BadInput: a name that is no name of a folder, fewer than two variants, or no such `against`.
  """
  found: dict[str, Changes] = {}
  for name, group in (config.get('variants') or {}).items():
    if not hasattr(group, 'items'):
      raise BadInput(f'variants: {name!r} is {group!r}; give fields that it changes')
    found[name] = flat(group)
  for changes in _grid(config):
    if (name := told(changes)) in found:
      raise BadInput(f'grid: {name!r} is a variant already; give that one another name')
    found[name] = changes
  against = config.get('against') or BASE
  if not config.get('against'):
    if BASE in found:
      raise BadInput(f'variants: {BASE!r} is the unchanged config; choose another name')
    found[BASE] = {}
  for name in found:
    if name in (STAGES, CACHE, 'figures', boards.TENSORBOARD):
      raise BadInput(f'variants: {name!r} is the folder of something else; choose another name')
    if len(name.encode()) > LONGEST:
      raise BadInput(f'variants: {name[:40]!r}... names a folder; use {LONGEST} bytes or fewer')
    if not SAFE.fullmatch(name):
      raise BadInput(f'variants: {name!r} names a folder; use letters, digits, and any of _=.,+-')
  if against not in found:
    raise BadInput(f'against: no variant {against!r}; {suggest(against, [*found])}')
  if len(found) < 2:
    raise BadInput(
      'variants: there is nothing to compare; change something, as in '
      '--config.variants.mine.loss.name=mine.loss'
    )
  return {against: found.pop(against), **found}


def against(config: Any) -> str:
  """The variant that all others are compared with."""
  return config.get('against') or BASE


def settings(config: Any, changes: Changes) -> list[dict[str, Any]]:
  """The values of what is tuned, for a variant: one entry for each combination; [{}] for none.

  A single one, of one factor, is not compared with anything else and holds for all runs.

  Raises:
    BadInput: what is tuned is no number of the config, or the factors are none.
  """
  tuned = flat(config.get('tune') or {})
  made = changed(config.base, changes)
  choices = []
  for path, factors in tuned.items():
    own = value(made, path)
    number = lambda x: isinstance(x, (int, float)) and not isinstance(x, bool)
    if not number(own):
      raise BadInput(
        f'tune: {path!r} is no number of config.base; name one that is, or switch it off by '
        '--config.tune=unset'
      )
    factors = factors if isinstance(factors, (tuple, list)) else [factors]
    if not factors or not all(number(x) and x > 0 for x in factors):
      raise BadInput(f'tune: {path} {factors!r}; choose factors above 0, such as (0.5, 1, 2)')
    kind = type(own)
    choices.append([(path, new) for new in dict.fromkeys(kind(own * x) for x in factors)])
  found = [dict(one) for one in itertools.product(*choices)]
  unchanged = all(new == value(made, path) for path, new in found[0].items())
  return [{}] if len(found) == 1 and unchanged else found


def run_of(
  config: Any,
  name: str,
  changes: Changes,
  seed: int,
  setting: Mapping[str, Any] = {},
  *,
  steps: int = 0,
  place: str = '',
) -> Run:
  """A run with a config of its own.

  Args:
    config: of the job.
    name: of the variant.
    changes: of the variant.
    seed: of the run.
    setting: values of what is tuned.
    steps: updates; 0 for those of the config.
    place: of its folder; '' for what is tuned.

  Raises:
    BadInput: a change that cannot be made.
  """
  made = changed(config.base, changes, where=f'variants.{name}')
  folder = '/'.join(filter(None, [config.workdir, name, place or told(setting), f'seed{seed}']))
  with made.unlocked(), made.ignore_type():
    for path, own in setting.items():
      *groups, field = path.split('.')
      value(made, '.'.join(groups))[field] = own
    made.workdir, made.seed = folder, seed
    if steps:
      made.total_steps = steps
    if 'next' in made:
      made.next = ''
    if config.get('shard'):  # processes do not write to one cache
      for path, own in flat(made).items():
        if own == f'{config.workdir}/{CACHE}':
          *groups, field = path.split('.')
          value(made, '.'.join(groups))[field] = f'{folder}/{CACHE}'
    _show(config, f'{name}, seed {seed}', made)
    stages = {'': made}
    if made.job == 'pipeline':
      stages = {stage: made[stage] for stage in made.stages}
      made.report.evals, made.tasks, made.ask = ConfigDict(), (), ConfigDict()  # no report of a run
      _share(f'{config.workdir}/{STAGES}', stages, config.base.seed)
  return Run(name, seed, setting, Path(folder), made, stages)


def _show(config: Any, title: str, made: Any) -> None:
  """Makes the runs of a comparison a group of Weights & Biases, where they are shown there."""
  groups = {'': made, **{name: made[name] for name in made.get('stages', ())}}
  for stage, one in groups.items():
    if one.get('wandb') is None:
      continue
    one.wandb.group = one.wandb.get('group') or Path(config.workdir).name
    # Stages that several variants share have one run, which is called after the stage.
    one.wandb.title = one.wandb.get('title') or stage or title


def _share(folder: str, stages: Mapping[str, Any], seed: int) -> None:
  """Gives each stage of a pipeline a folder that is called after all that it is made from.

  So stages that several runs have in common are run once. What comes before the first that trains
  is data, which has the seed of the base in all runs.
  """
  trained = False
  for name, stage in stages.items():
    trained = trained or 'total_steps' in stage
    if not trained and 'seed' in stage:
      stage.seed = seed
    stage.workdir = f'{folder}/{name}-{digest(stage)[:12]}'  # which what comes after it follows


def digest(stage: Any) -> str:
  """sha256 of all that decides what a stage comes to, but for its folder."""
  decides = {k: v for k, v in stage.to_dict().items() if k not in SHOWN}
  plain = json.dumps(decides, sort_keys=True, default=str)
  plain = storage.named(plain.replace(stage.workdir, ''))  # the same wherever the copies are
  return hashlib.sha256(plain.encode()).hexdigest()


def changed(base: Any, changes: Changes, where: str = 'variants') -> Any:
  """A copy of a config with changes.

  Raises:
    BadInput: as the command line would say it.
  """
  made = copy.deepcopy(base)
  texts = [(path, new if isinstance(new, str) else repr(new)) for path, new in changes.items()]
  with made.unlocked():
    try:
      command.change(made, texts)
    except SystemExit as error:
      said = str(error).removeprefix('error: ').removeprefix('config: ')
      raise BadInput(f'{where}: {said}') from None
  return made


def check_different(configs: Mapping[str, Any]) -> None:
  """Whether no two variants are the same.

  Raises:
    BadInput: naming both.
  """
  known: dict[str, str] = {}
  for name, one in configs.items():
    plain = repr(_sorted({k: v for k, v in one.to_dict().items() if k != 'workdir'}))
    if plain in known:
      raise BadInput(
        f'variants: {name!r} is the same config as {known[plain]!r}; change a field of one, or '
        'take it out'
      )
    known[plain] = name


def flat(group: Any, prefix: str = '') -> dict[str, Any]:
  """Path -> value of the fields of a group and the groups inside of it.

  >>> flat({'loss': {'kind': 'ipo', 'beta': 0.1}})
  {'loss.kind': 'ipo', 'loss.beta': 0.1}
  """
  found: dict[str, Any] = {}
  for name, value in group.items():
    path = f'{prefix}{name}'
    if hasattr(value, 'items'):
      found |= flat(value, f'{path}.')
    else:
      found[path] = value
  return found


def told(changes: Changes) -> str:
  """Changes in a few words, which can also be the name of a folder.

  >>> told({'optimizer.learning_rate': 0.01, 'loss.kind': 'ipo'})
  'learning_rate=0.01,kind=ipo'
  """
  text = lambda value: f'{value:g}' if isinstance(value, float) else str(value)
  words = (f'{path.rpartition(".")[2]}={text(value)}' for path, value in changes.items())
  return ','.join(re.sub(r'[^\w=.,+ -]+', '_', word) for word in words)


def _grid(config: Any) -> Iterator[Changes]:
  axes = flat(config.get('grid') or {})
  for path, values in axes.items():
    if not isinstance(values, (tuple, list)) or not values:
      raise BadInput(f'grid: {path} {values!r}; give the values it takes, such as (0.1, 0.3)')
  if axes:
    for values in itertools.product(*axes.values()):
      yield dict(zip(axes, values, strict=True))


def value(config: Any, path: str) -> Any:
  """A field by its path; None where there is none."""
  inner = config
  for part in path.split('.') if path else ():
    inner = inner.get(part) if isinstance(inner, ConfigDict) else None
  return inner


def _sorted(value: Any) -> Any:
  if isinstance(value, Mapping):
    return [(key, _sorted(value[key])) for key in sorted(value)]
  return value

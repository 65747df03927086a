"""The rounds of a pipeline: the stages of `config.again`, once more for each round from the second.

A round has a folder of its own, `round2` and so on. Its stages are stages of the pipeline like all
others, called `round2_dpo`, and start from the newest stages before them. Nothing here imports JAX.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

# What a model with a head makes of the stage that trains it.
_HEADS = {'scalar': 'reward', 'classes': 'classifier'}


def expand(config: Any) -> None:
  """Adds the stages of the rounds to a pipeline; twice is the same as once."""
  again: Any = config.get('again')
  if config.get('job') != 'pipeline' or not isinstance(again, ConfigDict):
    return
  rounds: Any = config.get('rounds', 1)
  names: Any = again.get('stages', ())
  if type(rounds) is not int or not all(name in again for name in names):
    return  # which the job refuses
  made: Any = {name: config[name] for name in config.stages if name in config}
  newest = {makes(stage): stage.workdir for stage in made.values()}
  with config.unlocked():
    for number in range(2, rounds + 1):
      of_round: Any = copy.deepcopy(again)  # of the whole, whose fields refer to each other
      for name in names:
        stage, called = of_round[name], stage_of(number, name)
        if called in config.stages:
          stage = config[called]
        else:
          stage.workdir = f'{config.workdir}/round{number}/{name}'
          _start(stage, newest)
          config[called] = stage
          config.stages = (*config.stages, called)
        newest[makes(stage)] = stage.workdir


def stage_of(number: int, name: str) -> str:
  """What a stage of a round is called in the pipeline.

  >>> stage_of(2, 'dpo')
  'round2_dpo'
  """
  return f'round{number}_{name}'


def of(config: Any) -> list[list[str]]:
  """The stages of each round, the first round's in front."""
  own = {
    number: [stage_of(number, name) for name in config.again.stages]
    for number in range(2, config.get('rounds', 1) + 1)
  }
  later = {name for names in own.values() for name in names}
  first = [name for name in config.stages if name not in later]
  return [first, *([name for name in names if name in config.stages] for names in own.values())]


def newest(config: Any, names: Sequence[str], kind: str) -> str | None:
  """The last of some stages that makes a kind, as `makes` says it; None if there is none."""
  found = [name for name in names if makes(config[name]) == kind]
  return found[-1] if found else None


def makes(stage: Any) -> str:
  """What a stage leaves: the kind by which `configs.base.Stage` names it, however it is made.

  It is a 'policy', which can answer, a 'reward' model, a 'classifier', or an 'encoder', which reads
  both ways; 'answers' of a model; and of all other jobs the name of the job.

  >>> makes(ConfigDict(dict(job='train', model=dict(head='scalar'))))
  'reward'
  """
  if stage.job != 'train':
    return 'answers' if stage.job == 'sample' else stage.job
  head = stage.model.get('head')
  if head in _HEADS:
    return _HEADS[head]
  return 'policy' if stage.model.get('causal', True) else 'encoder'


def _start(stage: ConfigDict, newest: Mapping[str, str]) -> None:
  """Puts the newest folder of its kind into every field that nobody has given another one."""
  for key, value in list(stage.items(preserve_field_references=True)):
    if isinstance(value, ConfigDict):
      _start(value, newest)
    elif kind := getattr(value, 'kind', ''):
      stage[key] = newest.get(kind, '')

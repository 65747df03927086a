"""How far a pipeline is: what each stage is for, and how long all that is left may take."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from llm_jax.jobs import rounds

ENOUGH = 30  # seconds of finished stages that say how fast this machine is
# What a stage is for, by the loss of a training and by the job of anything else.
PURPOSES = {
  'base': 'learns to continue text',
  'cross_entropy': 'learns to answer, from conversations',
  'refuse': 'learns to say that it does not know',
  'reward': 'learns which of two answers is preferred',
  'dpo': 'learns to prefer the better of two answers',
  'orpo': 'learns to answer, and to prefer the better of two answers',
  'simpo': 'learns to prefer the better of two answers',
  'kto': 'learns from answers marked good or bad',
  'policy_gradient': 'tries answers, and keeps what a score finds good',
  'ppo': 'tries answers, and keeps what the reward model likes',
  'distill': 'learns from the predictions of a larger model',
  'classify': 'learns to name the class of a text',
  'clean': 'makes text of web pages',
  'tokenize': 'cuts text into the pieces that a model reads',
  'sample': 'lets the model answer, and keeps the best answers',
  'probe': 'finds out what the model knows',
  'feedback': 'collects what users said of answers',
  'compress': 'stores the model in fewer bits',
}


def purpose(stage: Any) -> str:
  """What a stage is for, in a few words; '' of one that is not known.

  Args:
    stage: its config.
  """
  if stage.job != 'train':
    return PURPOSES.get(str(stage.job), '')
  if is_base(stage):
    return PURPOSES['base']
  return PURPOSES.get(str(stage.get('stage', '')), '') or PURPOSES.get(str(stage.loss.name), '')


def kind(stage: Any) -> str:
  """What a stage does, as the sentences of a report tell it (jobs/story.py).

  Args:
    stage: its config.
  """
  if stage.job != 'train':
    return 'answers' if stage.job == 'sample' else str(stage.job)
  makes = rounds.makes(stage)
  if makes != 'policy':
    return makes
  if is_base(stage):
    return 'base'
  if 'sample' in stage.annotate.steps:
    return 'tries'
  return 'prefers' if stage.data.name == 'preferences' else 'chat'


def before(config: Any, name: str) -> str | None:
  """The stage whose model a stage starts from, where it is one of the same pipeline.

  Args:
    config: of the pipeline.
    name: of the stage.
  """
  stage = config[name]
  paths = {stage.get('artifact', ''), *stage.get('init', {}).values()}
  found = [
    other
    for other in config.stages
    if config[other].workdir in paths and rounds.makes(config[other]) in ('policy', 'compress')
  ]
  return found[-1] if found else None


def is_base(stage: Any) -> bool:
  """Whether a stage trains a language model on text that is no conversation."""
  plain = 'template' not in stage.get('data', {})
  return stage.job == 'train' and plain and rounds.makes(stage) == 'policy'


def left(
  expected: Mapping[str, float], taken: Mapping[str, float], coming: Collection[str]
) -> float | None:
  """Seconds that stages may take; None where one of them was never measured.

  Args:
    expected: stage -> seconds on the machine where the recipe was measured.
    taken: stage -> seconds here, of those that have finished: how fast this machine is.
    coming: the stages that are left.

  >>> left({'a': 60, 'b': 100, 'c': 20}, {'a': 30.0}, ['b', 'c'])
  60.0
  >>> left({'a': 60}, {}, ['a', 'b']) is None
  True
  """
  if not all(name in expected for name in coming):
    return None
  both = [name for name in taken if name in expected]
  there, here = sum(expected[name] for name in both), sum(taken[name] for name in both)
  speed = here / there if min(here, there) >= ENOUGH else 1.0
  return speed * sum(expected[name] for name in coming)


def about(seconds: float) -> str:
  """A time that is not known exactly.

  >>> about(41.0), about(625.0)
  ('about 1 minute', 'about 11 minutes')
  """
  minutes = max(1, math.ceil(seconds / 60))
  return f'about {minutes} minute{"s" * (minutes > 1)}'


def clock(seconds: float) -> str:
  """Minutes and seconds, with hours where there are some.

  >>> clock(75.4), clock(3675)
  ('1:15', '1:01:15')
  """
  minutes, rest = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'

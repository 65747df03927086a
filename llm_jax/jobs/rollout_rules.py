"""What has to agree in a config of reinforcement learning: sampler, annotators and loss."""

import inspect
from typing import Any

from llm_jax.find import find, named, preset
from llm_jax.options import check
from llm_jax.training.batches import Batches
from llm_jax.types import BadInput

ADVANTAGES = ('group_advantage', 'gae')
TRUNCATIONS = ('top_k', 'top_p', 'min_p', 'repetition_penalty')


def check_rollout(config: Any) -> None:
  """Raises BadInput where sampler and trainer would silently work on different policies.

  Args:
    config: of a stage; nothing is asked of one without `sample` among its annotators but that
      checkpoints fall between rollouts.
  """
  reuse = reuse_of(config)
  if config.checkpoint_every % reuse:
    below = config.checkpoint_every // reuse * reuse or reuse
    raise BadInput(
      f'config: checkpoint_every {config.checkpoint_every} is not a multiple of rollout.epochs * '
      f'rollout.minibatches = {reuse}; a run can only go on from between two rollouts, so use '
      f'{below}'
    )
  steps = tuple(config.annotate.steps)
  if 'sample' not in steps or not set(steps) & set(ADVANTAGES):
    return
  sample = dict(config.annotate.get('sample', {}))
  name, group = named(config.loss, 'loss')
  module = find('losses', name)
  loss = preset(module, group, where='loss')
  heat = sample.get('temperature', 1.0)
  if heat == 0:
    raise BadInput('annotate.sample: temperature 0 explores nothing; set it above 0, 1 is usual')
  asked = {'loss': loss.get('temperature', 1.0)}
  if 'reference' in steps:
    asked['annotate.reference'] = config.annotate.get('reference', {}).get('temperature', 1.0)
  for where, other in asked.items():
    if other != heat:
      raise BadInput(
        f'{where}.temperature {other} differs from annotate.sample.temperature {heat}; '
        'log-probabilities would be those of another policy; set both alike'
      )
  given = [option for option in TRUNCATIONS if sample.get(option) is not None]
  if given and loss.get('importance_cap') is None:
    corrects = 'importance_cap' in inspect.signature(module.loss_fn).parameters
    cure = 'set config.loss.importance_cap, 2.0 is usual, or ' if corrects else ''
    raise BadInput(
      f'annotate.sample.{given[0]}: what is sampled would not be the policy that is trained; '
      f'{cure}remove {given[0]}'
    )
  if not sample.get('rescore', False):
    why = ''
    if reuse > 1:
      why = f'a rollout serves {reuse} updates (config.rollout)'
    elif 'kl_reward' in steps:
      why = 'kl_reward compares with the reference'
    if why:
      raise BadInput(f'annotate.sample: {why}, which needs old_logp; set rescore=True')


def reuse_of(config: Any) -> int:
  """Steps that one rollout serves.

  Raises:
    BadInput: an unknown option, or a number below 1.
  """
  rollout = dict(config.get('rollout', {}))
  check(Batches, rollout, where='rollout', supplied=('seed', 'mesh'))
  for name, value in rollout.items():
    if value < 1:
      raise BadInput(f'rollout: {name} {value} must be at least 1')
  return rollout.get('epochs', 1) * rollout.get('minibatches', 1)

"""What has to agree in a config of reinforcement learning: sampler, annotators and loss."""

from collections.abc import Sequence
from typing import Any

from llm_jax.jobs.chain import Part, said, sampler, written
from llm_jax.options import check
from llm_jax.sampling.pick import TRUNCATIONS
from llm_jax.training.batches import Batches
from llm_jax.types import BadInput


def check_rollout(config: Any, parts: Sequence[Part]) -> None:
  """Raises BadInput where sampler and trainer would silently work on different policies.

  Args:
    config: of a stage; of one without advantages nothing is asked but that checkpoints fall between
      rollouts.
    parts: its `chain`, the loss at the end.
  """
  reuse = reuse_of(config)
  if config.checkpoint_every % reuse:
    below = config.checkpoint_every // reuse * reuse or reuse
    raise BadInput(
      f'config: checkpoint_every {config.checkpoint_every} is not a multiple of rollout.epochs * '
      f'rollout.minibatches = {reuse}; a run can only go on from between two rollouts, so use '
      f'{below}'
    )
  samples, loss = sampler(parts), parts[-1]
  fields, reads = written(parts), loss.says('READS') or ()
  if samples is None or not {'advantage'} & {*fields, *reads}:
    return
  _check_temperatures(parts, samples)
  compares = [part.where for part in parts if said(part.module, 'COMPARES', part.options)]
  if compares and samples.options.get('group', 2) < 2:
    raise BadInput(
      f'{samples.where}: group 1, and {compares[0]} compares the answers to a prompt: with one '
      'each nothing is learnt; set group to at least 2, 8 is usual'
    )
  given = [option for option in TRUNCATIONS if samples.options.get(option) is not None]
  tools = samples.options.get('tools') or {}
  given += [f'tools.{name}.quotes' for name in tools if tools[name].get('quotes', 'free') != 'free']
  if given and 'sampled_logp' not in reads:
    corrects = 'importance_cap' in loss.options
    cure = 'set config.loss.importance_cap, 2.0 is usual, or ' if corrects else ''
    raise BadInput(
      f'{samples.where}.{given[0]}: what is sampled would not be the policy that is trained; '
      f'{cure}remove {given[0]}'
    )
  if reuse > 1 and 'old_logp' not in fields and samples.says('WRITES') is not None:
    cure = '; set rescore=True' if 'rescore' in samples.options else ''
    raise BadInput(
      f'{samples.where}: a rollout serves {reuse} updates (config.rollout), which needs '
      f'old_logp{cure}'
    )


def _check_temperatures(parts: Sequence[Part], samples: Part) -> None:
  """All log-probabilities of a chain have to be those of the policy that samples."""
  wanted = samples.options.get('temperature', 1.0)
  if wanted == 0:
    raise BadInput(f'{samples.where}: temperature 0 explores nothing; set it above 0, 1 is usual')
  for part in parts:
    speaks = any(field.endswith('_logp') for field in part.says('WRITES') or ())
    if part is samples or not (speaks or part is parts[-1] or 'temperature' in part.options):
      continue
    theirs = part.options.get('temperature', 1.0)  # one without the option knows no other
    if theirs != wanted:
      raise BadInput(
        f'{part.where}.temperature {theirs} differs from {samples.where}.temperature {wanted}; '
        'log-probabilities would be those of another policy; set both alike'
      )


def reuse_of(config: Any) -> int:
  """Steps that one rollout serves.

  Raises:
    BadInput: an unknown option, or a number below 1.
  """
  rollout = dict(config.get('rollout', {}))
  check(Batches, rollout, where='rollout', supplied=('seed', 'mesh'))
  return rollout.get('epochs', 1) * rollout.get('minibatches', 1)

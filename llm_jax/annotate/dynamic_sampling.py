"""Keeps the groups whose answers are worth comparing, and has the others replaced (DAPO).

arXiv:2503.14476, section 3.2: a group that is all right or all wrong has advantage 0 everywhere, so
it takes a place in the batch and teaches nothing.
"""

from typing import Annotated

import jax
import jax.numpy as jnp

from llm_jax.annotate import stats
from llm_jax.options import at_least, checked
from llm_jax.types import Array, Batch, Model, Params, Tokenizer

READS = ('reward', 'mask')
WRITES = ('keep', 'log/acceptance')
COMPARES = True


class DynamicSampling:
  """Writes `keep` [B]; `tries` asks for more prompts, see `training.batches.Batches`."""

  def __init__(self, tries: int) -> None:
    self.tries = tries
    self._keep = jax.jit(_keep)

  def __call__(self, params: Params, batch: Batch, rng: Array) -> Batch:
    del params, rng
    stats.need(batch, 'dynamic_sampling', 'reward')
    return {**batch, 'keep': self._keep(batch)}


@checked(where='annotate.dynamic_sampling')
def make(
  model: Model, tokenizer: Tokenizer, *, tries: Annotated[int, at_least(2)] = 4
) -> DynamicSampling:
  """Marks groups whose counted rewards are not all equal; the rollout is filled with such groups.

  `log/acceptance` is the share of sampled groups that was kept. Prompts belong to tries by their
  place in the shuffled data: those of tries that were not needed are not asked in this pass. After
  the last try, groups of equal rewards fill what is left.

  Args:
    model: unused.
    tokenizer: unused.
    tries: most rollouts that are sampled for one.

  Raises:
    BadInput: fewer than two tries.
  """
  del model, tokenizer
  return DynamicSampling(tries)


def _keep(batch: Batch) -> Array:
  real_BG, reward_BG = stats.answers(batch), batch['reward']
  highest_B = jnp.where(real_BG, reward_BG, -jnp.inf).max(1)
  lowest_B = jnp.where(real_BG, reward_BG, jnp.inf).min(1)
  return (highest_B > lowest_B).astype(jnp.float32)

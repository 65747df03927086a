"""Dynamic sampling: which groups teach something, and a rollout full of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.annotate import dynamic_sampling
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.training.batches import Batches
from llm_jax.types import BadInput

GROUP = 3


def keep_of(reward, **fields):
  batch = {'tokens': jnp.zeros((len(reward), GROUP, 2)), 'mask': jnp.ones((len(reward), GROUP, 2))}
  batch |= {'reward': jnp.float32(reward)} | {k: jnp.float32(v) for k, v in fields.items()}
  return dynamic_sampling.make(None, None)({}, batch, jax.random.key(0))['keep'].tolist()


def test_a_group_of_equal_rewards_teaches_nothing():
  rewards = [[1, 1, 1], [0, 0, 0], [0, 1, 0], [0.7, 0.7, 0.7], [-2, -1, -2]]
  assert keep_of(rewards) == [0, 0, 1, 0, 1]


def test_only_answers_that_count_are_compared():
  rewards = [[0, 1, 1], [0, 1, 1], [5, 1, 0], [0, 0, 0]]
  valid = [[0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
  assert keep_of(rewards, valid=valid) == [0, 1, 0, 0]
  mask = np.ones((4, GROUP, 2))
  mask[0, 0] = mask[1, 1] = mask[3] = 0  # no token: nobody answered
  assert keep_of(rewards, mask=mask) == [0, 1, 1, 0]
  assert keep_of([[np.nan, 1, 1]], valid=[[0, 1, 1]]) == [0]


def rollout(tries, learnable, *, number=0):
  """A rollout of four prompts with numbers as tokens; the groups of some have unequal rewards."""
  mesh = make_mesh(data=2)
  read = lambda n: shard_batch({'prompt': np.arange(4, dtype=np.int32)[:, None] + 4 * n}, mesh)

  def answer(params, batch, rng):
    prompt_B = np.asarray(batch['prompt'])[:, 0]
    good_B = [int(prompt) in learnable for prompt in prompt_B]
    shape = (4, GROUP, 2)
    fields = {
      'tokens': np.broadcast_to(prompt_B[:, None, None], shape).copy(),
      'mask': np.ones(shape, np.float32),
      'reward': np.float32([[0, 1, good] if good else [1, 1, 1] for good in good_B]),
    }
    return {**batch, **shard_batch(fields, mesh)}

  seen = []
  after = lambda params, batch, rng: seen.append(batch['tokens'].shape) or batch
  annotate = [answer, dynamic_sampling.make(None, None, tries=tries), after]
  batch = Batches(read, annotate, seed=0, mesh=mesh)(None, number)
  assert seen == [(4, GROUP, 2)]  # what comes later sees the whole rollout once
  return batch


def test_a_rollout_is_filled_with_groups_that_differ():
  batch = rollout(4, {1, 4, 6, 7, 9})
  assert batch['prompt'][:, 0].tolist() == [1, 4, 6, 7]
  assert batch['tokens'][:, 0, 0].tolist() == [1, 4, 6, 7]  # a row stays together
  assert (np.ptp(np.asarray(batch['reward']), axis=1) > 0).all()
  assert len(batch['tokens'].sharding.device_set) == 2 and 'keep' not in batch
  np.testing.assert_array_equal(batch['log/acceptance'], np.float32([4 / 8] * 4))


def test_one_try_is_enough_where_all_groups_differ():
  batch = rollout(3, {*range(4)})
  assert batch['prompt'][:, 0].tolist() == [0, 1, 2, 3]
  assert batch['log/acceptance'].tolist() == [1] * 4


def test_after_the_last_try_others_fill_what_is_left():
  batch = rollout(2, {13}, number=1)  # the second rollout has prompts 8 to 15
  assert batch['prompt'][:, 0].tolist() == [13, 8, 9, 10]
  np.testing.assert_array_equal(batch['log/acceptance'], np.float32([1 / 8] * 4))


def test_bad_input():
  with pytest.raises(BadInput, match='tries 1; choose a whole number from 2'):
    dynamic_sampling.make(None, None, tries=1)
  with pytest.raises(BadInput, match='the batch has no reward'):
    dynamic_sampling.make(None, None)({}, {'tokens': jnp.zeros((1, 1, 2))}, jax.random.key(0))

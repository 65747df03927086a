"""Which answers count: only those whose reward float32 can hold, whoever wrote it."""

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.annotate import group_advantage, stats


@pytest.mark.parametrize('reward', [np.inf, -np.inf, np.nan, 3e38, -1e19])
def test_a_reward_that_cannot_be_compared_counts_nowhere(reward):
  batch = dict(
    tokens=jnp.zeros((1, 3, 2), jnp.int32),
    mask=jnp.ones((1, 3, 2)),
    reward=jnp.array([[1.0, 3.0, reward]], jnp.float32),
  )
  out = group_advantage.make(None, None, scale='none')({}, batch, None)
  assert np.asarray(out['advantage'][0, :, 0]).tolist() == [-1, 1, 0]
  known = jnp.array([[True, True, True]])
  judged = stats.judged({'mask': batch['mask']}, batch['reward'], known)
  assert judged['valid'].tolist() == [[1, 1, 0]] and judged['reward'].tolist() == [[1, 3, 0]]


def test_rewards_that_overflow_only_together_are_not_known():
  batch = {'reward': jnp.array([[9e17, 1.0]]), 'valid': jnp.ones((1, 2))}
  judged = stats.judged(batch, jnp.array([[9e17, 1.0]]), jnp.array([[True, True]]))
  assert judged['valid'].tolist() == [[0, 1]] and judged['reward'].tolist() == [[0, 2]]

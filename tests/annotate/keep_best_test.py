"""Best of n: which answer stays, with all that belongs to it, and how good the best are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.annotate import keep_best
from llm_jax.types import BadInput


@pytest.fixture
def batch():
  """Four groups of three answers, with prompts as wide as a group, and fields of every shape."""
  draw = np.random.default_rng(0)
  fields = {
    'tokens': draw.integers(0, 9, (4, 3, 5)).astype(np.int32),
    'mask': np.ones((4, 3, 5), np.float32),
    'old_logp': draw.normal(size=(4, 3, 5)).astype(np.float32),
    'teacher_logits': draw.normal(size=(4, 3, 5, 2)).astype(np.float32),
    'reward': np.float32([[0.1, 0.7, 0.7], [3, 1, 2], [0, 9, -1], [5, 5, 5]]),
    'valid': np.float32([[1, 1, 1], [1, 1, 1], [1, 0, 1], [0, 0, 0]]),
    'prompt': draw.integers(0, 9, (4, 3)).astype(np.int32),
    'gold': draw.integers(0, 9, (4, 3)).astype(np.uint8),
    'ptx_tokens': draw.integers(0, 9, (4, 3)).astype(np.int32),
    'label': draw.normal(size=4).astype(np.float32),
    'log/truncated': np.ones(4, np.float32),
  }
  return {k: jnp.asarray(v) for k, v in fields.items()}


def run(batch, **options):
  out = keep_best.make(None, None, **options)({}, batch, jax.random.key(0))
  return {k: np.asarray(v) for k, v in out.items()}


def test_the_best_answer_stays_with_all_that_belongs_to_it(batch):
  out = run(batch)
  best = [1, 0, 0]  # of equals the first; the third group's 9 is not known
  for name in ('tokens', 'old_logp', 'teacher_logits', 'reward', 'mask', 'valid'):
    wanted = np.stack([batch[name][i, j] for i, j in enumerate(best)])
    np.testing.assert_array_equal(out[name][:3, 0], wanted)
    assert out[name].shape == (4, 1, *batch[name].shape[2:]) and out[name].dtype == wanted.dtype
  for name in ('prompt', 'gold', 'ptx_tokens', 'label', 'log/truncated'):
    np.testing.assert_array_equal(out[name], batch[name])
  assert out['reward'][0, 0] == np.float32(0.7)


def test_a_group_without_a_known_score_trains_nothing(batch):
  np.testing.assert_array_equal(run(batch)['mask'][:, 0, 0], [1, 1, 1, 0])


def test_a_minimum(batch):
  out = run(batch, minimum=0.7)
  np.testing.assert_array_equal(out['mask'][:, 0, 0], [1, 1, 0, 0])
  np.testing.assert_allclose(out['log/kept'], [2 / 3] * 4, rtol=1e-6)


def test_logs_by_hand(batch):
  out = run(batch)
  best = np.array([0.7, 3, 0])
  np.testing.assert_allclose(out['log/best_reward'], best.mean(), rtol=1e-6)
  gain = best - [0.5, 2, -0.5]
  np.testing.assert_allclose(out['log/best_gain'], gain.mean(), rtol=1e-6)
  assert (out['log/kept'] == 1).all()


def test_fillers_and_answers_without_a_token_change_nothing(batch):
  more = {k: jnp.concatenate([v, v[:2]]) for k, v in batch.items()}
  more['mask'] = more['mask'].at[4:].set(0).at[1, 0].set(0)
  more['reward'] = more['reward'].at[4:].set(jnp.nan)
  out = run(more)
  assert out['reward'][1, 0] == 2 and not out['mask'][3:].any()
  for name, wanted in (('best_reward', 2.7 / 3), ('best_gain', 1.2 / 3), ('kept', 1)):
    np.testing.assert_allclose(out[f'log/{name}'], wanted, rtol=1e-5)
  assert np.isfinite(out['log/best_reward']).all()


def test_a_batch_without_rewards_is_refused(batch):
  del batch['reward']
  with pytest.raises(BadInput, match='the batch has no reward'):
    run(batch)

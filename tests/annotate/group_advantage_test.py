"""Group advantages: the numbers of other libraries, what must not count, and what is logged.

fixtures/rl_advantages.json holds what TRL 1.16, open-instruct and verl 0.9.1 make of fixed rewards.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.annotate import group_advantage
from llm_jax.types import BadInput

FIXTURES = Path(__file__).parents[1] / 'fixtures'
LOGS = ('zero_variance', 'advantage_mean', 'advantage_std', 'advantage_max')
EVERY = [
  *({'baseline': b, 'scale': s} for b in ('mean', 'leave_one_out') for s in ('group', 'batch')),
  {'baseline': 'optimal', 'scale': 'none', 'single': 'raw'},
  {'baseline': 'none', 'scale': 'none', 'whiten': 'tokens'},
  {'scale': 'none', 'whiten': 'answers'},
]


@pytest.fixture(scope='module')
def theirs():
  return json.loads((FIXTURES / 'rl_advantages.json').read_text())


def batch_of(reward, lengths, width=8, **fields):
  """Answers of given lengths after a prompt of two tokens, padded on the right to `width`."""
  reward = np.asarray(reward, np.float32)
  lengths = np.broadcast_to(lengths, reward.shape)
  mask = (np.arange(width) >= 2) & (np.arange(width) < 2 + lengths[..., None])
  batch = {'tokens': np.ones(mask.shape, np.int32), 'mask': mask.astype(np.float32)}
  return {k: jnp.asarray(v) for k, v in (batch | {'reward': reward} | fields).items()}


@functools.cache
def made(options):
  return group_advantage.make(None, None, **dict(options))


def run(batch, **options):
  out = made(tuple(sorted(options.items())))({}, batch, jax.random.key(0))
  return {k: np.asarray(v) for k, v in out.items()}


def per_answer(out):
  """The one number of each answer, which all its tokens share; nan without a token."""
  mask, advantage = out['mask'] > 0, out['advantage']
  assert advantage.dtype == np.float32 and not advantage[~mask].any()
  first = np.take_along_axis(advantage, mask.argmax(-1)[..., None], -1)
  np.testing.assert_array_equal(np.where(mask, advantage, first), advantage * 0 + first)
  return np.where(mask.any(-1), first[..., 0], np.nan)


@pytest.mark.parametrize(
  ('table', 'preset'),
  [
    ('trl group std ddof=1 eps=1e-4', 'grpo'),
    ('verl/tunix ddof=1 eps=1e-6', 'verl'),
    ("open-instruct 'standard' ddof=0 eps=1e-8", 'open_instruct'),
    ('dr_grpo / centered', 'dr_grpo'),
    ('rloo', 'rloo'),
  ],
)
def test_tables(theirs, table, preset):
  out = run(batch_of(theirs['adv_rewards'], 3), **group_advantage.PRESETS[preset])
  np.testing.assert_allclose(per_answer(out), theirs['adv_tables'][table], atol=1e-5)


@pytest.mark.parametrize(
  ('name', 'preset'),
  [
    ('grpo', 'verl'),
    ('dr_grpo', 'dr_grpo'),
    ('rloo', 'rloo'),
    ('opo', 'opo'),
    ('rf++', 'reinforce_plus_plus'),
    ('rf++_baseline', 'reinforce_plus_plus_baseline'),
  ],
)
def test_verl(theirs, name, preset):
  batch = batch_of([[1, 0, 0, 1], [0, 0, 0, 0]], [[8, 8, 8, 2], [1, 8, 8, 8]], width=10)
  out = run(batch, **group_advantage.PRESETS[preset])
  found = per_answer(out).ravel()
  np.testing.assert_allclose(found, theirs['adv_verl'][name], atol=1e-5)


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('group', {}),
    ('batch', group_advantage.PRESETS['lite_ppo']),
    ('none', {'scale': 'none'}),
  ],
)
def test_a_rollout_of_trl(theirs, name, options):
  table = theirs['adv_rollout'][name]
  out = run(batch_of(np.reshape(table['rewards'], (2, 4)), 3), **options)
  np.testing.assert_allclose(per_answer(out).ravel(), table['adv'], atol=1e-5)


def test_normalised_by_group_and_then_over_answers(theirs):
  rewards = np.reshape(theirs['adv_rollout']['group']['rewards'], (2, 4))
  found = per_answer(run(batch_of(rewards, [1, 2, 3, 4]), whiten='answers'))
  np.testing.assert_allclose(found.ravel(), theirs['adv_rollout']['normalize_then_sum'], atol=1e-4)


def rollout(width=8, **extra):
  reward = [[0.7, -0.2, 0.4], [0.1, 0.1, 0.1], [2.0, 0.5, -1.0], [0.3, 0.9, 0.0]]
  lengths = [[3, 1, 5], [2, 2, 4], [6, 1, 1], [5, 3, 2]]
  return batch_of(reward, lengths, width, **extra)


@pytest.mark.parametrize('options', EVERY)
def test_what_does_not_count_changes_nothing(options):
  """Padding, filler rows, answers without a token and answers without a score."""
  plain = run(rollout(), **options)
  bad = np.full((4, 1), np.nan, np.float32)
  wide = {k: np.asarray(v) for k, v in rollout(width=13).items()}
  wide = {k: np.concatenate([v, v[:, :1]], 1) for k, v in wide.items()}
  wide['reward'][:, 3:] = bad
  wide['valid'] = np.ones((4, 4), np.float32)
  wide['valid'][:2, 3] = 0
  wide['mask'][2:, 3] = 0
  filler = {k: np.zeros_like(v[:2]) for k, v in wide.items()}
  filler['reward'] += 7
  out = run({k: jnp.asarray(np.concatenate([wide[k], filler[k]])) for k in wide}, **options)
  np.testing.assert_allclose(out['advantage'][:4, :3, :8], plain['advantage'], atol=1e-6)
  assert not out['advantage'][4:].any() and not out['advantage'][:, 3].any()
  for name in LOGS:
    assert out[f'log/{name}'].shape == (6,) and out[f'log/{name}'].dtype == np.float32
    np.testing.assert_allclose(out[f'log/{name}'], plain[f'log/{name}'][0], atol=1e-6)


@pytest.mark.parametrize('options', EVERY)
def test_logs_by_hand(options):
  out = run(rollout(width=11), **options)
  advantage = out['advantage'][out['mask'] > 0]
  assert out['log/zero_variance'][0] == 0.25
  np.testing.assert_allclose(out['log/advantage_mean'][0], advantage.mean(), atol=1e-6)
  np.testing.assert_allclose(out['log/advantage_std'][0], advantage.std(), rtol=1e-5)
  np.testing.assert_allclose(out['log/advantage_max'][0], abs(advantage).max(), rtol=1e-6)


def test_equal_rewards_are_exactly_zero():
  reward = np.full((2, 7), 0.1) * [[1], [3]]
  for options in ({'eps': 1e-12}, {'baseline': 'leave_one_out'}, {'baseline': 'optimal'}):
    out = run(batch_of(reward, [1, 2, 3, 4, 5, 6, 6]), **options)
    assert not out['advantage'].any() and out['log/zero_variance'][0] == 1


def test_a_group_of_one():
  reward, lengths = [[0.7, 5.0], [1.0, 0.0]], [[3, 0], [2, 2]]
  for options in ({}, {'baseline': 'leave_one_out'}, {'baseline': 'optimal', 'scale': 'none'}):
    zero = per_answer(run(batch_of(reward, lengths), **options))
    raw = per_answer(run(batch_of(reward, lengths), single='raw', **options))
    assert zero[0, 0] == 0 and raw[0, 0] == np.float32(0.7)
    np.testing.assert_array_equal(zero[1], raw[1])
  # Without a baseline nothing is compared, so there is nothing to decide.
  alone = run(batch_of([[0.7], [0.2]], 2), baseline='none', scale='none')
  np.testing.assert_array_equal(per_answer(alone)[:, 0], np.float32([0.7, 0.2]))


def test_rewards_stay_float32():
  batch = rollout()
  batch['mask'] = batch['mask'].astype(jnp.bfloat16)
  out = run(batch, baseline='none', scale='none')
  assert (out['advantage'][0, 0, 2:5] == np.float32(0.7)).all()


def test_nothing_counts():
  batch = rollout()
  for silent in ({'valid': jnp.zeros((4, 3))}, {'mask': jnp.zeros_like(batch['mask'])}):
    for options in EVERY:
      out = run(batch | silent, **options)
      assert not out['advantage'].any()
      assert not any(out[f'log/{name}'].any() for name in LOGS)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'baseline': 'median'}, "baseline 'median'; did you mean 'mean'"),
    ({'scale': 'none', 'ddof': 0}, "ddof is not used with scale 'none'; remove it"),
    ({'scale': 'none', 'eps': 1e-6}, "eps is not used with scale 'none'"),
    ({'whiten_eps': 1e-6}, "whiten_eps is not used with whiten 'none'"),
    ({'whiten': 'answers', 'whiten_ddof': 0}, "whiten_ddof is not used with whiten 'answers'"),
    ({'baseline': 'none', 'scale': 'batch', 'single': 'raw'}, 'single is not used with baseline'),
    ({'baseline': 'none'}, "scale 'group' needs a baseline of the group"),
    ({'eps': 0.0}, r'eps 0\.0; choose a number above 0'),
    ({'single': 'one'}, "single 'one'; "),
  ],
)
def test_bad_input(options, message):
  with pytest.raises(BadInput, match=message):
    group_advantage.make(None, None, **options)


def test_a_batch_without_rewards_is_refused():
  batch = rollout()
  del batch['reward']
  with pytest.raises(BadInput, match='the batch has no reward'):
    run(batch)


@pytest.mark.parametrize('preset', group_advantage.PRESETS)
def test_every_preset_can_be_made(preset):
  group_advantage.make(None, None, **group_advantage.PRESETS[preset])

"""Advantages against TRL's and verl's, against sums written out, and what must not count."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.annotate import gae
from llm_jax.types import BadInput

FIXTURES = Path(__file__).parents[1] / 'fixtures'


class Critic:
  """A model whose values are looked up: `table` [rows, L], what stands at each position."""

  shape = SimpleNamespace(causal=True)

  def apply(self, params, *place, method):
    assert method == 'value'
    return params['table']


@pytest.fixture(scope='module')
def theirs():
  with np.load(FIXTURES / 'rl_advantages.npz') as file:
    return dict(file)


def with_prompt(x):
  """[rows, L] of answers as [rows, 1, 1 + L], after a prompt of one token."""
  return np.pad(np.asarray(x, np.float32), ((0, 0), (1, 0)))[:, None]


def batch_of(reward, mask, value_mask=None):
  batch = {'token_reward': with_prompt(reward), 'mask': with_prompt(mask)}
  if value_mask is not None:
    batch['value_mask'] = with_prompt(value_mask)
  tokens = np.ones(batch['mask'].shape, np.int32)
  batch |= {'tokens': tokens, 'segment': tokens, 'position': tokens.cumsum(-1) - 1}
  return {k: jnp.asarray(v) for k, v in batch.items()}


def run(batch, value=None, **options):
  """`value` [rows, L] is about the tokens of the answer, so it stands one position before each."""
  table = None if value is None else np.pad(value, ((0, 0), (0, 1))).astype(np.float32)
  annotate = gae.make(Critic(), None, critic=value is not None, **options)
  out = annotate({'table': table}, batch, jax.random.key(0))
  return {k: np.asarray(v) for k, v in out.items()}


def written_out(reward, value, mask, gamma, lam):
  """A_t = sum of (gamma lam)^k delta_{t + k} over the steps of each row, one by one."""
  out = np.zeros_like(reward)
  for r, v, m, a in zip(reward, value, mask, out):
    steps = np.flatnonzero(m)
    v = np.append(v[steps], 0)
    delta = r[steps] + gamma * v[1:] - v[:-1]
    for i, step in enumerate(steps):
      a[step] = sum((gamma * lam) ** k * d for k, d in enumerate(delta[i:]))
  return out


@pytest.mark.parametrize('name', ['k1_wr0', 'k1_wr1', 'k3_wr0', 'k3_wr1'])
def test_trl(theirs, name):
  mask, steps = ~theirs['adv_trl_padding_mask'], ~theirs['adv_trl_padding_mask_p1']
  batch = batch_of(theirs[f'adv_trl_{name}_rewards'], mask, steps)
  out = run(batch, theirs['adv_trl_values'])
  wanted = np.where(mask, theirs[f'adv_trl_{name}_advantages_whitened'], 0)
  np.testing.assert_allclose(out['advantage'][:, 0, 1:], wanted, atol=1e-4)
  np.testing.assert_allclose(out['return'][:, 0, 1:], theirs[f'adv_trl_{name}_returns'], atol=1e-4)
  np.testing.assert_array_equal(
    out['value'][:, 0, 1:], np.where(steps, theirs['adv_trl_values'], 0)
  )


def test_verl(theirs):
  mask = theirs['adv_verl_mask']
  out = run(batch_of(theirs['adv_verl_rewards'], mask), theirs['adv_verl_values'])
  wanted = theirs['adv_verl_advantages'] * mask
  np.testing.assert_allclose(out['advantage'][:, 0, 1:], wanted, atol=1e-5)
  np.testing.assert_allclose(out['return'][:, 0, 1:], theirs['adv_verl_returns'], atol=1e-5)


@pytest.fixture(scope='module')
def gaps():
  """Rewards, values and a mask with gaps, where what a tool wrote must not matter."""
  draw = np.random.default_rng(0)
  mask = np.ones((4, 7))
  mask[0, 2:4] = mask[1, 5:] = mask[2, 1] = mask[2, 4] = 0
  reward, value = draw.normal(size=(2, 4, 7))
  return reward * mask, value, mask


@pytest.mark.parametrize(('gamma', 'lam'), [(1.0, 0.95), (0.9, 0.7), (1.0, 0.0), (0.97, 1.0)])
def test_sums_written_out_and_gaps_skipped(gaps, gamma, lam):
  reward, value, mask = gaps
  out = run(batch_of(reward, mask), value, gamma=gamma, lam=lam, whiten=False)
  wanted = written_out(reward, value, mask, gamma, lam)
  np.testing.assert_allclose(out['advantage'][:, 0, 1:], wanted, atol=1e-5)
  np.testing.assert_allclose(out['return'][:, 0, 1:], wanted + value * mask, atol=1e-5)


def test_logs_by_hand(gaps):
  reward, value, mask = gaps
  out = run(batch_of(reward, mask), value, whiten_ddof=0)
  log = lambda name: out[f'log/{name}'][0]
  returns, values = out['return'][:, 0, 1:][mask > 0], value[mask > 0]
  np.testing.assert_allclose(log('return_mean'), returns.mean(), rtol=1e-4)
  np.testing.assert_allclose(log('value_mean'), values.mean(), rtol=1e-4)
  explained = 1 - (returns - values).var() / returns.var()
  np.testing.assert_allclose(log('explained_variance'), explained, rtol=1e-4)
  advantage = out['advantage'][out['mask'] > 0]
  np.testing.assert_allclose(log('advantage_mean'), 0, atol=1e-6)
  np.testing.assert_allclose(log('advantage_std'), 1, rtol=1e-5)
  np.testing.assert_allclose(log('advantage_max'), abs(advantage).max(), rtol=1e-6)
  assert all(v.shape == (4,) and v.dtype == np.float32 for k, v in out.items() if 'log/' in k)


def test_a_critic_that_knows_the_return_explains_it_all(gaps):
  reward, _, mask = gaps
  to_go = (reward[:, ::-1].cumsum(1)[:, ::-1]).astype(np.float32)
  out = run(batch_of(reward, mask), to_go, whiten=False)
  np.testing.assert_allclose(out['log/explained_variance'], 1, atol=1e-5)
  np.testing.assert_allclose(out['advantage'], 0, atol=1e-5)
  # Where nothing varies there is nothing to explain.
  still = run(batch_of(reward * 0, mask), np.zeros((4, 7)))
  assert not still['log/explained_variance'].any()


def test_without_a_critic_the_return_is_the_reward_to_go(gaps):
  reward, _, mask = gaps
  out = run(batch_of(reward, mask), whiten=False)
  to_go = reward[:, ::-1].cumsum(1)[:, ::-1] * mask
  np.testing.assert_allclose(out['advantage'][:, 0, 1:], to_go, atol=1e-5)
  np.testing.assert_array_equal(out['advantage'], out['return'])
  assert not {'value', 'log/value_mean', 'log/explained_variance'} & set(out)


def test_reinforce_plus_plus():
  """verl's numbers: the score of an answer at its end, whitened over tokens."""
  mask = np.arange(8) < np.array([8, 8, 8, 2, 1, 8, 8, 8])[:, None]
  reward = np.zeros((8, 8))
  reward[0, 7] = reward[3, 1] = 1
  out = run(batch_of(reward, mask))
  first, other = 2.0048961639404297, -0.48899903893470764
  wanted = np.where(mask, np.array([first, *[other] * 2, first, *[other] * 4])[:, None], 0)
  np.testing.assert_allclose(out['advantage'][:, 0, 1:], wanted, atol=1e-5)


def test_padding_fillers_and_unknown_scores_change_nothing(gaps):
  reward, value, mask = gaps
  plain = run(batch_of(reward, mask), value)
  grow = lambda x, fill=0: np.pad(x, ((0, 3), (2, 4)), constant_values=fill)
  wide_mask = grow(mask)
  wide_mask[4, 3:6] = 1
  batch = batch_of(grow(reward, 9), wide_mask)
  batch['valid'] = jnp.asarray([[1]] * 4 + [[0]] + [[1]] * 2, jnp.float32)
  out = run(batch, grow(value, 5))
  for name in ('advantage', 'return', 'value'):
    np.testing.assert_allclose(out[name][:4, :, 3:-4], plain[name][..., 1:], atol=1e-5)
    assert not out[name][4:].any() and not out[name][:4][out['mask'][:4] == 0].any()
  for name in plain:
    if name.startswith('log/'):
      np.testing.assert_allclose(out[name], plain[name][0], atol=1e-5)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'critic': False, 'lam': 0.95}, r'lam 0\.95 needs a critic; without one set lam=1'),
    ({'lam': 1.5}, r'lam 1\.5; choose a number from 0 to 1'),
    ({'gamma': -0.1}, r'gamma -0\.1; choose'),
    ({'whiten': False, 'whiten_eps': 1e-6}, 'whiten_eps is not used without whiten; remove it'),
  ],
)
def test_bad_input(options, message):
  with pytest.raises(BadInput, match=message):
    gae.make(Critic(), None, **options)


def test_a_batch_without_token_rewards_is_refused(gaps):
  batch = batch_of(gaps[0], gaps[2])
  del batch['token_reward']
  with pytest.raises(BadInput, match='the batch has no token_reward'):
    run(batch)


@pytest.mark.parametrize('preset', gae.PRESETS)
def test_every_preset_can_be_made(preset):
  gae.make(Critic(), None, **gae.PRESETS[preset])

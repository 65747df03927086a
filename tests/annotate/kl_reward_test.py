"""Token rewards against TRL's and verl's, an exact zero, and a coefficient that finds its target.

fixtures/rl_advantages.npz holds one update of TRL 1.9.2's PPO, and verl 0.9.1 on the same arrays.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.annotate import kl_reward
from llm_jax.types import BadInput

FIXTURES = Path(__file__).parents[1] / 'fixtures'


@pytest.fixture(scope='module')
def theirs():
  with np.load(FIXTURES / 'rl_advantages.npz') as file:
    return dict(file)


def with_prompt(x, fill=0):
  """[rows, L] of answers as [rows, 1, 1 + L], after a prompt of one token."""
  return jnp.asarray(np.pad(x, ((0, 0), (1, 0)), constant_values=fill)[:, None])


@pytest.fixture(scope='module')
def batch(theirs):
  mask = (~theirs['adv_trl_padding_mask']).astype(np.float32)
  return {
    'tokens': with_prompt(mask.astype(np.int32)),
    'mask': with_prompt(mask),
    'old_logp': with_prompt(theirs['adv_trl_logprobs'], 5),
    'ref_logp': with_prompt(theirs['adv_trl_ref_logprobs'], 9),
    'reward': jnp.asarray(theirs['adv_trl_scores'])[:, None],
  }


def run(batch, annotate=None, **options):
  annotate = annotate or kl_reward.make(None, None, **options)
  return {k: np.asarray(v) for k, v in annotate({}, batch, jax.random.key(0)).items()}


@pytest.mark.parametrize('estimator', ['k1', 'k3'])
@pytest.mark.parametrize('whiten', [False, True])
def test_trl(theirs, batch, estimator, whiten):
  out = run(batch, estimator=estimator, whiten=whiten, score_position='after')
  wanted = theirs[f'adv_trl_{estimator}_wr{whiten:d}_rewards']
  np.testing.assert_allclose(out['token_reward'][:, 0, 1:], wanted, atol=1e-4)
  np.testing.assert_array_equal(out['value_mask'][:, 0, 1:], ~theirs['adv_trl_padding_mask_p1'])


def test_verl(theirs, batch):
  out = run(batch)
  np.testing.assert_allclose(out['token_reward'][:, 0, 1:], theirs['adv_verl_rewards'], atol=1e-5)
  assert 'value_mask' not in out


def test_padding_fillers_and_unknown_scores_change_nothing(batch):
  options = dict(whiten=True, score_position='after')
  # Those that end early: a full row has no room for a later step, and would get it from padding.
  short = {k: v[3:5] for k, v in batch.items()}
  plain = run(short, **options)
  grow = lambda x: np.pad(x, ((0, 0), (0, 0), (4, 2))) if x.ndim == 3 else np.asarray(x)
  more = {k: np.concatenate([grow(v), grow(v)[:1], grow(v)[:1]]) for k, v in short.items()}
  more['valid'] = np.array([[1], [1], [0], [1]], np.float32)
  more['reward'][2:] = np.nan
  more['mask'][3] = 0
  more['old_logp'][2] = np.inf
  out = run({k: jnp.asarray(v) for k, v in more.items()}, **options)
  for name in ('token_reward', 'value_mask'):
    np.testing.assert_allclose(out[name][:2, :, 4:-2], plain[name], atol=1e-6)
    assert not out[name][2:].any()
  for name in ('answer_kl', 'answer_kl_k3', 'kl_coefficient'):
    np.testing.assert_allclose(out[f'log/{name}'], plain[f'log/{name}'][0], rtol=1e-6)


def test_the_same_model_is_exactly_no_penalty(batch):
  same = batch | {'ref_logp': batch['old_logp'], 'reward': jnp.full((8, 1), 0.7)}
  for estimator in ('k1', 'k2', 'k3'):
    out = run(same, estimator=estimator, coefficient=0.3)
    assert (out['log/answer_kl'] == 0).all() and (out['log/answer_kl_k3'] == 0).all()
    # The score arrives as it was, in float32.
    assert out['token_reward'].dtype == np.float32
    assert set(np.unique(out['token_reward'])) == {np.float32(0), np.float32(0.7)}
    assert (out['token_reward'] > 0).sum() == 8


@pytest.mark.parametrize('estimator', ['k1', 'k2', 'k3'])
def test_penalty_and_logs_by_hand(batch, estimator):
  out = run(batch, estimator=estimator, coefficient=0.2, clamp=3.0)
  mask = np.asarray(batch['mask']) > 0
  d = np.where(mask, np.asarray(batch['old_logp']) - np.asarray(batch['ref_logp']), 0)
  estimates = {'k1': d, 'k2': d**2 / 2, 'k3': np.exp(-d) - 1 + d}
  wanted = -0.2 * np.clip(estimates[estimator], -3, 3)
  last = mask[:, 0].sum(-1)  # one token of prompt comes before the answer
  wanted[np.arange(8), 0, last] += np.asarray(batch['reward'])[:, 0]
  np.testing.assert_allclose(out['token_reward'], wanted, atol=1e-5)
  np.testing.assert_allclose(out['log/answer_kl'], d.sum((1, 2)).mean(), rtol=1e-5)
  np.testing.assert_allclose(out['log/answer_kl_k3'], estimates['k3'].sum((1, 2)).mean(), rtol=1e-5)
  np.testing.assert_array_equal(out['log/kl_coefficient'], np.float32(0.2))


def test_what_a_tool_wrote_is_no_step(batch):
  """The step after the answer is after its last sampled token, wherever gaps are."""
  mask = np.zeros((1, 1, 9), np.float32)
  mask[..., [1, 2, 5, 6]] = 1
  one = {k: v[:1] for k, v in batch.items()} | {'mask': jnp.asarray(mask)}
  reward = run(one, coefficient=0.0)['token_reward'][0, 0]
  assert reward.nonzero()[0].tolist() == [6]
  after = run(one, coefficient=0.0, score_position='after')
  assert after['token_reward'][0, 0].nonzero()[0].tolist() == [7]
  assert after['value_mask'][0, 0].nonzero()[0].tolist() == [1, 2, 5, 6, 7]


def test_the_coefficient_is_steered_by_what_is_observed(batch):
  annotate = kl_reward.make(None, None, coefficient=0.1, target=6.0, horizon=100)
  out = annotate({}, batch, jax.random.key(0))
  run(batch, annotate)  # an evaluation, which must not steer
  assert annotate.carry() == {'coefficient': 0.1}
  annotate.observe(out)  # kl is above twice the target, so the error is cut
  assert annotate.carry()['coefficient'] == pytest.approx(0.1 * (1 + 0.2 * 8 / 100), rel=1e-12)
  assert run(batch, annotate)['log/kl_coefficient'][0] == np.float32(0.1 * (1 + 0.2 * 8 / 100))
  near = {**out, 'log/answer_kl': jnp.full(8, 5.4), 'valid': jnp.asarray([[1]] * 6 + [[0]] * 2)}
  before = annotate.carry()['coefficient']
  annotate.observe(near)
  assert annotate.carry()['coefficient'] == pytest.approx(before * (1 - 0.1 * 6 / 100), rel=1e-6)


def test_a_resumed_run_goes_on_exactly(batch):
  options = dict(coefficient=0.1, target=6.0, horizon=100)
  first, second = (kl_reward.make(None, None, **options) for _ in range(2))
  for _ in range(3):
    first.observe(first({}, batch, jax.random.key(0)))
  second.restore(json.loads(json.dumps(first.carry())))
  assert second.carry() == first.carry()
  one, other = run(batch, first), run(batch, second)
  np.testing.assert_array_equal(one['token_reward'], other['token_reward'])


def test_without_a_target_nothing_moves(batch):
  annotate = kl_reward.make(None, None, coefficient=0.1)
  annotate.observe(annotate({}, batch, jax.random.key(0)))
  assert annotate.carry() == {'coefficient': 0.1}


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'estimator': 'k4'}, "estimator 'k4'; choose from: k1, k2, k3"),
    ({'score_position': 'first'}, "score_position 'first'; choose from: last, after"),
    ({'horizon': 100}, 'horizon is not used without target; remove it'),
    ({'whiten_eps': 1e-4}, 'whiten_eps is not used without whiten; remove it'),
    ({'clamp': 0.0}, r'clamp 0\.0; choose a number above 0'),
    ({'coefficient': -1.0}, 'coefficient -1'),
  ],
)
def test_bad_input(options, message):
  with pytest.raises(BadInput, match=message):
    kl_reward.make(None, None, **options)


@pytest.mark.parametrize('field', ['ref_logp', 'old_logp'])
def test_a_batch_that_lacks_a_field_is_refused(batch, field):
  with pytest.raises(BadInput, match=f'the batch has no {field}'):
    run({k: v for k, v in batch.items() if k != field})


@pytest.mark.parametrize('preset', kl_reward.PRESETS)
def test_every_preset_can_be_made(preset):
  kl_reward.make(None, None, **kl_reward.PRESETS[preset])

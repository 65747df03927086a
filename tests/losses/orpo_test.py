"""ORPO against TRL's numbers, its stable logarithm, and the spans of its SFT term."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses import orpo
from llm_jax.types import BadInput


@pytest.mark.parametrize(
  ('options', 'nll', 'total'),
  [
    (orpo.PRESETS['trl'], 'orpo_trl_nll_full', 'orpo_trl_total'),
    (dict(nll_average='token'), 'orpo_nll_resp', 'orpo_resp_total'),
  ],
  ids=['all', 'answer'],
)
def test_their_numbers(evaluate, theirs, options, nll, total):
  mean, metrics = evaluate(orpo.loss_fn, **options)
  assert mean.count == 3
  assert mean.value == pytest.approx(theirs['offline'][total], rel=1e-4)
  assert metrics['nll'].value == pytest.approx(theirs['offline'][nll], rel=1e-4)
  odds = (float(mean.value) - float(metrics['nll'].value)) / 0.1
  assert odds == pytest.approx(theirs['offline']['orpo_or_term'], rel=1e-4)


def test_by_hand(evaluate, preferences, fixture_arrays):
  mean, metrics = evaluate(orpo.loss_fn, beta=0.5)
  length = np.asarray(preferences.batch['mask'].sum(-1)).T
  logp = fixture_arrays['policy_logps'].reshape(2, 3).astype(float) / length
  odds = np.log(np.exp(logp) / (1 - np.exp(logp)))
  gap = odds[0] - odds[1]
  assert mean.value == pytest.approx((-logp[0] + 0.5 * np.log1p(np.exp(-gap))).mean(), rel=1e-4)
  assert metrics['log_odds_ratio'].value == pytest.approx(gap.mean(), rel=1e-4)
  assert metrics['chosen_reward'].value == pytest.approx(0.5 * logp[0].mean(), rel=1e-4)
  assert metrics['accuracy'].value == pytest.approx((gap > 0).mean())
  assert 'kl' not in metrics


def test_the_whole_row_is_all_but_its_first_token(evaluate, preferences):
  batch, logp = preferences.batch, preferences.logp(preferences.params, preferences.batch)
  span = np.asarray((batch['position'] > 0) & (batch['segment'] > 0))[:, 0]
  wanted = -(np.asarray(logp)[:, 0] * span).sum(-1) / span.sum(-1)
  _, metrics = evaluate(orpo.loss_fn, nll_span='all')
  assert metrics['nll'].value == pytest.approx(wanted.mean(), rel=1e-5)


def test_log1mexp():
  x = np.array([-1e-30, -1e-7, -0.01, -0.5, -0.6931, -0.6932, -2.0, -30.0, -200.0])
  with np.errstate(divide='ignore'):
    wanted = np.where(x > -0.5, np.log(-np.expm1(x)), np.log1p(-np.exp(x)))
  found = jax.jit(orpo.log1mexp)(jnp.float32(x))
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-30)
  slope = jax.jit(jax.vmap(jax.grad(orpo.log1mexp)))(jnp.float32(x))
  np.testing.assert_allclose(slope, -np.exp(x) / -np.expm1(x), rtol=1e-4, atol=1e-30)
  assert np.isfinite(orpo.log1mexp(jnp.zeros(()))) and np.isfinite(jax.grad(orpo.log1mexp)(0.0))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(beta=-1.0), 'beta -1.0'),
    (dict(nll_span='answers'), "did you mean 'answer'"),
    (dict(nll_average='row'), 'choose from: sequence, token'),
  ],
)
def test_what_cannot_be(check, options, message):
  with pytest.raises(BadInput, match=message):
    check(orpo.loss_fn, **options)

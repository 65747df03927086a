"""SimPO, CPO and AlphaPO against TRL's numbers, and the two ways to say gamma."""

import numpy as np
import pytest

from llm_jax.losses import simpo
from llm_jax.types import BadInput

GOLDEN = {
  'simpo b=2 g=1': dict(beta=2.0, gamma=1.0),
  'cpo_sigmoid': dict(kind='cpo', beta=0.1),
  'cpo_hinge': dict(kind='cpo_hinge', beta=0.1),
  'cpo_ipo': dict(kind='cpo_ipo', beta=0.1),
  'alphapo .25': dict(beta=2.0, gamma=1.0, alpha=0.25),
}
OPTIONS = {
  'simpo': dict(beta=0.3, gamma=0.3, gamma_beta_ratio=0.3, alpha=0.2, label_smoothing=0.2),
  'cpo': dict(beta=0.3, label_smoothing=0.2),
  'cpo_hinge': dict(beta=0.3),
  'cpo_ipo': dict(beta=0.3),
}


@pytest.mark.parametrize('name', GOLDEN)
def test_their_numbers(evaluate, theirs, name):
  mean, _ = evaluate(simpo.loss_fn, **GOLDEN[name])
  assert mean.count == 3
  assert mean.value == pytest.approx(theirs['offline'][name], rel=1e-4)


@pytest.mark.parametrize('option', OPTIONS['simpo'])
@pytest.mark.parametrize('kind', simpo.KINDS)
def test_an_option_is_used_or_refused(check, evaluate, kind, option):
  given = {option: OPTIONS['simpo'][option]}
  if option not in OPTIONS[kind]:
    with pytest.raises(BadInput, match=f"kind '{kind}' does not use {option}"):
      check(simpo.loss_fn, kind=kind, **given)
    return
  plain, changed = (evaluate(simpo.loss_fn, kind=kind, **options)[0] for options in ({}, given))
  assert np.isfinite(changed.value) and changed.value != plain.value


def test_gamma_after_beta_or_before(evaluate):
  value = lambda **options: float(evaluate(simpo.loss_fn, **options)[0].value)
  assert value(beta=2.5, gamma_beta_ratio=0.3) == pytest.approx(value(beta=2.5, gamma=0.75))
  assert value(gamma=1.0) == pytest.approx(value())


def test_alpha_goes_to_the_logarithm(evaluate):
  value = lambda **options: float(evaluate(simpo.loss_fn, **options)[0].value)
  assert value(alpha=1e-4) == pytest.approx(value(), rel=1e-3)
  assert value(alpha=0.0) == value()


def test_by_hand(evaluate, preferences, fixture_arrays):
  length = np.asarray(preferences.batch['mask'].sum(-1)).T
  mean_logp = fixture_arrays['policy_logps'].reshape(2, 3) / length
  gap = 3 * (mean_logp[0] - mean_logp[1])
  mean, metrics = evaluate(simpo.loss_fn, beta=3.0, gamma=0.5, nll_weight=0.4)
  wanted = np.log1p(np.exp(-(gap - 0.5))) - 0.4 * mean_logp[0]
  assert mean.value == pytest.approx(wanted.mean(), rel=1e-5)
  assert metrics['margin'].value == pytest.approx(gap.mean(), rel=1e-5)
  assert metrics['accuracy'].value == pytest.approx((gap > 0).mean())
  assert metrics['chosen_reward'].value == pytest.approx(3 * mean_logp[0].mean(), rel=1e-5)
  assert 'kl' not in metrics


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(kind='simp'), "did you mean 'simpo'"),
    (dict(gamma=1.0, gamma_beta_ratio=0.5), 'keep one'),
    (dict(beta=-1.0), 'beta -1.0'),
    (dict(label_smoothing=0.7), 'label_smoothing 0.7'),
    (dict(nll_average='token'), 'without nll_weight'),
  ],
)
def test_what_does_not_go_together(check, options, message):
  with pytest.raises(BadInput, match=message):
    check(simpo.loss_fn, **options)

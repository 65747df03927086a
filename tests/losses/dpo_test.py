"""The DPO family against TRL's numbers, its gradients, and what its options refuse."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from llm_jax.losses import dpo
from llm_jax.options import options_of
from llm_jax.types import BadInput

GOLDEN = {
  **{
    f'{kind}|beta=0.1|eps=0.0': dict(kind=kind, beta=0.1)
    for kind in (
      *('sigmoid', 'sigmoid_norm', 'hinge', 'ipo', 'nca_pair', 'bco_pair', 'sppo_hard'),
      *('apo_zero', 'apo_down', 'discopop'),
    )
  },
  **{
    f'{kind}|beta=0.1|eps=0.1': dict(kind=kind, label_smoothing=0.1)
    for kind in ('exo_pair', 'robust', 'aot', 'aot_unpaired')
  },
  'cdpo_closed_form|eps=0.1': dict(kind='sigmoid', label_smoothing=0.1),
  'sft|beta=0.1|eps=0.0': dict(kind='sft'),
  'sigmoid|f=forward_kl': dict(f_divergence='forward_kl'),
  'sigmoid|f=js_divergence': dict(f_divergence='js'),
  'sigmoid|f=alpha_divergence': dict(f_divergence='alpha', alpha=0.5),
  'ipo|f=forward_kl': dict(kind='ipo', f_divergence='forward_kl'),
  'ipo|f=js_divergence': dict(kind='ipo', f_divergence='js'),
  'ipo|f=alpha_divergence': dict(kind='ipo', f_divergence='alpha'),
  'sigmoid|ld_alpha=0.5': dict(ld_alpha=0.5),
  'wpo|sigmoid': dict(wpo=True),
}

# Which options each kind uses, and a value for each.
COMMON = dict(beta=0.3, reference_free=True, ld_alpha=0.5, nll_weight=0.5)
THROUGH_H = COMMON | dict(wpo=True, f_divergence='js')
OPTIONS = {
  'sigmoid': THROUGH_H | dict(label_smoothing=0.2),
  'sigmoid_norm': THROUGH_H,
  'hinge': THROUGH_H,
  'ipo': THROUGH_H | dict(average='sum'),
  'exo_pair': THROUGH_H | dict(label_smoothing=0.2),
  'nca_pair': COMMON | dict(wpo=True),
  'robust': THROUGH_H | dict(label_smoothing=0.2),
  'bco_pair': COMMON | dict(wpo=True, shift='mean'),
  'sppo_hard': COMMON | dict(wpo=True),
  'aot': COMMON | dict(label_smoothing=0.2),
  'aot_unpaired': COMMON | dict(label_smoothing=0.2),
  'apo_zero': COMMON | dict(wpo=True),
  'apo_down': COMMON | dict(wpo=True),
  'discopop': THROUGH_H | dict(tau=0.2),
  'sft': {},
}
EVERY = {name: value for options in OPTIONS.values() for name, value in options.items()}


def pairs_of(h, lengths=(4.0, 4.0), dtype=jnp.float32):
  """Pairs whose log-ratios differ by `h`."""
  h = jnp.asarray(h, dtype)
  ratio = jnp.stack([h / 2, -h / 2])
  length = jnp.broadcast_to(jnp.array(lengths, dtype)[:, None], ratio.shape)
  return dpo.Pairs(ratio, jnp.zeros_like(ratio), ratio, length, h == h)


def test_every_number_of_the_fixture_is_tested(theirs):
  assert GOLDEN.keys() == theirs['dpo'].keys() - {'grad_norm_sigmoid'}
  assert OPTIONS.keys() == dpo.KINDS.keys()


@pytest.mark.parametrize('name', GOLDEN)
def test_their_numbers(evaluate, theirs, name):
  mean, _ = evaluate(dpo.loss_fn, **GOLDEN[name])
  assert mean.value == pytest.approx(theirs['dpo'][name], rel=1e-4)


def test_their_log_probabilities_and_gradient(preferences, fixture_arrays, theirs):
  pairs = preferences
  z = {k: fixture_arrays[k].reshape(2, 3).T for k in ('policy_logps', 'ref_logps')}
  target = np.asarray(pairs.batch['mask'])
  np.testing.assert_allclose((pairs.batch['ref_logp'] * target).sum(-1), z['ref_logps'], rtol=1e-5)
  logp = pairs.logp(pairs.params, pairs.batch)
  np.testing.assert_allclose((logp * target).sum(-1), z['policy_logps'], rtol=1e-5)
  value = lambda params: dpo.loss_fn(params, pairs.batch, None, model=pairs.model)[0].value
  grads = jax.jit(jax.grad(value))(pairs.params)
  found = float(optax.global_norm(grads))
  assert found == pytest.approx(theirs['dpo']['grad_norm_sigmoid'], rel=1e-4)
  kernel = grads['head']['kernel'].T
  np.testing.assert_allclose(kernel, fixture_arrays['grad_lm_head'], atol=1e-6)


def test_openrlhf(theirs):
  pairs = pairs_of([2.0, 0.0])  # what their number was made from
  loss = dpo.sigmoid(pairs, beta=0.1, label_smoothing=0.1).mean()
  assert loss == pytest.approx(theirs['openrlhf']['cdpo'], rel=1e-5)
  options = {k: v for k, v in dpo.PRESETS['openrlhf_ipo'].items() if k != 'kind'}
  loss = dpo.ipo(pairs, **options).mean()
  assert loss == pytest.approx(theirs['openrlhf']['ipo_sum'], rel=1e-5)


def test_one_pair_by_hand():
  log_sigmoid = lambda x: -math.log1p(math.exp(-x))
  for h in (-3.0, 0.5, 4.0):
    pair = pairs_of([h], lengths=(2.0, 4.0))
    assert dpo.sigmoid(pair, beta=0.2)[0] == pytest.approx(-log_sigmoid(0.2 * h), rel=1e-5)
    norm = h / 2 / 2 + h / 2 / 4
    assert dpo.sigmoid_norm(pair, beta=2.0)[0] == pytest.approx(-log_sigmoid(2 * norm), rel=1e-5)
    assert dpo.ipo(pair, beta=0.2)[0] == pytest.approx((norm - 2.5) ** 2, rel=1e-5)
    assert dpo.ipo(pair, beta=0.2, average='sum')[0] == pytest.approx((h - 2.5) ** 2, rel=1e-5)


@pytest.mark.parametrize('kind', dpo.KINDS)
def test_gradients_of_the_kinds(kind):
  draw = np.random.default_rng(0)
  with jax.enable_x64(True):
    values = jnp.asarray(draw.normal(size=(3, 2, 5)))
    length, real = jnp.array([3.0, 5.0, 2.0, 4.0, 6.0]), jnp.arange(5) < 4

    def loss(values):
      pairs = dpo.Pairs(*values, jnp.stack([length, length[::-1]]), real)
      return jnp.where(real, dpo.KINDS[kind](pairs), 0).sum()

    # To the references too; the shift of bco_pair has no gradient and is left out.
    check_grads(loss, (values,), order=1, modes=['rev'], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('option', EVERY)
@pytest.mark.parametrize('kind', dpo.KINDS)
def test_an_option_is_used_or_refused(check, evaluate, kind, option):
  given = {option: OPTIONS[kind].get(option, EVERY[option])}
  if option not in OPTIONS[kind]:
    with pytest.raises(BadInput, match=f"kind '{kind}' does not use {option}"):
      check(dpo.loss_fn, kind=kind, **given)
    return
  plain, changed = (evaluate(dpo.loss_fn, kind=kind, **given) for given in ({}, given))
  assert np.isfinite(changed[0].value)
  assert changed[0].value != plain[0].value


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(kind='simoid'), "kind 'simoid'; did you mean 'sigmoid'"),
    (dict(beta=0.0), 'beta 0.0; choose a number above 0'),
    (dict(label_smoothing=0.6), 'label_smoothing 0.6'),
    (dict(kind='robust', label_smoothing=0.5), 'choose a number from 0, below 0.5'),
    (dict(kind='exo_pair', label_smoothing=0.0), 'choose a number above 0, up to 0.5'),
    (dict(kind='ipo', average='means'), "did you mean 'mean'"),
    (dict(f_divergence='chi'), 'choose from: reverse_kl'),
    (dict(alpha=0.5), 'alpha is not used'),
    (dict(f_divergence='alpha', alpha=1.0), 'reverse KL'),
    (dict(ld_alpha=1.5), 'ld_alpha 1.5'),
    (dict(nll_average='token'), 'without nll_weight'),
    (dict(nll_weight=1.0, nll_average='tokens'), "did you mean 'token'"),
  ],
)
def test_what_does_not_go_together(check, options, message):
  with pytest.raises(BadInput, match=message):
    check(dpo.loss_fn, **options)


def test_a_batch_that_is_not_pairs(evaluate, preferences):
  without = {k: v for k, v in preferences.batch.items() if k != 'ref_logp'}
  with pytest.raises(BadInput, match='the batch has no ref_logp'):
    evaluate(dpo.loss_fn, without)
  evaluate(dpo.loss_fn, without, reference_free=True)
  with pytest.raises(BadInput, match=r'\(3, 1, 13\); pairs are'):
    evaluate(dpo.loss_fn, {k: v[:, :1] for k, v in preferences.batch.items()})


def test_limits_of_the_options(evaluate, fixture_arrays):
  value = lambda **options: float(evaluate(dpo.loss_fn, **options)[0].value)
  plain = value()
  assert value(ld_alpha=1.0) == pytest.approx(plain, rel=1e-6)
  policy, reference = (fixture_arrays[k].reshape(2, 3) for k in ('policy_logps', 'ref_logps'))
  h = 0.1 * np.diff(reference - policy, axis=0)
  either = (np.log1p(np.exp(h)) + np.log1p(np.exp(-h))).mean() / 2
  assert value(label_smoothing=0.5) == pytest.approx(either, rel=1e-5)
  near = value(f_divergence='alpha', alpha=1 + 1e-3)
  assert near == pytest.approx(plain, rel=1e-2)
  assert value(kind='robust') == pytest.approx(plain, rel=1e-6)


def test_an_added_nll(evaluate, preferences):
  value = lambda **options: float(evaluate(dpo.loss_fn, **options)[0].value)
  logp = np.asarray(preferences.logp(preferences.params, preferences.batch))[:, 0]
  mask = np.asarray(preferences.batch['mask'])[:, 0]
  by_row = (-(logp * mask).sum(-1) / mask.sum(-1)).mean()
  by_token = -(logp * mask).sum() / mask.sum()
  plain = value()
  assert value(nll_weight=2.0) - plain == pytest.approx(2 * by_row, rel=1e-5)
  found = value(nll_weight=2.0, nll_average='token') - plain
  assert found == pytest.approx(2 * by_token, rel=1e-5)
  assert by_token == pytest.approx(value(kind='sft'), rel=1e-5)


def test_a_reference_that_is_the_policy(evaluate, preferences):
  batch = preferences.batch | {'ref_logp': preferences.logp(preferences.params, preferences.batch)}
  for divergence in options_of(dpo.loss_fn)['f_divergence'].choices:
    mean, metrics = evaluate(dpo.loss_fn, batch, f_divergence=divergence)
    assert mean.value == pytest.approx(math.log(2), rel=1e-5)
    for name in ('kl', 'margin', 'chosen_reward', 'rejected_reward'):
      assert metrics[name].value == pytest.approx(0, abs=1e-5)


def test_metrics_by_hand(evaluate, preferences, fixture_arrays):
  metrics = {k: v.value for k, v in evaluate(dpo.loss_fn, beta=0.2)[1].items()}
  policy, reference = (fixture_arrays[k].reshape(2, 3) for k in ('policy_logps', 'ref_logps'))
  reward = 0.2 * (policy - reference)
  tokens = float(preferences.batch['mask'].sum())
  logits = np.asarray(preferences.logits, np.float64)[:, :-1]
  logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  entropy = -(np.exp(logp) * logp).sum(-1)
  target = np.asarray(preferences.batch['mask']).reshape(6, -1)[:, 1:]
  wanted = {
    'chosen_logp': policy[0].mean(),
    'rejected_logp': policy[1].mean(),
    'chosen_reward': reward[0].mean(),
    'rejected_reward': reward[1].mean(),
    'margin': (reward[0] - reward[1]).mean(),
    'accuracy': (reward[0] > reward[1]).mean(),
    'kl': (policy - reference).sum() / tokens,
    'entropy': (entropy * target).sum() / tokens,
    'response_length': tokens / 6,
    'trained_tokens': tokens,  # a total: its count is 0
  }
  assert metrics.keys() == wanted.keys()
  for name, value in wanted.items():
    assert metrics[name] == pytest.approx(value, rel=1e-4), name
  assert 'kl' not in evaluate(dpo.loss_fn, reference_free=True)[1]


def test_a_pair_of_which_nothing_is_left_does_not_count(evaluate, preferences):
  batch = preferences.batch | {'mask': preferences.batch['mask'].at[1, 1].set(0)}
  mean, metrics = evaluate(dpo.loss_fn, batch)
  alone = [evaluate(dpo.loss_fn, keep(preferences.batch, i))[0] for i in (0, 2)]
  assert mean.count == 2
  assert mean.total == pytest.approx(float(sum(m.total for m in alone)), rel=1e-5)
  assert metrics['trained_tokens'].total == batch['mask'][jnp.array([0, 2])].sum()


def keep(batch, i):
  """The batch with only pair `i` counting."""
  return batch | {'mask': batch['mask'] * (jnp.arange(3) == i)[:, None, None]}


def test_sorting_leaves_out_what_does_not_count():
  pairs = pairs_of([3.0, -1.0, 2.0, 50.0, -50.0])
  some = pairs._replace(real=jnp.arange(5) < 3)
  only = dpo.Pairs(*(x[..., :3] for x in pairs))
  for kind in ('aot', 'aot_unpaired'):
    found, wanted = (functools.partial(dpo.KINDS[kind], beta=0.1)(p) for p in (some, only))
    np.testing.assert_allclose(found[:3], wanted, rtol=1e-6)


def test_sorting_by_hand():
  draw = np.random.default_rng(0)
  logp, ref = draw.normal(size=(2, 2, 7)).astype(np.float32)
  one = np.ones((2, 7), np.float32)
  pairs = dpo.Pairs(logp, ref, logp - ref, one, one[0] > 0)
  margins = logp[0] - logp[1], ref[0] - ref[1]
  for kind, (high, low) in (('aot', margins), ('aot_unpaired', logp - ref)):
    h = np.sort(high) - np.sort(low)
    found = dpo.KINDS[kind](pairs, beta=1.0)
    np.testing.assert_allclose(np.sort(found), np.sort(np.log1p(np.exp(-h))), rtol=1e-5)
    assert abs(found - np.log1p(np.exp(low - high))).max() > 0.1  # not pair by pair


def test_weights_and_shifts_have_no_gradient(preferences, table):
  def grad_of(batch, **options):
    loss = lambda x: dpo.loss_fn({'logits': x}, batch, None, model=table(64), **options)[0].total
    value, grad = jax.jit(jax.value_and_grad(loss))(preferences.logits)
    return float(value), np.asarray(grad)

  wanted = 0.0
  for i in range(3):  # each pair's gradient, times the ratio of its losses
    (plain, grad), (weighted, _) = (
      grad_of(keep(preferences.batch, i), wpo=wpo) for wpo in (False, True)
    )
    wanted += weighted / plain * grad
  np.testing.assert_allclose(grad_of(preferences.batch, wpo=True)[1], wanted, rtol=1e-4, atol=1e-9)

  h = jnp.array([3.0, -1.0, 0.5])
  pairs = pairs_of(h)
  chosen = lambda w: pairs._replace(logp=pairs.logp.at[0].set(w))
  shifted = lambda w: dpo.bco_pair(chosen(w), beta=1.0, shift='mean').sum()
  delta = (2.0 - h / 2).mean() / 2  # of rewards 2 and -h / 2
  grad = jax.grad(shifted)(jnp.full(3, 2.0))
  np.testing.assert_allclose(grad, -jax.nn.sigmoid(delta - 2.0) * jnp.ones(3), rtol=1e-5)

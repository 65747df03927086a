"""Policy gradients against TRL's, verl's and OpenRLHF's numbers, their laws, and refused options.

fixtures/rl_losses.npz holds four answers to TRL 1.16 and eight to verl 0.9.1 and OpenRLHF 0.11.2;
rl_losses.json what those make of them in float32. The policy is that of preferences.npz.
"""

import functools
import json
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from llm_jax.losses import policy_gradient, ratios
from llm_jax.losses.policy_gradient import KINDS, PRESETS, loss_fn
from llm_jax.losses.ratios import Rollout
from llm_jax.types import BadInput, Peak

FIXTURES = Path(__file__).parents[1] / 'fixtures'
NUMBERS = json.loads((FIXTURES / 'rl_losses.json').read_text())
V, LENGTH = 7, 8

GOLDEN = {
  **{name: PRESETS[name] for name in ('grpo', 'bnpo', 'dapo', 'gspo', 'rloo', 'sapo', 'vespo')},
  'dr_grpo': PRESETS['dr_grpo'] | dict(max_length=8),
  'grpo+kl.04': PRESETS['grpo'] | dict(kl_weight=0.04),
  'grpo_biascorr_kl': PRESETS['grpo'] | dict(kl_weight=0.04, kl_importance=True),
  'grpo_two_sided_delta4': PRESETS['grpo'] | dict(clip_dual=4.0),
  'cispo(eps_high=5 absolute)': PRESETS['cispo'],
  'luspo_seq': PRESETS['luspo'],
  'dapo_toolmask': PRESETS['dapo'],
}
VERL = dict(clip_low=0.2, clip_high=0.28, clip_dual=3.0, log_ratio_clamp=20.0)
OTHERS = {
  'ppo_token-mean': VERL,
  'openrlhf_policy_token': dict(clip_low=0.2, clip_high=0.28),
  'ppo_seq-mean-token-mean': VERL | dict(aggregation='sequence_mean'),
  'ppo_seq-mean-token-sum': VERL | dict(aggregation='sequence_sum'),
  'ppo_seq-mean-token-sum-norm': VERL | dict(aggregation='constant', max_length=8),
  **{f'kl_{name}': dict(kl_weight=1.0, kl_estimator=name) for name in ('k1', 'k2', 'abs')},
  'kl_k3': dict(kl_weight=1.0, kl_estimator='k3', kl_clamp=10.0),
}

# Which options each kind uses, and a value for each that makes a difference.
COMMON = dict(entropy_weight=0.1, temperature=0.7, kl_weight=0.1)
BY_RATIO = dict(ratio_level='sequence', log_ratio_clamp=0.01)
OPTIONS = {
  'clip': COMMON
  | BY_RATIO
  | dict(clip_low=0.01, clip_high=0.01, clip_dual=1.21, importance_cap=1.01),
  'cispo': COMMON | BY_RATIO | dict(ratio_cap=1.0, importance_cap=1.01),
  'sapo': COMMON | BY_RATIO | dict(tau=(2.0, 3.0), importance_cap=1.01),
  'vespo': COMMON | dict(power=(1.0, 1.0), decay=(1.0, 1.0)),
  'reinforce': COMMON | dict(importance_cap=1.01),
}
EVERY = {name: value for options in OPTIONS.values() for name, value in options.items()}
# What only some kinds use once there is a divergence.
KL_IMPORTANCE = ('clip', 'cispo', 'sapo')


@pytest.fixture(scope='module')
def z():
  with np.load(FIXTURES / 'rl_losses.npz') as file:
    return dict(file)


@pytest.fixture(scope='module')
def answers(z, preferences):
  """TRL's batch as [2, 2, 13], the policy that scores it, and its logits [4, 13, V]."""
  z = {k.removeprefix('grpo.'): v for k, v in z.items() if k.startswith('grpo.')}
  real = np.concatenate([z['prompt_mask'], z['completion_mask']], axis=1)
  after = lambda x: np.concatenate([np.zeros_like(z['prompt_ids'], x.dtype), x], axis=1)
  mask = after(z['completion_mask'])
  fields = dict(
    tokens=np.concatenate([z['prompt_ids'], z['completion_ids']], axis=1),
    segment=real,
    position=np.maximum(real.cumsum(-1) - 1, 0),
    mask=mask,
  )
  batch = {k: jnp.asarray(v, jnp.int32) for k, v in fields.items()} | dict(
    old_logp=after(z['old_per_token_logps']),
    ref_logp=after(z['ref_per_token_logps']),
    advantage=(z['advantages'][:, None] * mask).astype(np.float32),
  )
  rows = [batch[k] for k in ('tokens', 'position', 'segment')]
  logits, _ = jax.jit(preferences.model.apply)(preferences.params, *rows)
  batch = {k: jnp.asarray(v).reshape(2, 2, 13) for k, v in batch.items()}
  tool = jnp.asarray(after(z['tool_mask'])).reshape(2, 2, 13)
  return batch, logits, after(z['new_logps']).reshape(2, 2, 13), tool


@pytest.fixture(scope='module')
def evaluate(table):
  """(logits, batch, options) to (Mean, Metrics) and the gradient of the total by the logits."""

  @functools.cache
  def compiled(options):
    def total(logits, batch):
      model = table(logits.shape[-1])
      out = loss_fn({'logits': logits}, batch, None, model=model, **dict(options))
      return out[0].total, out

    return jax.jit(jax.value_and_grad(total, has_aux=True))

  def run(logits, batch, **options):
    (_, out), grad = compiled(tuple(options.items()))(logits, batch)
    return *out, grad

  return run


def of_two(logp):
  """Logits [rows, L, 2] under which token 0 at t has log-probability `logp` [rows, L] at t."""
  logits = np.stack([logp, np.log(-np.expm1(np.minimum(logp, -1e-6)))], axis=-1)
  return jnp.asarray(np.roll(logits, -1, axis=1), jnp.float32)


def padded(x):
  """With a first column, which nothing predicts, and as groups of two."""
  return jnp.asarray(np.pad(x, ((0, 0), (1, 0))).reshape(-1, 2, x.shape[-1] + 1))


def rollouts(groups=3, seed=0):
  """Logits and a batch of answers of different lengths; the last answer has no token at all."""
  draw = np.random.default_rng(seed)
  shape = (groups, 2, LENGTH)
  real = np.arange(LENGTH) < draw.integers(5, LENGTH + 1, (groups, 2, 1))
  mask = real & (np.arange(LENGTH) >= 2) & (draw.random(shape) < 0.8)
  mask[-1, -1] = False
  logits = jnp.asarray(draw.normal(size=(groups * 2, LENGTH, V)), jnp.float32)
  tokens = draw.integers(0, V, shape)
  logp = np.asarray(jax.nn.log_softmax(logits)).reshape(*shape, V)
  logp = np.take_along_axis(np.roll(logp, 1, axis=2), tokens[..., None], -1)[..., 0]
  near = lambda scale: (logp + draw.normal(size=shape) * scale).astype(np.float32)
  fields = dict(tokens=tokens, segment=real, position=np.arange(LENGTH) * real, mask=mask)
  advantage = (draw.normal(size=(groups, 2, 1)) * mask).astype(np.float32)
  return logits, {k: jnp.asarray(v, jnp.int32) for k, v in fields.items()} | dict(
    old_logp=jnp.asarray(near(0.3)),
    sampled_logp=jnp.asarray(near(0.3)),
    ref_logp=jnp.asarray(near(0.5)),
    advantage=jnp.asarray(advantage),
  )


def same(found, wanted, rtol=1e-5, atol=1e-6):
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
  jax.tree.map(close, found, wanted)


def test_every_number_of_the_fixture_is_tested():
  assert GOLDEN.keys() == NUMBERS['grpo'].keys() - {'grad_norm_dapo'}
  assert OTHERS.keys() == NUMBERS['verl'].keys() - {'value_loss', 'value_clipfrac'}  # ppo_test
  assert OPTIONS.keys() == KINDS.keys()


@pytest.mark.parametrize('name', GOLDEN)
def test_their_numbers(evaluate, answers, name):
  batch, logits, _, tool = answers
  if name == 'dapo_toolmask':
    batch = batch | dict(mask=batch['mask'] * tool)
  mean, *_ = evaluate(logits, batch, **GOLDEN[name])
  assert mean.value == pytest.approx(NUMBERS['grpo'][name], rel=1e-4)


def test_their_log_probabilities_and_gradient(preferences, answers):
  batch, _, new, _ = answers
  mask = np.asarray(batch['mask'])

  def value(params):
    return loss_fn(params, batch, None, model=preferences.model, **PRESETS['dapo'])[0].value

  np.testing.assert_allclose(
    preferences.logp(preferences.params, batch) * mask, new * mask, rtol=1e-5, atol=1e-5
  )
  norm = float(optax.global_norm(jax.jit(jax.grad(value))(preferences.params)))
  assert norm == pytest.approx(NUMBERS['grpo']['grad_norm_dapo'], rel=1e-4)


@pytest.mark.parametrize('name', OTHERS)
def test_the_numbers_of_verl_and_openrlhf(evaluate, z, name):
  batch = dict(
    mask=padded(z['verl.mask']),
    tokens=jnp.zeros((4, 2, 9), jnp.int32),
    old_logp=padded(z['verl.old_logps']),
    advantage=padded(z['verl.advantages']),
  )
  logp = z['verl.new_logps']
  if name.startswith('kl_'):
    logp = z['ppo.logprobs'] * z['verl.mask']
    batch |= dict(advantage=batch['advantage'] * 0, ref_logp=padded(z['ppo.ref_logprobs']))
  mean, *_ = evaluate(of_two(np.pad(logp, ((0, 0), (1, 0)))), batch, **OTHERS[name])
  assert mean.value == pytest.approx(NUMBERS['verl'][name], rel=1e-4)


SOME = (
  *(PRESETS[name] for name in ('grpo', 'dapo', 'gspo', 'luspo', 'cispo', 'sapo', 'vespo', 'rloo')),
  PRESETS['dr_grpo'] | dict(max_length=9),
  PRESETS['reinforce'] | dict(importance_cap=1.1, temperature=0.8),
  PRESETS['grpo'] | dict(kl_weight=0.1, kl_importance=True, kl_clamp=0.3, entropy_weight=0.1),
)


@pytest.mark.parametrize('options', SOME, ids=str)
def test_microbatches_add_up_and_an_empty_one_is_harmless(evaluate, options):
  logits, batch = rollouts()
  mean, metrics, grad = evaluate(logits, batch, **options)
  parts = []
  for group in range(3):
    keep = (jnp.arange(3) == group)[:, None, None]
    parts.append(evaluate(logits, batch | dict(mask=batch['mask'] * keep), **options))
  added = functools.reduce(
    lambda a, b: jax.tree.map(lambda x, y: x + y, a, b, is_leaf=lambda x: hasattr(x, 'value')),
    parts,
  )
  assert mean.count > 0 and np.any(grad)
  same(added, (mean, metrics, grad))

  empty = evaluate(logits, batch | dict(mask=batch['mask'] * 0), **options)
  assert empty[0].total == empty[0].count == 0 and not empty[2].any()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(empty))


@pytest.mark.parametrize('options', SOME[:2] + SOME[-2:], ids=str)
def test_an_answer_without_a_known_reward_is_not_there(evaluate, options):
  logits, batch = rollouts()
  valid = jnp.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
  without = batch | dict(mask=batch['mask'] * valid[..., None].astype(int))
  same(evaluate(logits, batch | dict(valid=valid), **options), evaluate(logits, without, **options))
  none = evaluate(logits, batch | dict(valid=valid * 0), **options)
  assert none[0].count == 0 and not none[2].any()


def test_equal_rewards_and_groups_of_one_teach_nothing(evaluate):
  logits, batch = rollouts()
  for name, preset in PRESETS.items():
    options = preset | (dict(max_length=9) if name == 'dr_grpo' else {})
    mean, _, grad = evaluate(logits, batch | dict(advantage=batch['advantage'] * 0), **options)
    assert mean.count > 0 and mean.total == 0 and not grad.any()
  alone = {k: v.reshape(6, 1, LENGTH) for k, v in batch.items()}
  same(evaluate(logits, alone), evaluate(logits, batch))


def test_a_policy_far_from_its_rollout_stays_finite(evaluate):
  logits, batch = rollouts()
  for shift in (-300.0, 300.0):
    far = batch | dict(old_logp=batch['old_logp'] + shift, ref_logp=batch['ref_logp'] + shift)
    for options in SOME:
      assert np.isfinite(evaluate(logits, far, **options)[2]).all(), options


def test_only_sampled_tokens_have_a_gradient(evaluate):
  logits, batch = rollouts()
  for options in SOME:
    grad = np.asarray(evaluate(logits, batch, **options)[2])
    used = np.roll(np.asarray(batch['mask']).reshape(6, LENGTH), -1, axis=1) > 0
    assert not grad[~used].any() and grad[used].any()


def test_on_policy_every_kind_is_the_policy_gradient(evaluate):
  logits, batch = rollouts()
  del batch['old_logp']
  for one, other in (
    (dict(), dict(kind='reinforce')),
    (dict(kind='cispo'), dict(kind='reinforce')),
    (dict(kind='sapo'), dict(kind='reinforce')),
    (dict(kind='vespo'), dict(kind='reinforce')),
    (PRESETS['rloo'], PRESETS['reinforce']),  # the gradient of an answer is that of its sum
    (PRESETS['grpo'], PRESETS['gspo']),
    (PRESETS['luspo'], PRESETS['reinforce']),
  ):
    same(evaluate(logits, batch, **one)[2], evaluate(logits, batch, **other)[2])
  metrics = evaluate(logits, batch)[1]
  assert metrics['ratio_max'].value == 1 and metrics['policy_kl'].value == 0


@pytest.mark.parametrize('kind', KINDS)
def test_gradients_of_the_kinds(kind):
  draw = np.random.default_rng(0)
  with jax.enable_x64(True):
    logp, old = jnp.asarray(draw.normal(-2, 0.3, (2, 2, 2, 5)))
    advantage = jnp.asarray(draw.normal(size=(2, 2, 1)) * np.ones(5))
    target = jnp.ones((2, 2, 5)).at[0, 1, 3:].set(0)

    def surrogate(logp):
      return KINDS[kind](Rollout(logp, logp, target, advantage, old, None, None))

    loss = lambda logp: (surrogate(logp).loss * target).sum()
    if kind in ('clip', 'sapo'):
      check_grads(loss, (logp,), order=1, modes=['rev'], rtol=1e-6, atol=1e-6)
    else:  # the loss is linear in logp, and what weighs it is held
      wanted = surrogate(logp).loss / logp * target
      np.testing.assert_allclose(jax.grad(loss)(logp), wanted, rtol=1e-9)


@pytest.mark.parametrize(
  ('rho', 'advantage', 'loss', 'slope'),
  [
    (1.1, 1.0, -1.1, -1.1),  # inside the region: as it is
    (1.1, -1.0, 1.1, 1.1),
    (1.5, 1.0, -1.28, 0.0),  # up by enough
    (1.5, -1.0, 1.5, 1.5),  # up where it should go down: pulled back
    (0.5, 1.0, -0.5, -0.5),
    (0.5, -1.0, 0.8, 0.0),  # down by enough
    (5.0, -1.0, 3.0, 0.0),  # the dual clip
    (5.0, 1.0, -1.28, 0.0),
  ],
)
def test_clips_by_hand(rho, advantage, loss, slope):
  full = lambda x: jnp.full((1, 1, 1), x)

  def surrogate(logp):
    rollout = Rollout(full(logp), full(0.0), full(1.0), full(advantage), full(0.0), None, None)
    return ratios.clip(rollout, clip_low=0.2, clip_high=0.28, clip_dual=3.0)

  value, grad = jax.value_and_grad(lambda x: surrogate(x).loss.sum())(jnp.log(rho))
  assert (value, grad) == (pytest.approx(loss, rel=1e-6), pytest.approx(slope, rel=1e-6))
  clipped = surrogate(jnp.log(rho)).clipped
  assert clipped['clip_high'] == (rho > 1.28 and advantage > 0)
  assert clipped['clip_low'] == (rho < 0.8 and advantage < 0)


def test_estimators_and_the_gradients_they_have():
  p, q = (jnp.asarray(np.random.default_rng(i).normal(size=6), jnp.float32) for i in (0, 1))
  log_q = jax.nn.log_softmax(q)

  def exact(x):
    logp = jax.nn.log_softmax(x)
    return (jnp.exp(logp) * (logp - log_q)).sum()

  def expected(x, estimator, weigh=False):
    """Over samples of p, whose frequencies do not move with it."""
    logp = jax.nn.log_softmax(x)
    value = ratios.kl(logp - log_q, estimator)
    if weigh:
      value *= jnp.exp(logp - jax.lax.stop_gradient(logp))
    return (jnp.exp(jax.nn.log_softmax(p)) * value).sum()

  for estimator in ('k1', 'k3'):
    assert expected(p, estimator) == pytest.approx(float(exact(p)), rel=1e-5)
  true = jax.grad(exact)(p)
  for estimator, weigh in (('k2', False), ('k1', True), ('k3', True)):
    same(jax.grad(expected)(p, estimator, weigh), true, rtol=1e-4)
  assert abs(jax.grad(expected)(p, 'k3') - true).max() > 0.01
  far = jnp.array([-1e4, 1e4])
  for estimator in typing.get_args(ratios.Estimator):
    clamped = lambda x, name=estimator: ratios.kl(x, name, 10.0).sum()
    assert np.isfinite(clamped(far)) and not jax.grad(clamped)(far).any()


def test_importance_by_hand(evaluate):
  logits, batch = rollouts()
  weight = np.minimum(np.exp(batch['old_logp'] - batch['sampled_logp']), 1.2)
  weighted = batch | dict(advantage=batch['advantage'] * weight)
  same(evaluate(logits, batch, importance_cap=1.2)[2], evaluate(logits, weighted)[2])
  # Without old_logp the policy itself is compared, and held constant.
  del batch['old_logp'], weighted['old_logp']
  logp = np.asarray(jax.nn.log_softmax(logits)).reshape(3, 2, LENGTH, V)
  logp = np.take_along_axis(np.roll(logp, 1, axis=2), np.asarray(batch['tokens'])[..., None], -1)
  weight = np.minimum(np.exp(logp[..., 0] - batch['sampled_logp']), 1.2)
  weighted = batch | dict(advantage=batch['advantage'] * weight)
  same(evaluate(logits, batch, importance_cap=1.2)[2], evaluate(logits, weighted)[2])


def test_temperature_divides_the_logits(evaluate):
  logits, batch = rollouts()
  hot, plain = evaluate(logits, batch, temperature=0.5), evaluate(logits / 0.5, batch)
  same(hot[:2], plain[:2])
  same(hot[2], plain[2] / 0.5)


def test_metrics_by_hand(evaluate):
  logits, batch = rollouts()
  metrics = evaluate(logits, batch)[1]
  logp_all = np.asarray(jax.nn.log_softmax(logits), np.float64).reshape(3, 2, LENGTH, V)
  logp_all = np.roll(logp_all, 1, axis=2)
  logp = np.take_along_axis(logp_all, np.asarray(batch['tokens'])[..., None], -1)[..., 0]
  mask = np.asarray(batch['mask']) > 0
  old, sampled, ref = (
    np.asarray(batch[k], np.float64) for k in ('old_logp', 'sampled_logp', 'ref_logp')
  )
  rho, advantage = np.exp(logp - old), np.asarray(batch['advantage'])
  over = lambda x: x[mask].mean()
  wanted = {
    'entropy': over(-(np.exp(logp_all) * logp_all).sum(-1)),
    'response_length': mask.sum() / 5,  # one of six answers is empty
    'trained_tokens': mask.sum(),
    'kl': over(logp - ref),
    'kl_k3': over(np.exp(ref - logp) - 1 - ref + logp),
    'clip_low': over((rho < 0.8) & (advantage < 0)),
    'clip_high': over((rho > 1.2) & (advantage > 0)),
    'ratio_max': rho[mask].max(),
    'policy_kl': over(old - logp),
    'mismatch': over(abs(old - sampled)),
  }
  assert metrics.keys() == wanted.keys()
  assert 0 < wanted['clip_low'] < 1 and 0 < wanted['clip_high'] < 1
  for name, value in wanted.items():
    assert metrics[name].value == pytest.approx(value, rel=1e-4), name
  assert isinstance(metrics['ratio_max'], Peak)
  bare = {k: v for k, v in batch.items() if k not in ('ref_logp', 'sampled_logp')}
  assert not {'kl', 'kl_k3', 'mismatch'} & evaluate(logits, bare)[1].keys()


def test_the_constant_is_what_the_prompt_leaves(evaluate):
  logits, batch = rollouts()
  prompt = batch | dict(prompt=jnp.zeros((3, 2), jnp.int32))
  found = evaluate(logits, prompt, aggregation='constant')
  same(found, evaluate(logits, batch, aggregation='constant', max_length=LENGTH - 2))
  with pytest.raises(BadInput, match='set max_length'):
    evaluate(logits, batch, aggregation='constant')


@pytest.mark.parametrize('option', EVERY)
@pytest.mark.parametrize('kind', KINDS)
def test_an_option_is_used_or_refused(check, evaluate, kind, option):
  given = {option: OPTIONS[kind].get(option, EVERY[option])}
  if option not in OPTIONS[kind]:
    with pytest.raises(BadInput, match=f"kind '{kind}' does not use {option}"):
      check(policy_gradient.loss_fn, kind=kind, **given)
    return
  logits, batch = rollouts()
  plain, changed = (evaluate(logits, batch, kind=kind, **options)[0] for options in ({}, given))
  assert np.isfinite(changed.value) and changed.value != plain.value


@pytest.mark.parametrize('kind', KINDS)
def test_the_ratio_weighs_a_divergence_or_is_refused(check, evaluate, kind):
  options = dict(kind=kind, kl_weight=0.1, kl_importance=True)
  if kind not in KL_IMPORTANCE:
    with pytest.raises(BadInput, match=f"kind '{kind}' does not use kl_importance"):
      check(policy_gradient.loss_fn, **options)
    return
  logits, batch = rollouts()
  plain = evaluate(logits, batch, kind=kind, kl_weight=0.1)[0]
  assert evaluate(logits, batch, **options)[0].value != plain.value


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(kind='clipp'), "kind 'clipp'; did you mean 'clip'"),
    (dict(aggregation='token'), 'aggregation'),
    (dict(ratio_level='sequences'), "did you mean 'sequence'"),
    (dict(kl_weight=0.1, kl_estimator='k4'), 'kl_estimator'),
    (dict(kl_estimator='k2'), 'kl_estimator is not used without kl_weight'),
    (dict(kl_clamp=10.0), 'kl_clamp is not used without kl_weight'),
    (dict(kl_importance=True), 'kl_importance is not used without kl_weight'),
    (dict(max_length=9), 'does not use max_length'),
    (dict(clip_low=1.2), 'clip_low 1.2'),
    (dict(clip_high=-0.1), 'clip_high -0.1'),
    (dict(clip_high=0.5, clip_dual=1.4), 'clip_dual 1.4 is not above 1.5'),
    (dict(log_ratio_clamp=0.0), 'log_ratio_clamp 0'),
    (dict(kind='sapo', tau=(1.0,)), 'choose 2 numbers above 0'),
    (dict(kind='vespo', decay=(0.0, 1.0)), 'choose 2 numbers above 0'),
    (dict(importance_cap=0.0), 'importance_cap 0'),
    (dict(temperature=0.0), 'temperature 0'),
    (dict(kl_weight=-1.0), 'kl_weight -1'),
  ],
)
def test_what_does_not_go_together(check, options, message):
  with pytest.raises(BadInput, match=message):
    check(policy_gradient.loss_fn, **options)


@pytest.mark.parametrize(
  ('missing', 'options', 'message'),
  [
    ('advantage', {}, 'the batch has no advantage'),
    ('ref_logp', dict(kl_weight=0.1), 'the batch has no ref_logp'),
    ('sampled_logp', dict(importance_cap=2.0), 'importance_cap needs sampled_logp'),
  ],
)
def test_a_batch_that_lacks_a_field(evaluate, missing, options, message):
  logits, batch = rollouts()
  with pytest.raises(BadInput, match=message):
    evaluate(logits, {k: v for k, v in batch.items() if k != missing}, **options)

"""PPO against TRL's and verl's numbers, over two epochs of real updates, and its laws.

fixtures/rl_losses.npz holds a rollout of TRL 1.9.2, its value model, and the two policies of
preferences.npz sampled and scored it at temperature 0.7; rl_losses.json its losses, and verl's.
"""

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.losses import cross_entropy, policy_gradient, ppo
from llm_jax.models import huggingface
from llm_jax.models.actor_critic import ActorCritic
from llm_jax.models.transformer import make
from llm_jax.types import BadInput

FIXTURES = Path(__file__).parents[1] / 'fixtures'
NUMBERS = json.loads((FIXTURES / 'rl_losses.json').read_text())
SHAPE = dict(vocab_size=64, dim=32, hidden_dim=64, num_layers=2, num_heads=4, num_kv_heads=2)
V, GROUPS, LENGTH = 7, 4, 8
SOME = (
  {},
  dict(value_clip=None, value_weight=0.5, entropy_weight=0.1, temperature=0.8),
  dict(ptx_weight=2.0, clip=0.1, clip_dual=1.2, importance_cap=1.1, log_ratio_clamp=0.2),
)


class Tables:
  """An actor and a critic that are tables, looked up by a token: `table` [V, V], `worth` [V].

  Given `logits` [rows, L, V] and `values` [rows, L], it answers with those.
  """

  def __init__(self, vocab_size=V):
    self.shape = SimpleNamespace(vocab_size=vocab_size, causal=True)

  def apply(self, params, x, *place, method):
    if method == 'unembed':
      return x
    if method == 'value':
      return params['values'] if 'values' in params else params['worth'][x]
    return (params['logits'] if 'logits' in params else params['table'][x]), None


@pytest.fixture(scope='module')
def z():
  with np.load(FIXTURES / 'rl_losses.npz') as file:
    return dict(file)


@pytest.fixture(scope='module')
def run():
  """(params, batch, options) to (Mean, Metrics) and the gradient of the total, by tables."""

  @functools.cache
  def compiled(options):
    def total(params, batch):
      model = Tables(params['logits'].shape[-1] if 'logits' in params else V)
      out = ppo.loss_fn(params, batch, None, model=model, **dict(options))
      return out[0].total, out

    return jax.jit(jax.value_and_grad(total, has_aux=True))

  def run(params, batch, **options):
    (_, out), grad = compiled(tuple(options.items()))(params, batch)
    return *out, grad

  return run


@pytest.fixture(scope='module')
def case():
  """Tables, and a batch in which the value of one step after each answer counts too."""
  draw = np.random.default_rng(0)
  shape = (GROUPS, 1, LENGTH)
  length = draw.integers(5, LENGTH, (GROUPS, 1, 1))
  mask = (np.arange(LENGTH) < length) & (np.arange(LENGTH) >= 2)
  after = np.arange(LENGTH) == length
  tokens = draw.integers(0, V, shape)
  params = dict(table=draw.normal(size=(V, V)), worth=draw.normal(size=V))
  params = {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}
  logp = np.asarray(jax.nn.log_softmax(params['table']))[np.roll(tokens, 1, axis=-1), tokens]
  worth = np.asarray(params['worth'])[np.roll(tokens, 1, axis=-1)]
  near = lambda x: (x + draw.normal(size=shape) * 0.3).astype(np.float32)
  ptx = (GROUPS, 6)
  batch = dict(
    tokens=tokens,
    mask=mask,
    segment=np.arange(LENGTH) <= length,
    position=np.broadcast_to(np.arange(LENGTH), shape),
    old_logp=near(logp),
    sampled_logp=near(logp),
    value=near(worth),
    advantage=draw.normal(size=shape).astype(np.float32) * mask,
    value_mask=(mask | after).astype(np.float32),
    ptx_tokens=draw.integers(0, V, ptx),
    ptx_mask=np.arange(6) >= draw.integers(1, 5, (GROUPS, 1)),
    ptx_segment=np.ones(ptx, int),
    ptx_position=np.broadcast_to(np.arange(6), ptx),
  )
  batch['return'] = near(worth)
  as_array = lambda x: jnp.asarray(x, jnp.float32 if x.dtype.kind == 'f' else jnp.int32)
  return params, {k: as_array(v) for k, v in batch.items()}


def same(found, wanted, rtol=1e-5, atol=1e-6):
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
  jax.tree.map(close, found, wanted)


def test_verl(run, z):
  """The values of verl's number are those of its rollout and 0.4, beyond the clip at 0.2."""
  padded = lambda x: jnp.asarray(np.pad(x, ((0, 0), (1, 0)))[:, None])
  shifted = lambda x: jnp.asarray(np.pad(x, ((0, 0), (0, 1))))
  logp = z['verl.new_logps'] * z['verl.mask']
  two_words = np.stack([logp, np.log(-np.expm1(np.minimum(logp, -1e-6)))], axis=-1)
  params = dict(
    logits=jnp.asarray(np.pad(two_words, ((0, 0), (0, 1), (0, 0)))),
    values=shifted(z['verl.values'] + 0.4),
  )
  batch = dict(
    tokens=jnp.zeros((8, 1, 9), jnp.int32),
    mask=padded(z['verl.mask']),
    old_logp=padded(z['verl.old_logps']),
    advantage=padded(z['verl.advantages']),
    value=padded(z['verl.values']),
  )
  batch['return'] = padded(z['verl.returns'])
  mean, metrics, _ = run(params, batch, value_weight=0.5)
  wanted = NUMBERS['verl']
  assert metrics['value_loss'].value == pytest.approx(wanted['value_loss'], rel=1e-5)
  fraction = metrics['value_clip_fraction'].value
  assert fraction == pytest.approx(wanted['value_clipfrac'], rel=1e-5)
  total = metrics['policy_loss'].value + 0.5 * metrics['value_loss'].value
  assert mean.value == pytest.approx(float(total), rel=1e-6)
  # The policy part is that of the other file, where verl's numbers of it are tested.
  policy, _ = policy_gradient.loss_fn(params, batch, jax.random.key(0), model=Tables(2))
  assert metrics['policy_loss'].value == pytest.approx(float(policy.value), rel=1e-5)


@pytest.fixture(scope='module')
def trl(z, preferences):
  """TRL's rollout as [8, 1, 13], both models, and one Adam step of its loss."""
  ids = z['ppo.query_responses']
  real = (ids != 0).astype(int)
  after = lambda x: jnp.asarray(np.pad(x, ((0, 0), (5, 0))), jnp.float32)[:, None]
  fields = dict(tokens=ids, segment=real, position=np.maximum(real.cumsum(-1) - 1, 0))
  batch = {k: jnp.asarray(v, jnp.int32)[:, None] for k, v in fields.items()} | dict(
    mask=after(~z['ppo.padding_mask']),
    value_mask=after(~z['ppo.padding_mask_p1']),
    old_logp=after(z['ppo.logprobs']),
    ref_logp=after(z['ppo.ref_logprobs']),
    value=after(z['ppo.values']),
  )
  critic = make(**SHAPE, head='scalar')
  weights = {k.removeprefix('value.'): v for k, v in z.items() if k.startswith('value.')}
  params = {
    'policy': preferences.params,
    'critic': huggingface.from_hf(weights, critic.shape),
  }
  model = ActorCritic(preferences.model, critic)
  tx = optax.adam(1e-3)

  @jax.jit
  def update(params, batch):
    def value(params):
      mean, metrics = ppo.loss_fn(params, batch, None, model=model, temperature=0.7)
      return mean.value, (mean, metrics)

    grads, out = jax.grad(value, has_aux=True)(params)
    moved = optax.apply_updates(params, tx.update(grads, tx.init(params), params)[0])
    return moved, out, ppo.values(model, params, batch)

  rewards = {
    name: {
      'advantage': after(z[f'ppo{i}.advantages_whitened']),
      'return': after(z[f'ppo{i}.returns']),
    }
    for i, name in enumerate(NUMBERS['ppo'])
  }
  return params, batch, rewards, update


@pytest.mark.parametrize('name', NUMBERS['ppo'])
def test_two_epochs_of_trl(trl, name):
  params, batch, rewards, update = trl
  for epoch in range(2):
    params, (mean, metrics), values = update(params, batch | rewards[name])
    if epoch == 0:
      counted = np.asarray(batch['value_mask'])
      same(values * counted, batch['value'] * counted, atol=1e-5)
      assert metrics['ratio_max'].value == pytest.approx(1, abs=1e-4)
    found = {'pg_loss': metrics['policy_loss'].value, 'vf_loss': metrics['value_loss'].value}
    for loss, value in found.items():
      assert value == pytest.approx(NUMBERS['ppo'][name][loss][epoch], rel=1e-4, abs=1e-6), loss
    # Two answers end early, and the value one step later counts as well.
    more = batch['value_mask'].sum() / batch['mask'].sum()
    total = found['pg_loss'] + 0.1 * found['vf_loss'] * more
    assert mean.value == pytest.approx(float(total), rel=1e-5)


def test_values_are_read_where_a_token_is_predicted(case):
  params, batch = case
  found = np.asarray(ppo.values(Tables(), params, batch))
  assert found.shape == batch['tokens'].shape and not found[..., 0].any()
  np.testing.assert_array_equal(found[..., 1:], params['worth'][batch['tokens'][..., :-1]])
  flat = ppo.values(Tables(), params, {'tokens': batch['tokens'][:, 0]})
  np.testing.assert_array_equal(flat, found[:, 0])


@pytest.mark.parametrize('options', SOME, ids=str)
def test_microbatches_add_up_and_an_empty_one_is_harmless(run, case, options):
  params, batch = case
  mean, metrics, grad = run(params, batch, **options)

  def only(row):
    keep = lambda x: x * (jnp.arange(GROUPS) == row).reshape(-1, *[1] * (x.ndim - 1))
    return {k: keep(v.astype(jnp.float32)).astype(v.dtype) for k, v in batch.items()}

  parts = [run(params, only(row), **options) for row in range(GROUPS)]
  add = functools.partial(jax.tree.map, jnp.add)
  peaks = [part[1].pop('ratio_max').value for part in parts]
  assert metrics.pop('ratio_max').value == max(peaks)
  same(functools.reduce(add, parts), (mean, metrics, grad), atol=1e-5)

  empty = run(params, only(GROUPS), **options)
  assert empty[0].total == empty[0].count == 0
  assert not any(x.any() for x in jax.tree.leaves(empty[2]))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(empty))


@pytest.mark.parametrize('options', SOME, ids=str)
def test_gradients_are_slopes(run, case, options):
  params, batch = case
  draw, eps = np.random.default_rng(1), 1e-2
  direction = {k: draw.normal(size=v.shape).astype(np.float32) / V for k, v in params.items()}
  moved = lambda by: {k: v + by * direction[k] for k, v in params.items()}
  total = lambda by: float(run(moved(by), batch, **options)[0].total)
  measured = (total(eps) - total(-eps)) / (2 * eps)
  grad = run(params, batch, **options)[2]
  found = sum(float((grad[k] * direction[k]).sum()) for k in params)
  assert found == pytest.approx(measured, rel=1e-2, abs=2e-3)


def test_what_is_not_valid_is_not_there(run, case):
  params, batch = case
  valid = jnp.array([[1.0], [0.0], [1.0], [1.0]])
  without = batch | {k: batch[k] * (valid[..., None] > 0) for k in ('mask', 'value_mask')}
  options = dict(ptx_weight=1.0)
  same(run(params, batch | dict(valid=valid), **options), run(params, without, **options))
  none = run(params, batch | dict(valid=valid * 0), **options)
  assert none[0].count == 0 and not any(x.any() for x in jax.tree.leaves(none[2]))


def test_the_loss_by_hand(run, case):
  params, batch = case
  mean, metrics, _ = run(params, batch, ptx_weight=2.0)
  tokens = np.asarray(batch['tokens'])
  value = np.asarray(params['worth'])[np.roll(tokens, 1, axis=-1)]
  old, goal = np.asarray(batch['value']), np.asarray(batch['return'])
  mask, counted = np.asarray(batch['mask']), np.asarray(batch['value_mask'])
  error = np.maximum((value - goal) ** 2, (np.clip(value, old - 0.2, old + 0.2) - goal) ** 2) / 2
  assert metrics['value_loss'].value == pytest.approx((error * counted).sum() / counted.sum())
  assert metrics['value'].value == pytest.approx((value * counted).sum() / counted.sum())
  ptx = {k.removeprefix('ptx_'): v for k, v in batch.items() if k.startswith('ptx_')}
  row = lambda i: (
    cross_entropy.loss_fn(
      params, {k: v[i : i + 1] for k, v in ptx.items()}, jax.random.key(0), model=Tables()
    )[0].value
  )
  pretraining = sum(float(row(i)) * mask[i].sum() for i in range(GROUPS))
  plain = cross_entropy.loss_fn(params, ptx, jax.random.key(0), model=Tables())[0].value
  assert metrics['ptx_loss'].value == pytest.approx(float(plain), rel=1e-5)
  wanted = metrics['policy_loss'].total + 0.1 * (error * counted).sum() + 2.0 * pretraining
  assert mean.total == pytest.approx(float(wanted), rel=1e-5)
  assert mean.count == mask.sum()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(clip=1.5), 'clip 1.5'),
    (dict(clip_dual=1.1), 'clip_dual 1.1 is not above 1.2'),
    (dict(value_clip=0.0), 'value_clip 0'),
    (dict(value_weight=0.0), 'value_weight 0'),
    (dict(ptx_weight=-1.0), 'ptx_weight -1'),
    (dict(entropy_weight=-1.0), 'entropy_weight -1'),
    (dict(temperature=0.0), 'temperature 0'),
    (dict(importance_cap=0.0), 'importance_cap 0'),
  ],
)
def test_options_out_of_range(check, options, message):
  with pytest.raises(BadInput, match=message):
    check(ppo.loss_fn, **options)


@pytest.mark.parametrize(
  ('missing', 'options', 'message'),
  [
    ('return', {}, 'the batch has no return'),
    ('value', {}, 'the batch has no value'),
    ('advantage', {}, 'the batch has no advantage'),
    ('ptx_mask', dict(ptx_weight=1.0), 'no ptx_mask; add them'),
    ('sampled_logp', dict(importance_cap=2.0), 'importance_cap needs sampled_logp'),
  ],
)
def test_a_batch_that_lacks_a_field(run, case, missing, options, message):
  params, batch = case
  with pytest.raises(BadInput, match=message):
    run(params, {k: v for k, v in batch.items() if k != missing}, **options)


def test_an_unclipped_value_needs_no_old_one(run, case):
  params, batch = case
  without = {k: v for k, v in batch.items() if k != 'value'}
  metrics = run(params, without, value_clip=None)[1]
  assert metrics['value_loss'].count > 0 and 'value_clip_fraction' not in metrics

"""KTO against TRL's numbers, by hand, and what reaches the gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses import kto
from llm_jax.types import BadInput


@pytest.fixture(scope='module')
def batch(preferences, fixture_arrays):
  """The answers of the pairs one by one, good ones first, and each under another's prompt."""
  z = fixture_arrays
  fields = {k: jnp.swapaxes(v, 0, 1).reshape(6, 1, -1) for k, v in preferences.batch.items()}
  real = z['kl_attention_mask'][:, None]
  other = {
    'tokens': z['kl_input_ids'][:, None],
    'mask': z['kl_completion_mask'][:, None],
    'segment': real,
    'position': np.maximum(real.cumsum(-1) - 1, 0),
  }
  other = {k: jnp.asarray(v) for k, v in other.items()}
  other['ref_logp'] = preferences.logp(preferences.reference, other)
  fields |= {f'kl_{k}': v for k, v in other.items()}
  return fields | {'label': jnp.asarray(z['kto_label'], jnp.float32)}


@pytest.fixture(scope='module')
def run(preferences):
  @functools.cache
  def compiled(options):
    loss = lambda p, b: kto.loss_fn(p, b, None, model=preferences.model, **dict(options))
    return jax.jit(loss)

  return lambda batch, **options: compiled(tuple(options.items()))(preferences.params, batch)


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('kto', kto.PRESETS['trl']),
    ('kto dw=1.33', dict(desirable_weight=1.33)),
    ('apo_zero_unpaired', dict(kind='apo_zero_unpaired')),
  ],
)
def test_their_numbers(run, batch, theirs, name, options):
  mean, metrics = run(batch, **options)
  assert mean.count == 6
  assert mean.value == pytest.approx(theirs['offline'][name], rel=1e-4)
  if name.startswith('kto'):
    assert metrics['z0'].value == pytest.approx(0.3856, abs=1e-4)
  else:
    assert 'z0' not in metrics


def test_by_hand(run, batch, fixture_arrays):
  policy, reference = fixture_arrays['policy_logps'], fixture_arrays['ref_logps']
  mean, metrics = run(batch, beta=0.3, desirable_weight=1.1, undesirable_weight=0.7)
  good = fixture_arrays['kto_label']
  z0 = float(metrics['z0'].value)
  side = np.where(good, 1, -1) * 0.3 * (policy - reference - z0)
  losses = np.where(good, 1.1, 0.7) * (1 - 1 / (1 + np.exp(-side)))
  assert mean.value == pytest.approx(losses.mean(), rel=1e-4)
  tokens = float(batch['mask'].sum())
  wanted = {
    'chosen_logp': policy[good].mean(),
    'rejected_logp': policy[~good].mean(),
    'chosen_reward': 0.3 * (policy - reference)[good].mean(),
    'rejected_reward': 0.3 * (policy - reference)[~good].mean(),
    'margin': side.mean(),
    'accuracy': (side > 0).mean(),
    'kl': (policy - reference).sum() / tokens,
    'response_length': tokens / 6,
    'trained_tokens': tokens,
  }
  for name, value in wanted.items():
    assert metrics[name].value == pytest.approx(value, rel=1e-4), name
  assert metrics.keys() == wanted.keys() | {'z0', 'entropy'}


def test_z0_is_never_negative(run, batch):
  mean, metrics = run(batch | {'kl_ref_logp': batch['kl_ref_logp'] + 10})
  assert metrics['z0'].value == 0
  assert mean.value == run(batch, kind='apo_zero_unpaired')[0].value


def test_z0_has_no_gradient(table):
  draw = np.random.default_rng(0)
  params = {'table': jnp.asarray(draw.normal(size=(7, 7)), jnp.float32)}
  fields = {
    'tokens': jnp.asarray(draw.integers(0, 7, (4, 1, 5))),
    'mask': jnp.ones((4, 1, 5)).at[..., 0].set(0),
    'segment': jnp.ones((4, 1, 5), int),
    'ref_logp': jnp.full((4, 1, 5), -3.0),
  }
  fields |= {f'kl_{k}': v for k, v in fields.items()} | {'kl_position': jnp.zeros((4, 1, 5), int)}
  fields['label'] = jnp.array([1, 0, 1, 1])
  loss = lambda p, batch: kto.loss_fn(p, batch, None, model=table(7))[0].value
  grad = jax.jit(jax.grad(loss))(params, fields)
  eps, direction = 1e-2, jnp.asarray(draw.normal(size=(7, 7)), jnp.float32)
  z0 = kto.loss_fn(params, fields, None, model=table(7))[1]['z0'].value
  assert z0 > 0

  def frozen(p):  # by finite differences with z0 held
    logp = jax.nn.log_softmax(p['table'])[fields['tokens'][:, 0, :-1]]
    logp = jnp.take_along_axis(logp, fields['tokens'][:, 0, 1:, None], -1)[..., 0]
    side = jnp.where(fields['label'] > 0, 0.1, -0.1) * ((logp + 3).sum(-1) - z0)
    return jax.nn.sigmoid(-side).mean()

  ahead, behind = (frozen({'table': params['table'] + s * eps * direction}) for s in (1, -1))
  slope = float((grad['table'] * direction).sum())
  assert slope == pytest.approx(float(ahead - behind) / (2 * eps), rel=1e-3)


def test_rows_that_are_not_there_do_not_count(run, batch):
  padded = {k: jnp.concatenate([v, jnp.zeros_like(v)]) for k, v in batch.items()}
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
  (mean, metrics), (wanted, wanted_metrics) = run(padded), run(batch)
  jax.tree.map(close, mean, wanted)
  jax.tree.map(close, metrics, wanted_metrics)


def test_what_is_missing(run, batch):
  with pytest.raises(BadInput, match=r'no kl_mask; add them, or set .*apo_zero_unpaired'):
    run({k: v for k, v in batch.items() if k != 'kl_mask'})
  with pytest.raises(BadInput, match='no ref_logp'):
    run({k: v for k, v in batch.items() if k != 'ref_logp'})


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(kind='kt'), "did you mean 'kto'"),
    (dict(beta=0.0), 'beta 0.0'),
    (dict(desirable_weight=-1.0), 'desirable_weight -1.0'),
    (dict(undesirable_weight=-1.0), 'undesirable_weight -1.0'),
  ],
)
def test_what_cannot_be(check, options, message):
  with pytest.raises(BadInput, match=message):
    check(kto.loss_fn, **options)

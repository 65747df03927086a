"""Two toys with a known answer: DPO finds the optimal policy, a reward model the planted reward."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.losses import dpo, reward
from llm_jax.losses.logprobs import score

ACTIONS, BETA = 5, 0.5


def minimise(loss, params, steps=400, learning_rate=0.05):
  """`params` after Adam with a rate that falls to 0."""
  tx = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

  def step(carry, _):
    params, state = carry
    updates, state = tx.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, updates), state), None

  run = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), None, steps)[0][0])
  return run(params)


def bandit(table, kind, beta=BETA):
  """The policy [A] that a kind of DPO learns from all pairs, weighed by how often they come up.

  The preferences are those of Bradley and Terry under a reward: (learned, reference, reward).
  """
  draw = np.random.default_rng(0)
  prior, prize = draw.normal(size=ACTIONS), draw.normal(size=ACTIONS)
  model = table(ACTIONS)
  reference = {'table': jnp.tile(jnp.float32(prior), (ACTIONS, 1))}
  first, second = np.nonzero(~np.eye(ACTIONS, dtype=bool))
  weight = jnp.asarray(1 / (1 + np.exp(prize[second] - prize[first])), jnp.float32)
  actions = np.stack([first, second], axis=1)
  tokens = jnp.asarray(np.stack([np.zeros_like(actions), actions], axis=-1))  # a prompt, an answer
  batch = {'tokens': tokens, 'mask': jnp.zeros(tokens.shape, int).at[..., 1].set(1)}
  batch['ref_logp'] = score(model, reference, batch)

  def loss(params):
    one = lambda pair: (
      dpo.loss_fn(
        params, jax.tree.map(lambda x: x[None], pair), None, model=model, kind=kind, beta=beta
      )[0].total
    )
    return (weight * jax.vmap(one)(batch)).sum() / weight.sum()

  learned = minimise(loss, reference)
  softmax = lambda x: np.asarray(jax.nn.softmax(jnp.asarray(x)))
  return softmax(learned['table'][0]), softmax(prior), prize


def apart(p, q):
  """Total variation."""
  return 0.5 * np.abs(p - q).sum()


@pytest.mark.parametrize('kind', ['sigmoid', 'sigmoid_norm'])
def test_dpo_reaches_the_optimum_of_the_bandit(table, kind):
  learned, reference, prize = bandit(table, kind)
  optimum = reference * np.exp(prize / BETA)
  optimum /= optimum.sum()
  assert apart(reference, optimum) > 0.3
  assert apart(learned, optimum) < 0.02
  assert apart(learned, reference * np.exp(prize) / (reference * np.exp(prize)).sum()) > 0.1


class Linear:
  """A reward model over fixed features: token i is item i, its score `scalar` . `features[i]`."""

  shape = SimpleNamespace(causal=True)

  def __init__(self, features):
    self.features = jnp.asarray(features, jnp.float32)

  def apply(self, params, x, *place, method):
    return x @ params['scalar'] if method == 'unembed' else (self.features[x], None)


DIM, PROMPTS = 6, 1500


def planted(count, *, seed=0, prompts=PROMPTS):
  """Features of `count` answers to every prompt, ranked by Plackett-Luce under a planted reward.

  The last feature is always 1, which preferences cannot see and scores can.
  """
  draw = np.random.default_rng(seed)
  wanted = np.random.default_rng(7).normal(size=DIM)
  features = draw.normal(size=(prompts, count, DIM))
  features[..., -1] = 1
  truth = features @ wanted
  order = np.argsort(-(truth + draw.gumbel(size=truth.shape)), axis=1)
  features = np.take_along_axis(features, order[..., None], axis=1)
  return features, np.take_along_axis(truth, order, axis=1), wanted


def fit(features, grade=None, start=0.0, **options):
  """The scalar [D] learned from rankings."""
  rows, count, _ = features.shape
  batch = {
    'tokens': jnp.arange(rows * count).reshape(rows, count, 1),
    'segment': jnp.ones((rows, count, 1), int),
  }
  if grade is not None:
    batch['margin'] = jnp.asarray(grade, jnp.float32)
  model = Linear(features.reshape(-1, DIM))
  loss = lambda params: reward.loss_fn(params, batch, None, model=model, **options)[0].value
  return np.asarray(minimise(loss, {'scalar': jnp.full(DIM, start)}, steps=200)['scalar'])


@functools.cache
def unseen():
  return planted(2, seed=1, prompts=8000)


def accuracy(scalar):
  features, _, _ = unseen()
  scores = features @ scalar
  return (scores[:, 0] > scores[:, 1]).mean()


def test_a_reward_model_is_as_good_as_the_reward():
  features, _, wanted = planted(2)
  best = accuracy(wanted)
  assert 0.6 < best < 0.95  # nobody can be right about all pairs
  for options in ({}, dict(kind='best_of_k')):  # the same for two
    learned = fit(features, **options)
    assert accuracy(learned) > best - 0.02
    np.testing.assert_allclose(learned[:-1], wanted[:-1], atol=0.3)
  assert accuracy(np.ones(DIM)) < best - 0.05


def test_more_answers_to_a_prompt_say_more():
  def error(count, **options):
    sets = [planted(count, seed=seed, prompts=200) for seed in range(4)]
    off = [fit(features, **options) - wanted for features, _, wanted in sets]
    return np.sqrt((np.array(off)[:, :-1] ** 2).mean())

  pairs, rankings = error(2), error(6)
  assert rankings < 0.75 * pairs
  assert error(6, kind='best_of_k') < pairs


def test_a_margin_widens_what_is_clearly_better():
  features, truth, _ = planted(2)
  clearly = truth[:, 0] - truth[:, 1] > np.median(np.abs(truth[:, 0] - truth[:, 1]))
  gap = lambda scalar: (features[:, 0] - features[:, 1])[clearly] @ scalar
  plain = gap(fit(features)).mean()
  small = gap(fit(features, 3 * clearly, margin='small')).mean()
  large = gap(fit(features, 3 * clearly, margin='large')).mean()
  assert plain + 0.3 < small < large - 0.3


def test_centring_moves_scores_and_not_their_order():
  features, _, wanted = planted(2)
  free, held = (fit(features, start=2.0, centering=c) for c in (0.0, 0.05))
  mean = lambda scalar: (features @ scalar).mean()
  assert mean(free) > 1.8  # where it started
  assert abs(mean(held)) < 0.1
  assert accuracy(held) > accuracy(wanted) - 0.02

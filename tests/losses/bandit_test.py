"""GRPO, REINFORCE, PPO and DPO find the same policy of a bandit: ref * exp(reward / beta) / Z."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.annotate import gae, group_advantage, kl_reward
from llm_jax.losses import policy_gradient, ppo
from llm_jax.losses.logprobs import score
from tests.losses.learning_test import ACTIONS, BETA, apart, bandit

ANSWERS = 1000


class ActorCritic:
  """A table of logits that speaks, and one number, `value` [V], after each token."""

  def __init__(self, policy):
    self.policy, self.shape = policy, policy.shape

  def apply(self, params, x, *place, method):
    if method == 'value':
      return params['value'][x]
    return self.policy.apply(params, x, *place, method=method)


@pytest.fixture(scope='module')
def problem(table):
  """What DPO makes of the bandit, the reference and the rewards it was asked about."""
  learned, reference, prize = bandit(table, 'sigmoid')
  optimum = reference * np.exp(prize / BETA)
  model = table(ACTIONS)
  params = {'table': jnp.tile(jnp.log(jnp.float32(reference)), (ACTIONS, 1))}
  return SimpleNamespace(
    dpo=learned,
    reference=reference,
    prize=prize,
    optimum=optimum / optimum.sum(),
    model=model,
    params=params,
  )


def improve(problem, model, params, annotate, loss_fn, *, group, epochs=1, rollouts=200):
  """The policy [A] after Adam, with a rate that falls to 0, on answers of the policy itself.

  An action is answered as often as it is likely, to within one answer: these are expectations,
  and nothing is drawn.
  """
  reference, prize = problem.params, jnp.asarray(problem.prize, jnp.float32)
  tx = optax.adam(optax.cosine_decay_schedule(0.05, rollouts * epochs))
  place = (jnp.arange(ANSWERS) + 0.5) / ANSWERS

  def rollout(params):
    probability = jax.nn.softmax(params['table'][0])
    action = jnp.searchsorted(jnp.cumsum(probability)[:-1], place)
    tokens = jnp.stack([jnp.zeros_like(action), action], axis=-1).reshape(-1, group, 2)
    batch = {'tokens': tokens, 'mask': jnp.zeros_like(tokens).at[..., 1].set(1)}
    batch['reward'] = prize[tokens[..., 1]]
    batch['old_logp'] = score(model, params, batch)
    batch['ref_logp'] = score(problem.model, reference, batch)
    for function in annotate:
      batch = function(params, batch, jax.random.key(0))
    return batch

  def update(carry, batch):
    params, state = carry
    grads = jax.grad(lambda p: loss_fn(p, batch, None, model=model)[0].value)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  def step(carry, _):
    batch = rollout(carry[0])
    for _ in range(epochs):
      carry = update(carry, batch)
    return carry, None

  run = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), None, rollouts)[0][0])
  return np.asarray(jax.nn.softmax(run(params)['table'][0]))


def grpo(problem, **options):
  """Rewards less their mean, and the divergence in the loss; two updates from each rollout."""
  advantage = group_advantage.make(None, None, scale='none')
  loss_fn = functools.partial(policy_gradient.loss_fn, kl_weight=BETA, **options)
  return improve(
    problem, problem.model, problem.params, [advantage], loss_fn, group=ANSWERS, epochs=2
  )


def assert_optimal(problem, learned):
  assert apart(problem.reference, problem.optimum) > 0.3
  assert apart(learned, problem.optimum) < 0.02
  assert apart(learned, problem.dpo) < 0.03


@pytest.mark.parametrize(
  'options',
  [dict(kl_estimator='k2'), dict(kl_estimator='k3', kl_importance=True)],
  ids=['k2', 'k3_importance'],
)
def test_grpo_with_a_divergence_whose_gradient_is_right(problem, options):
  assert_optimal(problem, grpo(problem, **options))


def test_k3_in_the_loss_holds_the_policy_by_the_other_divergence(problem):
  """Its gradient is that of KL(ref, policy), so the optimum is beta * ref / (level - reward)."""
  learned = grpo(problem, kl_estimator='k3')
  level = (problem.prize + BETA * problem.reference / learned) @ learned
  wanted = BETA * problem.reference / (level - problem.prize)
  assert apart(learned, wanted) < 0.02
  assert apart(learned, problem.optimum) > 0.05


def test_reinforce_with_the_divergence_in_the_reward(problem):
  annotate = [
    kl_reward.make(None, None, coefficient=BETA),
    gae.make(problem.model, None, critic=False, whiten=False),
  ]
  loss_fn = functools.partial(policy_gradient.loss_fn, kind='reinforce')
  learned = improve(problem, problem.model, problem.params, annotate, loss_fn, group=1)
  assert_optimal(problem, learned)


def test_ppo_with_the_divergence_in_the_reward_and_a_critic(problem):
  model = ActorCritic(problem.model)
  annotate = [kl_reward.make(None, None, coefficient=BETA), gae.make(model, None, whiten=False)]
  params = problem.params | {'value': jnp.zeros(ACTIONS)}
  learned = improve(problem, model, params, annotate, ppo.loss_fn, group=1, epochs=2)
  assert_optimal(problem, learned)

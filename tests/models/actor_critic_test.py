"""A policy and its critic: to the outside the policy, and values that belong to the critic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import artifact
from llm_jax.losses import ppo
from llm_jax.losses.logprobs import score
from llm_jax.models import actor_critic
from llm_jax.models.transformer import Transformer
from llm_jax.parallel.mesh import make_mesh
from llm_jax.parallel.parameters import shardings
from llm_jax.types import BadInput

POLICY = dict(vocab_size=24, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, max_length=32)
CRITIC = POLICY | dict(dim=8, num_layers=1, num_heads=2, head='scalar')
TOKENS = np.random.default_rng(0).integers(0, 24, (3, 7)).astype(np.int32)


def make(policy=(), critic=()):
  return actor_critic.make(policy=POLICY | dict(policy), critic=CRITIC | dict(critic))


@pytest.fixture(scope='module')
def model():
  return make()


@pytest.fixture(scope='module')
def params(model):
  """Parameters that are all random: a scalar head begins at 0."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  draw = np.random.default_rng(0)
  return jax.tree.map(lambda x: jnp.asarray(draw.normal(0.1, 0.4, x.shape), x.dtype), shapes)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_it_applies_as_its_policy(model, params):
  theirs = params['policy']
  logits, cache = jax.jit(model.apply)(params, TOKENS)
  same(logits, jax.jit(model.policy.apply)(theirs, TOKENS)[0])
  assert logits.shape == (3, 7, 24) and cache is None

  @functools.partial(jax.jit, static_argnums=0)
  def read(model, params):
    hidden, _ = model.apply(params, TOKENS, method='hidden')
    last = model.apply(params, hidden[:, -1], method='unembed')
    return hidden, last, score(model, params, {'tokens': jnp.asarray(TOKENS)})

  jax.tree.map(same, read(model, params), read(model.policy, theirs))
  assert model.shape is model.policy.shape and model.frozen == ()
  assert jax.tree.structure(model.make_cache(2, 5)) == jax.tree.structure(
    model.policy.make_cache(2, 5)
  )


def test_values_are_those_of_the_critic(model, params):
  position = np.broadcast_to(np.arange(7), TOKENS.shape)
  segment = np.ones(TOKENS.shape, np.int32)
  for place in ((), (position, segment)):
    values = jax.jit(lambda p, *place: model.apply(p, TOKENS, *place, method='value'))(
      params, *place
    )
    assert values.shape == (3, 7) and values.dtype == np.float32 and np.ptp(values) > 0
    same(values, jax.jit(model.critic.apply)(params['critic'], TOKENS, *place)[0])


def test_neither_half_has_a_gradient_of_the_other(model, params):
  moved = lambda tree: {name: any(np.any(x) for x in jax.tree.leaves(tree[name])) for name in tree}
  of_values = jax.grad(lambda p: (model.apply(p, TOKENS, method='value') ** 2).sum())
  of_logits = jax.grad(lambda p: (model.apply(p, TOKENS)[0] ** 2).sum())
  assert moved(jax.jit(of_values)(params)) == {'policy': False, 'critic': True}
  assert moved(jax.jit(of_logits)(params)) == {'policy': True, 'critic': False}


def test_the_value_of_a_choice_depends_on_no_token_from_there_on(model, params):
  values = jax.jit(lambda tokens: ppo.values(model, params, {'tokens': tokens}))
  before = values(jnp.asarray(TOKENS[:, None]))
  assert before.shape == (3, 1, 7) and not before[..., 0].any()
  changed = TOKENS.copy()
  changed[:, 4] = (changed[:, 4] + 1) % 24
  moved = np.abs(values(jnp.asarray(changed[:, None])) - before)[:, 0] > 1e-6
  assert not moved[:, :5].any() and moved[:, 5:].all()


def test_parameters_are_those_of_both_and_drawn_apart():
  twins = make(critic=POLICY | dict(head='scalar'))
  params = jax.jit(twins.init)(jax.random.key(0), TOKENS)
  assert set(params) == {'policy', 'critic'}
  tables = [params[name]['embedding']['table'] for name in params]
  assert tables[0].shape == tables[1].shape and not np.array_equal(*tables)
  assert twins.num_params() == sum(leaf.size for leaf in jax.tree.leaves(params))
  assert twins.flops_per_token(8) == sum(
    half.flops_per_token(8) for half in (twins.policy, twins.critic)
  )


def test_what_is_published_and_what_decodes_is_the_policy_alone(model, params):
  published, theirs = model.published(params)
  assert published is model.policy and theirs is params['policy']
  fast, arranged = model.for_decoding(params)
  assert isinstance(fast, Transformer)
  same(arranged, model.policy.for_decoding(params['policy'])[1])
  group = dict(name='actor_critic', policy=POLICY, critic=CRITIC)
  assert artifact.build(group) == model
  assert artifact.build(artifact.published(group)) == model.policy


def test_both_halves_are_spread_over_a_mesh(model):
  placed = shardings(artifact.abstract_params(model), make_mesh(fsdp=2, tensor=2))
  for half in (placed['policy'], placed['critic']):
    spread = [s for s in jax.tree.leaves(half) if not s.is_fully_replicated]
    assert len(spread) >= 8  # every matrix


def test_a_critic_is_given_its_head():
  shape = {k: v for k, v in CRITIC.items() if k != 'head'}
  given = actor_critic.make(policy={**POLICY, 'name': 'transformer'}, critic=shape)
  assert given == make() and given.critic.shape.head == 'scalar'
  assert make(critic=dict(max_length=64, vocab_size=30)).critic.shape.vocab_size == 30


@pytest.mark.parametrize(
  ('policy', 'critic', 'message'),
  [
    ({}, dict(head='tied'), r"critic scores; set config\.model\.critic\.head='scalar'"),
    (dict(head='scalar'), {}, 'model: policy speaks and critic scores'),
    ({}, dict(vocab_size=20), r'critic\.vocab_size 20 is below 24 of the policy'),
    ({}, dict(max_length=16), r'critic\.max_length 16 is below 32 of the policy'),
    (dict(num_layer=1), {}, "model: unknown field 'num_layer'; did you mean 'num_layers'"),
  ],
  ids=lambda x: str(x)[:30],
)
def test_halves_that_cannot_be(policy, critic, message):
  with pytest.raises(BadInput, match=message):
    make(policy, critic)

"""Experts: each token gets what its own say, on any mesh, and none is left idle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.losses import cross_entropy
from llm_jax.models import moe, transformer
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.parallel.parameters import shardings
from llm_jax.training import optimizer
from llm_jax.training.step import compile_step, start_state
from llm_jax.types import BadInput, Mean

SMALL = dict(vocab_size=32, dim=16, num_layers=2, num_heads=4, hidden_dim=8, max_length=32)
MESHES = [
  dict(expert=4),
  dict(fsdp=2, expert=2, tensor=2),
  dict(expert=2, sequence=4),
  dict(fsdp=8),  # no axis for experts
]


@functools.cache
def build(**mixture):
  model = transformer.make(**SMALL, experts=dict(count=4, per_token=2) | mixture)
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  return model, params


def batch_of(rows=8, length=16):
  draw = np.random.default_rng(0)
  segment = np.where(np.arange(length) < 9, 1, 2) * (np.arange(length) < length - 3)
  segment = np.broadcast_to(segment, (rows, length)).astype(np.int32)
  position = np.where(np.arange(length) < 9, np.arange(length), np.arange(length) - 9)
  tokens = draw.integers(0, 32, (rows, length)).astype(np.int32)
  return {
    'tokens': tokens,
    'segment': segment,
    'position': np.broadcast_to(position, tokens.shape).astype(np.int32),
    'mask': (segment > 0).astype(np.float32) * (np.arange(length) > 0),
  }


@functools.partial(jax.jit, static_argnums=0)
def summed(model, params, batch):
  """The sum that the train step differentiates, and its gradient."""
  loss = lambda p: cross_entropy.loss_fn(p, batch, jax.random.key(0), model=model)[0].total
  return jax.value_and_grad(loss)(params)


def close(a, b, **options):
  options = dict(rtol=1e-5, atol=1e-5) | options
  jax.tree.map(functools.partial(np.testing.assert_allclose, **options), a, b)


def textbook(x_TD, index_TK, weight_TK, gate, up, down):
  """Every token through each of its experts, one by one, in numpy."""
  silu = lambda x: x / (1 + np.exp(-x))
  out = np.zeros_like(x_TD)
  for t, x in enumerate(x_TD):
    for e, weight in zip(index_TK[t], weight_TK[t], strict=True):
      out[t] += weight * ((silu(x @ gate[e]) * (x @ up[e])) @ down[e])
  return out


def test_each_token_gets_what_its_experts_say():
  draw = np.random.default_rng(0)
  normal = lambda *shape: draw.normal(size=shape)
  x, weight = normal(1, 7, 6), normal(1, 7, 2)
  index = np.stack([draw.permutation(5)[:2] for _ in range(7)])[None]  # expert 4 may be idle
  gate, up, down = normal(5, 6, 3), normal(5, 6, 3), normal(5, 3, 6)
  given = [jnp.asarray(a, jnp.float32) for a in (x, weight, gate, up, down)]
  out = moe.dispatch(given[0], jnp.asarray(index), *given[1:])
  close(out[0], textbook(x[0], index[0], weight[0], gate, up, down))


def test_experts_of_other_devices_say_nothing_here():
  draw = np.random.default_rng(0)
  x, weight = jnp.ones((1, 3, 4)), jnp.ones((1, 3, 1))
  experts = [
    jnp.asarray(draw.normal(size=s), jnp.float32) for s in ((2, 4, 3), (2, 4, 3), (2, 3, 4))
  ]
  out = moe._local(x, jnp.array([[[-1], [1], [2]]]), weight, *experts)
  assert not out[0, 0].any() and not out[0, 2].any() and out[0, 1].any()


@pytest.mark.parametrize('balance', ['loss', 'bias'])
@pytest.mark.parametrize('axes', MESHES, ids=str)
def test_devices_change_nothing(axes, balance):
  model, params = build(balance=balance, weight=1.0)
  value, grad = summed(model, params, batch_of())
  mesh = make_mesh(**axes)
  with jax.set_mesh(mesh):
    placed = jax.device_put(params, shardings(params, mesh))
    other = summed(model, placed, shard_batch(batch_of(), mesh))
  close(other[0], value)
  close(jax.device_get(other[1]), jax.device_get(grad), atol=2e-5)


def test_rows_that_cannot_be_cut_are_everywhere():
  model, params = build()
  tokens = batch_of(rows=1)['tokens']
  alone = jax.jit(model.apply)(params, tokens)[0]
  mesh = make_mesh(expert=4)
  with jax.set_mesh(mesh):
    placed = jax.device_put(params, shardings(params, mesh))
    close(jax.jit(model.apply)(placed, tokens)[0], alone)


@pytest.mark.parametrize('balance', ['loss', 'bias'])
def test_rows_add_up(balance):
  """So that accumulation, which cuts a batch by rows, changes nothing."""
  model, params = build(balance=balance, weight=1.0)
  _, whole = summed(model, params, batch_of(rows=4))
  parts = [
    summed(model, params, {k: v[i : i + 2] for k, v in batch_of(rows=4).items()})[1] for i in (0, 2)
  ]
  close(jax.tree.map(jnp.add, *parts), whole, atol=2e-5)


def test_padding_has_no_part_in_the_balance():
  model, params = build(weight=1.0)
  batch = batch_of(rows=2)
  wide = {k: np.pad(v, ((0, 0), (0, 8))) for k, v in batch.items()}
  close(summed(model, params, wide)[1], summed(model, params, batch)[1], atol=2e-5)


def test_the_balance_is_felt_and_not_reported():
  batch = batch_of(rows=2)
  (plain, params), (heavy, _) = build(balance='none'), build(weight=3.0)
  value, grad = summed(plain, params, batch)
  other, moved = summed(heavy, params, batch)
  close(other, value)
  near = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), grad, moved)
  assert near['blocks']['experts']['router'] > 1e-3


def test_the_balance_is_the_formula():
  draw = np.random.default_rng(0)
  prob = jax.nn.softmax(jnp.asarray(draw.normal(size=(1, 5, 4)), jnp.float32))
  index = jax.lax.top_k(prob, 2)[1]
  layer = moe.Experts(8, moe.Mixture(4, 2, weight=0.5), 1.0, parent=None)
  real = jnp.array([[1, 1, 1, 1, 0]])
  share = np.bincount(np.asarray(index[0, :4]).ravel(), minlength=4) / 8
  wanted = 0.5 * 4 * 4 * (share * np.asarray(prob[0, :4]).mean(0)).sum()  # four tokens
  close(layer._unbalance(prob, index, None, real), wanted)


def test_a_bias_sinks_where_the_load_is_high():
  model, params = build(balance='bias', weight=1.0)
  params = jax.tree.map(lambda x: x, params)  # other tests have them too
  bias = params['blocks']['experts']['router_bias']
  params['blocks']['experts']['router_bias'] = bias.at[:, 2].set(10)  # everyone goes to 2
  batch = batch_of(rows=2)
  grad = summed(model, params, batch)[1]['blocks']['experts']['router_bias']
  tokens = float((batch['segment'] > 0).sum())
  close(grad[:, 2], np.full(2, tokens * (4 / 2 - 1)), rtol=1e-4)
  close(grad.sum(1), np.zeros(2), atol=1e-3)


@pytest.mark.parametrize(
  ('mixture', 'message'),
  [
    (dict(per_token=5), 'per_token 5 must be from 1 to count 4'),
    (dict(balance='bais'), "balance 'bais'; did you mean 'bias'"),
    (dict(wieght=1), "model.experts: unknown field 'wieght'; did you mean 'weight'"),
  ],
)
def test_bad_input(mixture, message):
  with pytest.raises(BadInput, match=message):
    build(**mixture)


def test_flops_count_the_experts_of_a_token():
  model, dense = build()[0], transformer.make(**SMALL)
  mlp = 3 * 16 * 8
  assert model.flops_per_token(8) - dense.flops_per_token(8) == 6 * 2 * (mlp + 16 * 4)


@pytest.mark.parametrize('balance', ['loss', 'bias'])
@pytest.mark.parametrize('accumulate', [1, 2])
def test_the_balance_does_not_depend_on_what_the_loss_counts(balance, accumulate):
  # One loss counts tokens and the other rows; their means, and so all gradients, are the same.
  model, params = build(balance=balance, weight=0.5)

  def loss_fn(params, batch, rng):
    loss, metrics = cross_entropy.loss_fn(params, batch, rng, model=model)
    of = batch['of'][0]
    return Mean(loss.total * of, loss.count * of), metrics

  mesh, tx = make_mesh(data=1), optimizer.guard(optax.sgd(1.0), None)
  fresh = lambda: start_state(jax.tree.map(jnp.copy, params), tx, mesh)
  how = dict(tx=tx, seed=0, accumulate=accumulate, balances=True)
  step = compile_step(fresh(), mesh, loss_fn=loss_fn, **how)
  batches = [batch_of() | {'of': np.full(8, of, np.float32)} for of in (1.0, 1 / 13)]
  moved = [step(fresh(), batch)[0].params for batch in batches]
  close(*moved, atol=1e-6)
  delta = jax.tree.map(lambda a, b: np.abs(a - b).max(), moved[0], params)
  assert delta['blocks']['experts']['router_bias' if balance == 'bias' else 'router'] > 1e-3


def test_what_decodes_chooses_the_experts_that_training_does():
  model = transformer.make(
    **SMALL, experts=dict(count=4, per_token=2), compute=dict(dtype='bfloat16')
  )
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  # Far apart, so that a router that was rounded would choose otherwise.
  params['blocks']['experts']['router'] *= 30
  tokens = batch_of()['tokens']
  trained = jax.jit(lambda p: model.apply(p, tokens)[0])(params)
  decoding, arranged = model.for_decoding(params)
  assert arranged['blocks'][0]['experts']['router'].dtype == jnp.float32
  cache = decoding.make_cache(*tokens.shape)
  decoded = jax.jit(lambda p: decoding.apply(p, tokens, cache=cache)[0])(arranged)
  close(decoded, trained, atol=0.02)


def test_a_batch_of_padding_alone_moves_nothing_and_breaks_nothing():
  model, params = build()
  batch = {k: np.zeros_like(v) for k, v in batch_of().items()}
  loss_fn = functools.partial(cross_entropy.loss_fn, model=model)
  tx = optimizer.guard(optax.sgd(1.0), None)
  mesh = make_mesh(data=1)
  state = start_state(jax.tree.map(jnp.copy, params), tx, mesh)
  step = compile_step(state, mesh, loss_fn=loss_fn, tx=tx, seed=0, balances=True)
  state, metrics = step(state, batch)
  assert float(metrics['skipped'].value) == 0
  close(state.params, params, atol=0, rtol=0)

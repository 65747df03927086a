"""What devices compute alone is what one computes, and its gradient is exchanged once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from llm_jax.losses import cross_entropy
from llm_jax.models import transformer
from llm_jax.parallel import apart as module
from llm_jax.parallel.apart import apart, on_one_device, whole
from llm_jax.parallel.collectives import collectives
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.parallel.parameters import shardings

KERNEL = {'kernel': jnp.asarray(np.random.default_rng(0).normal(size=(16, 24)), jnp.float32)}
X_BLD = jnp.asarray(np.random.default_rng(1).normal(size=(8, 4, 16)), jnp.float32)


def squares(params, x_BLD):
  """A sum over three blocks of tokens, of which each reads the parameter."""
  read = lambda params, x_BLD: jax.lax.map(lambda scale: scale * x_BLD @ params['kernel'], SCALES)
  out = apart(lambda *args: read(*args).sum(0), params, x_BLD, under='head/', ahead=jnp.float32)
  return (out**2).sum()


SCALES = jnp.array([1.0, 2.0, 3.0])


def graded(**axes):
  mesh = make_mesh(**axes)
  with jax.set_mesh(mesh):
    place = {'kernel': NamedSharding(mesh, jax.sharding.PartitionSpec('fsdp', 'tensor'))}
    params = jax.device_put(KERNEL, place)
    compiled = jax.jit(jax.grad(squares), out_shardings=place).lower(params, X_BLD).compile()
    return compiled(params, X_BLD)['kernel'], collectives(compiled.as_text())


@pytest.mark.parametrize(
  'axes',
  [
    dict(fsdp=8), dict(data=2, fsdp=4), dict(fsdp=2, sequence=4), dict(fsdp=4, tensor=2),
    dict(data=2, fsdp=2, expert=2),
  ],
  ids=str,
)  # fmt: skip
@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_devices_give_the_gradient_of_one_and_exchange_it_once(monkeypatch, axes, platform):
  monkeypatch.setattr(module, 'platform', lambda: platform)
  found, exchanged = graded(**axes)
  expected = jax.grad(squares)(KERNEL, X_BLD)['kernel']
  np.testing.assert_allclose(found, expected, atol=1e-6 * float(jnp.abs(expected).max()))
  assert {c.times for c in exchanged} == {1}
  if 'tensor' in axes:  # what it cuts is left to the compiler
    return
  size = 4 * 16 * 24
  assert sum(c.bytes for c in exchanged if c.kind == 'all-gather') == size
  moved = sum(c.moved for c in exchanged if c.kind == 'reduce-scatter')
  assert moved == size * (axes['fsdp'] - 1) / axes['fsdp']


def test_what_cannot_be_cut_evenly_is_not_cut():
  alone = []

  def run(params, x_BLD):
    alone.append(on_one_device())
    return x_BLD

  call = lambda params, x_BLD: apart(run, params, x_BLD, under='head/')
  with jax.set_mesh(make_mesh(fsdp=8)):
    for rows, inputs in [(16, 16), (12, 16), (16, 12)]:
      jax.eval_shape(call, {'kernel': jnp.ones((inputs, 24))}, jnp.ones((rows, 4, inputs)))
  assert alone == [True, False, False]


MODEL = dict(vocab_size=64, dim=32, num_layers=2, num_heads=4, hidden_dim=64, max_length=32)


@pytest.mark.parametrize(
  'options',
  [
    dict(),
    dict(head='untied', compute=dict(remat='full')),
    dict(position='learned', qk_norm=True, compute=dict(scan_layers=False, fuse=True)),
    dict(layers=('local', 'global'), window=8, qkv_bias=True),
  ],
  ids=str,
)
def test_models_are_what_they_are_on_one_device(options):
  model = transformer.make(**MODEL | options)
  rng = np.random.default_rng(2)
  batch = {
    'tokens': rng.integers(0, 64, (8, 16)).astype(np.int32),
    'position': np.tile(np.arange(16, dtype=np.int32), (8, 1)),
    'segment': np.ones((8, 16), np.int32),
    'mask': rng.integers(0, 2, (8, 16)).astype(np.float32),
  }
  params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  loss = lambda params, batch: (
    cross_entropy.loss_fn(params, batch, jax.random.key(0), model=model)[0].total
  )
  expected = jax.jit(jax.value_and_grad(loss))(params, batch)
  mesh = make_mesh(data=2, fsdp=4)
  with jax.set_mesh(mesh):
    params = jax.device_put(params, shardings(params, mesh))
    found = jax.jit(jax.value_and_grad(loss))(params, shard_batch(batch, mesh))
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_a_layer_is_exchanged_in_the_type_that_it_is_read_in():
  made = {}

  def run(params, x_BLD):
    made.update(whole(params, jnp.bfloat16, 'blocks/'))
    return x_BLD

  params = {'mlp': {'up': jnp.ones((2, 16, 8))}, 'attention': {'sink': jnp.ones((2, 4))}}
  with jax.set_mesh(make_mesh(fsdp=8)):
    jax.eval_shape(lambda p, x: apart(run, p, x, under='blocks/'), params, X_BLD)
  kept = jax.tree.map(lambda x: (x.shape, x.dtype.name), made)
  assert kept == {
    'mlp': {'up': ((2, 16, 8), 'bfloat16')},
    'attention': {'sink': ((2, 4), 'float32')},
  }

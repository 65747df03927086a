"""LoRA: the base at first, its merged self at the end, and little memory in between."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import artifact
from llm_jax.find import bind
from llm_jax.losses import cross_entropy
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.parallel.parameters import path_of
from llm_jax.training import optimizer
from llm_jax.training.step import compile_step, make_state
from llm_jax.types import BadInput

SHAPE = dict(name='transformer', vocab_size=24, dim=16, num_layers=2, num_heads=4, num_kv_heads=2)
TOKENS = np.random.default_rng(0).integers(0, 24, (4, 12)).astype(np.int32)


def adapted(lora=None, compute=None, **shape):
  return artifact.build(SHAPE | shape | {'lora': lora or dict(rank=2)}, compute)


def params_of(model, seed=0):
  """Parameters with a `b` that is not 0, so that the additions count."""
  params = jax.jit(model.init)(jax.random.key(seed), TOKENS)
  draw = np.random.default_rng(seed)
  return jax.tree.map(lambda x: x + draw.normal(0, 0.1, x.shape).astype(np.float32), params)


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params):
  return model.apply(params, TOKENS)[0]


@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('head', ['tied', 'untied', 'scalar'])
def test_it_starts_as_its_base_and_ends_as_its_merged_self(scan, head):
  targets = 'blocks/(attention/[qkvo]|mlp/(gate|up|down))$|head/kernel$'
  model = adapted(dict(rank=2, targets=targets), compute=dict(scan_layers=scan), head=head)
  fresh = jax.jit(model.init)(jax.random.key(0), TOKENS)
  np.testing.assert_array_equal(logits(model, fresh), logits(model.base, fresh['base']))
  params = params_of(model)
  moved = logits(model, params)
  assert np.abs(moved - logits(model.base, params['base'])).max() > 0.05
  merged = model.merged(params)
  assert jax.tree.structure(merged) == jax.tree.structure(params['base'])
  np.testing.assert_allclose(moved, logits(model.base, merged), atol=2e-5)


def test_the_cache_works_too():
  model = adapted()
  params = params_of(model)
  cache = model.make_cache(4, 12)
  whole, _ = jax.jit(lambda p: model.apply(p, TOKENS, cache=cache))(params)
  np.testing.assert_allclose(whole, logits(model, params), atol=2e-5)


@pytest.mark.parametrize(
  ('dtype', 'head', 'scan'),
  [('float32', 'tied', True), ('float32', 'untied', False), ('bfloat16', 'untied', True)],
)
def test_decoding_reads_arranged_parameters_and_says_the_same(dtype, head, scan):
  targets = 'blocks/(attention/[qkvo]|mlp/(gate|up|down))$|head/kernel$'
  model = adapted(dict(rank=2, targets=targets), dict(dtype=dtype, scan_layers=scan), head=head)
  params = params_of(model)
  fast, arranged = model.for_decoding(params)
  place = (np.broadcast_to(np.arange(12), TOKENS.shape), np.ones_like(TOKENS))

  def said(model, params):
    cache, parts, step = model.make_cache(4, 12), [], jax.jit(model.apply)
    for now in (slice(0, 10), slice(10, 11), slice(11, 12)):
      logits, cache = step(params, TOKENS[:, now], *(x[:, now] for x in place), cache)
      parts.append(np.asarray(logits))
    return np.concatenate(parts, axis=1)

  found, wanted = said(fast, arranged), said(model, params)
  assert np.abs(wanted - said(model.base, params['base'])).max() > 0.05  # the additions count
  np.testing.assert_allclose(found, wanted, atol=2e-5 if dtype == 'float32' else 0.02)


def test_what_is_published_is_the_merged_base():
  model = adapted()
  params = params_of(model)
  base, merged = model.published(params)
  assert base is model.base
  jax.tree.map(np.testing.assert_array_equal, merged, jax.jit(model.merged)(params))
  group = SHAPE | {'lora': dict(rank=2)}
  assert artifact.published(group) == SHAPE
  assert artifact.published(SHAPE) == SHAPE


def sizes(state):
  """Bytes of the optimizer's state, and of all that a step gives back beside the base."""
  count = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  return count(state.opt_state)


def trained(model, mesh, steps=3, accumulate=2):
  tx, _ = optimizer.make(total_steps=10, learning_rate=1e-2, warmup_steps=1, ema=0.5)
  tx = optimizer.freeze(tx, model.frozen)
  with jax.set_mesh(mesh):
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    state = first = make_state(init, tx, mesh)
    first = jax.device_get(first)
    step = compile_step(
      state,
      mesh,
      loss_fn=bind(cross_entropy.loss_fn, {}, where='loss', model=model),
      tx=tx,
      seed=0,
      accumulate=accumulate,
      frozen=model.frozen,
    )
    batch = shard_batch({'tokens': TOKENS, 'mask': np.ones(TOKENS.shape, np.float32)}, mesh)
    memory, losses = step.lower(state, batch).compile().memory_analysis(), []
    for _ in range(steps):
      state, metrics = step(state, batch)
      losses.append(float(metrics['loss'].value))
  return first, state, losses, memory


def test_only_the_additions_move():
  first, state, losses, _ = trained(adapted(), make_mesh(data=1))
  assert losses[-1] < losses[0]
  same = lambda a, b: all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))
  assert same(first.params['base'], state.params['base'])
  moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), first.params, state.params)['lora']
  assert all(jax.tree.leaves(moved))
  averaged = optimizer.averaged_params(state)
  assert averaged['base'] is state.params['base'] and 'lora' in averaged


def test_a_fresh_reward_head_is_trained_whole():
  model = adapted(head='scalar')
  params = jax.jit(model.init)(jax.random.key(0), TOKENS)
  assert set(params['lora']['head']) == {'scalar', 'bias'}
  moved = {
    **params,
    'lora': {**params['lora'], 'head': {'scalar': jnp.ones(16), 'bias': jnp.ones(())}},
  }
  assert model.merged(moved)['head']['bias'] == 1
  np.testing.assert_allclose(
    logits(model, moved), logits(model.base, model.merged(moved)), atol=1e-5
  )


def test_eight_devices_give_the_same_losses():
  one = trained(adapted(), make_mesh(data=1), accumulate=1)
  eight = trained(adapted(), make_mesh(fsdp=2, tensor=2), accumulate=1)
  np.testing.assert_allclose(one[2], eight[2], rtol=1e-5)


def test_memory_is_less_than_a_third_of_the_full_optimizers():
  """Bytes beyond the frozen weights: gradients, moments and what the compiled step allocates."""
  shape = dict(vocab_size=64, dim=128, num_layers=4, hidden_dim=512)
  base = artifact.build(SHAPE | shape)
  _, full, _, full_memory = trained(base, make_mesh(data=1), steps=1)
  _, low, _, low_memory = trained(adapted(**shape), make_mesh(data=1), steps=1)
  assert sizes(low) < sizes(full) / 3
  params = sum(leaf.nbytes for leaf in jax.tree.leaves(full.params))
  extra = lambda m: m.temp_size_in_bytes + m.argument_size_in_bytes - params
  assert extra(low_memory) < extra(full_memory) / 3


@pytest.mark.parametrize(
  'lora, message',
  [
    (dict(rank=0), 'model.lora: rank 0; choose a whole number from 1'),
    (
      dict(targets='attention/w$'),
      r"targets 'attention/w\$' match nothing; choose from: blocks/att",
    ),
    (dict(targets='norm'), "match 'blocks/attention_norm/scale', which is no weight"),
    (dict(ranks=2), "model.lora: unknown option 'ranks'; did you mean 'rank'"),
  ],
)
def test_bad_input(lora, message):
  with pytest.raises(BadInput, match=message):
    adapted(lora)


def test_every_part_has_a_place():
  targets = 'blocks/(attention/[qkvo]|mlp/(gate|up|down))$|head/kernel$'
  model = adapted(dict(rank=2, targets=targets), head='untied')
  paths = [path_of(k) for k, _ in jax.tree_util.tree_flatten_with_path(params_of(model))[0]]
  assert {p for p in paths if p.endswith('/a')} == {
    f'lora/{p}/a'
    for p in (
      *(f'blocks/attention/{n}' for n in 'qkvo'),
      *(f'blocks/mlp/{n}' for n in ('gate', 'up', 'down')),
      'head/kernel',
    )
  }

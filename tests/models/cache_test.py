"""The cache: a row is what it would be alone, whatever its neighbours do."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.models import cache
from llm_jax.models.transformer import make
from llm_jax.parallel.mesh import make_mesh
from llm_jax.parallel.parameters import shardings
from llm_jax.sampling import pick
from llm_jax.sampling.generate import decode, generate, left_pad, start

SMALL = dict(vocab_size=19, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, hidden_dim=24)
VARIANTS = {'rope': {}, 'learned': dict(position='learned', window=3)}
TOKENS = np.random.default_rng(1).integers(0, 19, (3, 9), np.int32)


@functools.cache
def build(variant='rope', cache_dtype=None, dtype='float32'):
  compute = dict(cache_dtype=cache_dtype, dtype=dtype)
  model = make(**SMALL, max_length=32, compute=compute, **VARIANTS[variant])
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  draw = np.random.default_rng(0)
  params = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.5, x.shape), x.dtype), shapes)
  return params, jax.jit(model.apply), model


def alone(variant='rope'):
  """The logits of every row, without a cache."""
  params, apply, _ = build(variant)
  return np.asarray(apply(params, TOKENS)[0])


def play(held, paces, variant='rope', width=4, **how):
  """Reads TOKENS into a cache, so many of each row at a time; the cache, and the logits by row."""
  params, apply, _ = build(variant, **how)
  said = [[] for _ in TOKENS]
  for pace in paces:
    begin = np.asarray(held.index)
    real = np.arange(width) < np.array(pace)[:, None]
    position = begin[:, None] + np.arange(width)
    tokens = np.take_along_axis(TOKENS, np.minimum(position, 8), axis=1)
    logits, held = apply(params, tokens, position, real.astype(np.int32), held)
    for row, count in enumerate(pace):
      said[row].append(np.asarray(logits[row, :count]))
  return held, [np.concatenate(parts) for parts in said]


# Chunks of a prompt beside single tokens and rows that rest; at the end less than `width` is left.
PACES = [(4, 1, 0), (0, 1, 4), (1, 1, 2), (3, 1, 2), (1, 4, 1), (0, 1, 0)]


@pytest.mark.parametrize('variant', VARIANTS)
def test_rows_at_their_own_pace_are_as_alone(variant):
  _, _, model = build(variant)
  held, said = play(model.make_cache(3, 9), PACES, variant)
  assert held.index.tolist() == [9, 9, 9]
  np.testing.assert_allclose(said, alone(variant), atol=2e-5, rtol=2e-5)


def test_resting_rows_and_padding_write_nothing():
  _, _, model = build()
  held, _ = play(model.make_cache(3, 9), PACES[:3])
  after, _ = play(held, [(2, 0, 0)])
  for old, new in zip(jax.tree.leaves(held), jax.tree.leaves(after), strict=True):
    np.testing.assert_array_equal(old[1:], new[1:])
  assert not any(leaf[0, :, 7:].any() for leaf in jax.tree.leaves(after.layers))
  full, _ = play(held, [(4, 4, 3)])
  more, _ = play(full, [(0, 0, 0)])  # also where there is no slot left
  jax.tree.map(np.testing.assert_array_equal, full, more)


def test_rows_are_shortened_copied_replaced_and_given_room():
  params, _, model = build()
  held, _ = play(model.make_cache(3, 6), [(4, 4, 2)])
  short = held.rewind(jnp.array([2, 0, 9]))
  assert short.index.tolist() == [2, 0, 2]
  assert short.segment.sum(1).tolist() == [2, 0, 2]
  _, said = play(short.grow(9), [(4, 4, 4), (3, 4, 3), (0, 1, 0)])
  for row, first in enumerate((2, 0, 2)):
    np.testing.assert_allclose(said[row], alone()[row, first:], atol=2e-5, rtol=2e-5)
  # What row 0 holds goes on as row 2; its neighbours do not notice.
  other = held.place(jnp.array([2]), held.take(jnp.array([0])))
  np.testing.assert_array_equal(other.segment[2], held.segment[0])
  go = jax.jit(lambda cache: model.apply(
    params, TOKENS[[0, 1, 0], 4:5], other.index[:, None], None, cache
  )[0])(other)  # fmt: skip
  np.testing.assert_array_equal(go[2], go[0])
  np.testing.assert_allclose(go[:2, 0], alone()[:2, 4], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize('scale', [0.0, 1e-6, 1.0, 1e4])
def test_int8_is_off_by_half_a_step_of_the_largest(scale):
  held = cache.empty(3, 5, num_layers=1, num_heads=2, head_dim=8, dtype='int8')
  k, v = np.random.default_rng(0).normal(0, scale, (2, 3, 2, 5, 8)).astype(np.float32)
  _, slots = held.extend(jnp.zeros((3, 5), jnp.int32), jnp.ones((3, 5), jnp.int32))
  layer = cache.write(held.layers[0], k, v, slots)
  assert {name: x.dtype.name for name, x in layer.items()} == {
    'k': 'int8', 'v': 'int8', 'k_scale': 'float32', 'v_scale': 'float32'
  }  # fmt: skip
  for x, found in zip((k, v), cache.read(layer, 'float32'), strict=True):
    bound = np.abs(x).max(-1, keepdims=True) / 127 / 2
    assert (np.abs(found - x) <= bound * (1 + 1e-4)).all()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_others_give_back_what_they_can_hold(dtype):
  held = cache.empty(3, 5, num_layers=1, num_heads=2, head_dim=8, dtype=dtype)
  k, v = np.random.default_rng(0).normal(0, 1, (2, 3, 2, 5, 8)).astype(dtype)
  _, slots = held.extend(jnp.zeros((3, 5), jnp.int32), jnp.ones((3, 5), jnp.int32))
  found = cache.read(cache.write(held.layers[0], k, v, slots), 'float32')
  np.testing.assert_array_equal(found, (k.astype('float32'), v.astype('float32')))


@pytest.mark.parametrize(('dtype', 'error'), [('bfloat16', 0.05), ('int8', 0.1)])
def test_a_shorter_cache_says_nearly_the_same(dtype, error):
  _, _, model = build(cache_dtype=dtype)
  held = model.make_cache(3, 9)
  assert held.layers[0]['k'].dtype == dtype
  _, said = play(held, PACES, cache_dtype=dtype)
  distance = np.abs(np.array(said) - alone())
  assert 0 < distance.mean() < error * np.abs(alone()).mean()
  # And greedy answers are mostly the same.
  prompt_BP, mask_BP = left_pad([TOKENS[0, :3], TOKENS[1, :5], TOKENS[2, :1]] * 2)
  rows = [
    jax.jit(functools.partial(
      generate, model=build(cache_dtype=name)[2], max_new=8, stop=(), pick=pick.make(temperature=0)
    ))(build()[0], prompt_BP, mask_BP, jax.random.key(0))['tokens']
    for name in (None, dtype)
  ]  # fmt: skip
  assert (rows[0] == rows[1]).mean() > 0.8


def test_a_mesh_cuts_rows_and_heads_and_never_gathers_them():
  params, _, model = build()
  prompt_BP, mask_BP = left_pad([TOKENS[0, :5], TOKENS[1, :5], TOKENS[2, :2], TOKENS[0, 4:]])
  mesh = make_mesh(data=2, fsdp=2, tensor=2)

  def run(params, prompt_BP, mask_BP):
    rows = start(params, prompt_BP, mask_BP, jax.random.key(0), model=model, group=2)
    rows = decode(
      params, rows.replace(cache=rows.cache.grow(16)), pick.make(), model=model, columns=8,
      max_new=8, stop=(),
    )  # fmt: skip
    return rows.cache

  with jax.set_mesh(mesh):
    placed = jax.device_put(params, shardings(params, mesh))
    made = jax.jit(run).lower(placed, prompt_BP, mask_BP).compile()
  for leaf in jax.tree.leaves(made.output_shardings.layers):
    assert leaf.shard_shape((8, 2, 16, 4)) == (2, 1, 16, 4)
  moved = re.findall(r'= \w+\[([\d,]*)\]\S* (?:all-|collective-|reduce-scatter)', made.as_text())
  assert moved and all(shape.count(',') < 3 for shape in moved)  # [R, K, S, E] has three

"""Weights in few bits give what the arrays that they stand for give, wherever they are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.compress import round as rounding
from llm_jax.compress import walk
from llm_jax.models import lora, transformer, weights
from llm_jax.models.weights import Blocks, Quantized, Table, Weight, with_rounds

SHAPE = dict(vocab_size=64, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, max_length=32)
TOKENS = np.random.default_rng(0).integers(0, 64, (2, 8)).astype(np.int32)
METHODS = {
  'int8': rounding.make(),
  'int8 by group': rounding.make(group=32),  # more than there are inputs
  'int4': rounding.make(bits=4, group=6, kind='asymmetric'),  # of 16 inputs, so 4 in the last
}
MODELS = {
  'tied': dict(),
  'untied': dict(head='untied', compute=dict(scan_layers=False)),
  'experts': dict(experts=dict(count=4, shared_dim=8), dense_layers=1, dense_dim=32),
  'latent': dict(num_kv_heads=4, head_dim=8, rope_dim=4, latent=dict(kv_rank=8, q_rank=8)),
}


def made(name, method, **changes):
  base = transformer.make(**SHAPE | MODELS[name] | changes)
  params = jax.jit(base.init)(jax.random.key(0), TOKENS)
  tables = ('embedding',) if base.shape.head == 'tied' else ('embedding', 'head')
  forms = walk.planned(base, method.form, tables=tables)
  return base, *walk.compress(base, params, method, forms)


def whole(params):
  """The parameters as arrays."""

  def one(x):
    if isinstance(x, Table):
      return x.codes.astype(jnp.float32) * x.scale
    return x.dense(jnp.float32) if isinstance(x, Quantized) else x

  return jax.tree.map(one, params, is_leaf=lambda x: isinstance(x, Weight))


@pytest.mark.parametrize(
  ('name', 'method'),
  [('tied', 'int8'), ('untied', 'int4'), ('experts', 'int4'), ('latent', 'int8 by group')],
)
def test_logits_are_those_of_the_arrays(name, method):
  base, model, params = made(name, METHODS[method])
  wanted = jax.jit(lambda p: base.apply(p, TOKENS)[0])(whole(params))
  found = jax.jit(lambda p: model.apply(p, TOKENS)[0])(params)
  np.testing.assert_allclose(found, wanted, atol=2e-5)
  shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert kinds(shapes) == kinds(params)


@pytest.mark.parametrize('name', ['tied', 'latent'])
def test_a_cache_and_decoding_read_them_too(name):
  base, model, params = made(name, METHODS['int4'])
  cache = model.make_cache(2, 12)
  wanted = jax.jit(lambda p: base.apply(p, TOKENS)[0])(whole(params))
  found, _ = jax.jit(lambda p: model.apply(p, TOKENS, cache=cache))(params)
  np.testing.assert_allclose(found, wanted, atol=3e-5)
  decoder, arranged = model.for_decoding(params)
  again = jax.jit(lambda p: decoder.apply(p, TOKENS)[0])(arranged)
  np.testing.assert_allclose(again, wanted, atol=3e-5)


@pytest.mark.parametrize('products', ['float', 'int8'])
def test_a_cpu_decodes_with_what_it_multiplies_fast(products):
  _, model, params = made('untied', METHODS['int8'], compute=dict(products=products))
  decoder, arranged = model.for_decoding(params)
  matrix = arranged['blocks'][1]['mlp']['down']
  if products == 'float':
    assert matrix.dtype == jnp.float32
  else:
    assert matrix.codes.dtype == jnp.int8 and matrix.codes.shape == (16, 64)
    assert arranged['head']['kernel'].turned
  found = jax.jit(lambda p: decoder.apply(p, TOKENS)[0])(arranged)
  wanted = jax.jit(lambda p: model.apply(p, TOKENS)[0])(params)
  np.testing.assert_allclose(found, wanted, atol=3e-5)


def test_activations_of_int8_are_rounded_a_row_at_a_time():
  base, model, params = made('tied', METHODS['int8'])
  wanted = np.asarray(base.apply(whole(params), TOKENS)[0])
  rounded = jax.jit(lambda p: base.apply(with_rounds(p), TOKENS)[0])
  error = np.abs(np.asarray(rounded(params)) - wanted).max() / np.abs(wanted).max()
  assert 1e-5 < error < 0.03
  one = jax.jit(lambda p: base.apply(with_rounds(p), TOKENS[1:])[0])(params)
  np.testing.assert_allclose(one[0], rounded(params)[1], atol=1e-5)


@pytest.mark.parametrize('method', ['int8', 'int4'])
def test_16_bits_multiply_them(method):
  base, model, params = made('untied', METHODS[method], compute=dict(dtype='bfloat16'))
  wanted = np.asarray(base.apply(whole(params), TOKENS)[0])
  found = np.asarray(model.apply(params, TOKENS)[0])
  assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_blocks_are_the_matrix():
  draw = np.random.default_rng(0)
  rows, weight = draw.normal(size=(3, 600)), draw.normal(size=(30, 20, 11, 200))
  blocks = Blocks.of(jnp.asarray(weight, jnp.float32), 2)
  assert [len(parts) for parts in blocks.parts] == [3] * 3 and blocks.outer == (11, 200)
  assert max(part.shape for parts in blocks.parts for part in parts) <= (256, 1024)
  found = blocks.multiply(jnp.asarray(rows, jnp.float32), jnp.float32)
  np.testing.assert_allclose(found, rows @ weight.reshape(600, -1), atol=1e-3)


@pytest.mark.parametrize('name', MODELS)
def test_a_model_in_blocks_says_the_same(name, monkeypatch):
  monkeypatch.setattr(weights, 'INPUTS', 6)
  monkeypatch.setattr(weights, 'OUTPUTS', 20)
  model = transformer.make(**SHAPE | MODELS[name])
  params = jax.jit(model.init)(jax.random.key(0), TOKENS)
  fast, arranged = model.for_decoding(params)
  cut = fast.in_blocks(arranged)
  is_blocks = lambda x: isinstance(x, Blocks)
  count = sum(map(is_blocks, jax.tree.leaves(cut, is_leaf=is_blocks)))
  assert count >= SHAPE['num_layers'] + 1
  logits = jax.jit(lambda p: fast.apply(p, TOKENS)[0])
  np.testing.assert_allclose(logits(cut), logits(arranged), atol=2e-5)


def test_additions_of_low_rank_stay_beside_their_weights():
  model = lora.wrap(transformer.make(**SHAPE))
  params = jax.jit(model.init)(jax.random.key(0), TOKENS)
  fast, arranged = model.for_decoding(params)
  logits = jax.jit(lambda p: fast.apply(p, TOKENS)[0])
  np.testing.assert_allclose(logits(fast.in_blocks(arranged)), logits(arranged), atol=2e-5)

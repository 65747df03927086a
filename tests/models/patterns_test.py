"""Patterns of layers: kinds of blocks that repeat, scanned or one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses.logprobs import score
from llm_jax.models.stacks import period
from llm_jax.models.transformer import make
from llm_jax.types import BadInput

SMALL = dict(vocab_size=24, dim=16, num_heads=4, num_kv_heads=2, hidden_dim=24, max_length=64)
GEMMA = ('local', 'local', 'global')
PATTERNS = {
  'alternating': dict(num_layers=4, layers=('local', 'global')),
  'cut short': dict(num_layers=5, layers=(*GEMMA, *GEMMA[:2])),
  'own kinds': dict(
    num_layers=3,
    layers=('global', 'nope', 'near'),
    kinds=dict(near=dict(window=2, rope_theta=100.0)),
    window=None,
  ),
}
patterns = pytest.mark.parametrize('options', PATTERNS.values(), ids=PATTERNS)


def build(compute=None, **options):
  """A model and params that are all random."""
  model = make(compute=compute, **(SMALL | dict(window=3) | options))
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  draw = np.random.default_rng(0)
  return model, jax.tree.map(lambda x: jnp.asarray(draw.normal(0.3, 0.4, x.shape), x.dtype), shapes)


@functools.cache
def compiled(model):
  return jax.jit(lambda p, *a: model.apply(p, *a)[0])


def logits_of(model, params, *args):
  return np.asarray(compiled(model)(params, *args))


@functools.partial(jax.jit, static_argnums=0)
def read(model, params):
  """The gradient of a loss, and logits."""
  loss = lambda p: score(model, p, {'tokens': jnp.asarray(TOKENS)}).sum()
  return jax.grad(loss)(params), model.apply(params, TOKENS)[0]


TOKENS = np.random.default_rng(1).integers(0, 24, (2, 9), np.int32)
close = functools.partial(np.testing.assert_allclose, atol=2e-5, rtol=2e-5)


@patterns
def test_scan_loop_cache_and_packing_say_the_same(options):
  (model, params), (loop, _) = build(**options), build(dict(scan_layers=False), **options)
  (theirs, other), (ours, whole) = (read(one, params) for one in (loop, model))
  jax.tree.map(functools.partial(close, atol=1e-4, rtol=1e-4), ours, theirs)
  close(other, whole)
  cache, parts = model.make_cache(2, 10), []
  for start, stop in ((0, 4), (4, 5), (5, 9)):
    position = np.broadcast_to(np.arange(start, stop), (2, stop - start))
    now, cache = jax.jit(model.apply)(params, TOKENS[:, start:stop], position, None, cache)
    parts.append(now)
  close(np.concatenate(parts, axis=1), whole)
  position, segment = np.tile(np.arange(9), 2)[None], np.repeat([1, 2], 9)[None]
  packed = logits_of(model, params, TOKENS.reshape(1, -1), position, segment)
  close(packed.reshape(whole.shape), whole)


def test_the_default_pattern_is_one_kind():
  model, params = build(num_layers=2, window=None)
  assert model.shape.layers == ('global',) and build(num_layers=2)[0].shape.layers == ('local',)
  twice = make(**SMALL, num_layers=2, layers=('global', 'global'))
  np.testing.assert_array_equal(logits_of(twice, params, TOKENS), logits_of(model, params, TOKENS))
  assert period(twice.shape.blocks) == 1  # nothing is folded where all blocks are alike


def test_a_scan_compiles_one_repeat_and_what_is_left():
  model, params = build(num_layers=8, layers=(*GEMMA, *GEMMA, *GEMMA[:2]))
  text = str(jax.make_jaxpr(lambda p: model.apply(p, TOKENS)[0])(params))
  assert period(model.shape.blocks) == 3 and text.count('scan[') == 3  # layers, and angles of each


def test_flops_count_the_keys_of_each_kind():
  flops = lambda **options: build(**options)[0].flops_per_token(8)
  both = flops(num_layers=2, layers=('local', 'global'))
  near, far = flops(num_layers=2), flops(num_layers=2, window=None)
  assert both == pytest.approx((near + far) / 2) and near < both


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      dict(num_layers=26, layers=(*GEMMA, *GEMMA)),
      'a pattern of 6 does not divide num_layers 26; use 24 or 30 layers, or list the kinds of all',
    ),
    (dict(num_layers=2, layers=(*GEMMA, 'nope')), 'a pattern of 4 .* use 4 layers, or list'),
    (dict(layers=('lokal',)), "model.layers: no kind 'lokal'; did you mean 'local'"),
    (dict(layers=('local',), window=None), "'local' sees a window; set config.model.window"),
    (dict(layers=('global',)), 'no layer has the window of 3'),
    (dict(kinds=dict(local=dict(windw=2))), r"model\.kinds\.local: unknown field 'windw'; did you"),
    (dict(kinds=dict(local=dict(window=-2))), r'model\.kinds\.local: window -2'),
    (dict(layers='local'), 'model: layers .*choose a list'),
  ],
  ids=lambda x: str(x)[:40],
)
def test_patterns_that_cannot_be(options, message):
  with pytest.raises(BadInput, match=message):
    build(**(dict(num_layers=2) | options))

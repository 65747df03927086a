"""The Transformer: what should not matter does not, and every option does what it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.losses.logprobs import score
from llm_jax.models import attend
from llm_jax.models.attend import xla
from llm_jax.models.transformer import make
from llm_jax.types import BadInput

SMALL = dict(vocab_size=24, dim=16, num_layers=2, num_heads=4, num_kv_heads=2, hidden_dim=24)
VARIANTS = {
  'llama': {},
  'windowed': dict(window=3),
  'capped': dict(attention_softcap=2.0, logit_softcap=3.0, qk_norm=True, num_kv_heads=1),
  'gpt2': dict(norm='layer', mlp='gelu', position='learned', bias=True, num_kv_heads=4),
  'untied': dict(head='untied', qkv_bias=True, compute=dict(scan_layers=False)),
  'experts': dict(experts=dict(count=4), num_layers=1),
  'chunked': dict(compute=dict(attention='chunked', fuse=True, remat='attention')),
}
variants = pytest.mark.parametrize('options', VARIANTS.values(), ids=VARIANTS)


def build(**options):
  """A model and params that are all random, so that leaving out any of them shows."""
  model = make(**(SMALL | dict(max_length=64) | options))
  token = jnp.zeros((1, 1), jnp.int32)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), token))
  draw = np.random.default_rng(0)
  params = jax.tree.map(lambda x: jnp.asarray(draw.normal(0.3, 0.4, x.shape), x.dtype), shapes)
  return model, params


@functools.cache
def compiled(model):
  return jax.jit(lambda p, *a: model.apply(p, *a)[0])


def logits_of(model, params, *args):
  return np.asarray(compiled(model)(params, *args))


def tokens_of(rows, length, seed=1):
  return np.random.default_rng(seed).integers(0, SMALL['vocab_size'], (rows, length), np.int32)


def logp_of(model, params, batch):
  return np.asarray(jax.jit(lambda p, b: score(model, p, b))(params, batch))


def close(a, b, atol=2e-5):
  np.testing.assert_allclose(a, b, atol=atol, rtol=2e-5)


@variants
def test_packed_documents_are_as_if_alone(options):
  model, params = build(**options)
  tokens_BL = tokens_of(1, 16)
  lengths = (6, 1, 6)  # and padding to 16
  segment = np.repeat([1, 2, 3, 0], [*lengths, 3])[None]
  position = np.concatenate([np.arange(n) for n in (*lengths, 3)])[None]
  packed = logits_of(model, params, tokens_BL, position, segment)
  logp = logp_of(model, params, dict(tokens=tokens_BL, position=position, segment=segment))
  start = 0
  for n in lengths:
    own = slice(start, start + n)
    close(packed[:, own], logits_of(model, params, tokens_BL[:, own]))
    alone = logp_of(model, params, dict(tokens=tokens_BL[:, own]))
    # The first token of a document has no prediction; there the packed row predicts across.
    close(logp[:, start + 1 : start + n], alone[:, 1:])
    start += n


@variants
@pytest.mark.parametrize('side', ['left', 'right'])
def test_padding_changes_nothing(options, side):
  model, params = build(**options)
  tokens_BL = tokens_of(2, 6)
  bare = logits_of(model, params, tokens_BL)
  pad = ((0, 0), (4, 0) if side == 'left' else (0, 4))
  position = np.broadcast_to(np.arange(6), (2, 6))
  for junk in (0, 7):
    padded = logits_of(
      model,
      params,
      np.pad(tokens_BL, pad, constant_values=junk),
      np.pad(position, pad),
      np.pad(np.ones((2, 6), np.int32), pad),
    )
    assert np.isfinite(padded).all()
    close(padded[:, 4:] if side == 'left' else padded[:, :6], bare)


@variants
@pytest.mark.parametrize('prefill', [1, 5])
def test_cached_is_uncached(options, prefill):
  model, params = build(**options)
  tokens_BL = tokens_of(2, 9)
  segment = np.ones((2, 9), np.int32)
  segment[1, :3] = 0  # the second row is padded on the left
  position = np.maximum(segment.cumsum(axis=1) - 1, 0)
  whole = logits_of(model, params, tokens_BL, position, segment)
  cache = model.make_cache(2, 12)  # more slots than are used
  step = jax.jit(model.apply)
  parts, start = [], 0
  for size in (prefill, *[1] * (9 - prefill)):
    now = slice(start, start + size)
    logits, cache = step(params, tokens_BL[:, now], position[:, now], segment[:, now], cache)
    parts.append(np.asarray(logits))
    start += size
  # What starts with padding has no need of its slots.
  assert cache.index.tolist() == [9, 9 if prefill == 5 else 6]
  real = segment == 1
  close(np.concatenate(parts, axis=1)[real], whole[real])


def test_a_cache_is_filled_in_chunks():
  model, params = build(window=4)
  tokens_BL = tokens_of(1, 10)
  cache, parts = model.make_cache(1, 10), []
  for chunk in np.split(tokens_BL, [3, 7], axis=1):
    start = int(cache.index[0])
    position = start + np.arange(chunk.shape[1])[None]
    logits, cache = jax.jit(model.apply)(params, chunk, position, None, cache)
    parts.append(logits)
  close(np.concatenate(parts, axis=1), logits_of(model, params, tokens_BL))


@pytest.mark.parametrize(
  ('name', 'dtype'),
  [*((name, 'float32') for name in VARIANTS), ('llama', 'bfloat16'), ('untied', 'bfloat16')],
)
def test_decoding_reads_arranged_parameters_and_says_the_same(name, dtype):
  options = VARIANTS[name]
  compute = options.get('compute', {}) | dict(dtype=dtype)
  model, params = build(**options | dict(compute=compute))
  fast, arranged = model.for_decoding(params)
  assert fast.shape.head == 'untied' and isinstance(arranged['blocks'], tuple)
  for leaf in jax.tree.leaves(arranged):
    assert leaf.dtype == (dtype if leaf.ndim > 1 else 'float32')
  tokens_BL = tokens_of(2, 7)
  position = np.broadcast_to(np.arange(7), tokens_BL.shape)
  segment = np.ones_like(tokens_BL)

  def said(model, params):
    """Of a prompt of four tokens, and of three more one by one."""
    cache, parts, step = model.make_cache(2, 8), [], jax.jit(model.apply)
    for now in (slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 7)):
      logits, cache = step(params, tokens_BL[:, now], position[:, now], segment[:, now], cache)
      parts.append(np.asarray(logits))
    return np.concatenate(parts, axis=1)

  close(said(fast, arranged), said(model, params), atol=2e-5 if dtype == 'float32' else 0.02)


def test_what_is_published_is_the_model_itself():
  model, params = build()
  assert model.published(params) == (model, params)


def loss_and_grad(model, params, tokens_BL):
  def loss(params):
    return score(model, params, {'tokens': jnp.asarray(tokens_BL)}).sum()

  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
  'options',
  [
    dict(scan_layers=False),
    dict(fuse=True),
    dict(attention='chunked'),
    dict(attention='chunked', remat='attention'),
    dict(attention='chunked', remat='offload'),
    dict(attention='chunked', remat='offload', scan_layers=False),
    *[dict(remat=r, scan_layers=s) for r in ('full', 'dots', 'all_dots') for s in (True, False)],
  ],
  ids=str,
)
def test_scan_and_remat_change_no_number(options):
  (model, params), tokens_BL = build(num_layers=3), tokens_of(2, 7)
  value, grad = loss_and_grad(model, params, tokens_BL)
  other_value, other_grad = loss_and_grad(
    make(**(SMALL | dict(num_layers=3)), compute=options), params, tokens_BL
  )
  close(other_value, value)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4), other_grad, grad
  )


@pytest.mark.parametrize('head', ['tied', 'untied'])
def test_products_of_rounded_operands_are_near_and_the_rest_stays_float32(head):
  (model, params), tokens_BL = build(head=head), tokens_of(2, 7)
  rounding = make(**SMALL, head=head, compute=dict(product_dtype='bfloat16'))
  hidden_BLD, _ = jax.eval_shape(lambda p: rounding.apply(p, tokens_BL, method='hidden'), params)
  assert hidden_BLD.dtype == np.float32
  value, grad = loss_and_grad(model, params, tokens_BL)
  other, other_grad = loss_and_grad(rounding, params, tokens_BL)
  assert 1e-6 < abs(other / value - 1) < 0.02
  for a, b in zip(jax.tree.leaves(other_grad), jax.tree.leaves(grad), strict=True):
    assert a.dtype == np.float32 and np.isfinite(a).all()
    assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)


@pytest.mark.parametrize('causal', [True, False])
def test_only_a_causal_model_is_blind_to_the_future(causal):
  model, params = build(causal=causal)
  tokens_BL = tokens_of(1, 8)
  changed = tokens_BL.copy()
  changed[0, 5] = (changed[0, 5] + 1) % SMALL['vocab_size']
  moved = np.abs(logits_of(model, params, changed) - logits_of(model, params, tokens_BL)).max(-1)[0]
  assert (moved[5:] > 1e-3).all()
  assert (moved[:5] == 0).all() if causal else (moved[:5] > 1e-3).all()


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('window', [1, 3, 8])
def test_a_window_reaches_exactly_as_far_as_it_says(window, causal):
  # One layer, so that nothing is passed on. A query sees `window` keys back, itself among them.
  model, params = build(num_layers=1, window=window, causal=causal)
  tokens_BL, at = tokens_of(1, 12), 4
  changed = tokens_BL.copy()
  changed[0, at] = (changed[0, at] + 1) % SMALL['vocab_size']
  moved = np.abs(logits_of(model, params, changed) - logits_of(model, params, tokens_BL)).max(-1)[0]
  distance = np.arange(12) - at
  seen = (distance < window) & (distance >= 0 if causal else distance > -window)
  np.testing.assert_array_equal(moved > 0, seen)


def test_a_window_skips_keys_that_no_query_of_a_block_sees():
  ones = jnp.ones((1, 512), jnp.int32)
  parts = xla.cut(attend.Positions(ones, ones, ones, ones), attend.AttentionSpec(window=100))
  step = xla.QUERY_BLOCK
  assert [(p.queries.start, p.queries.stop) for p in parts] == [
    (i, i + step) for i in range(0, 512, step)
  ]
  assert [p.bias.shape[-1] for p in parts] == [step, *[step + 99] * (512 // step - 1)]


def test_logit_softcap():
  model, params = build()
  capped = make(**SMALL, logit_softcap=0.5)
  tokens_BL = tokens_of(1, 5)
  close(
    logits_of(capped, params, tokens_BL), 0.5 * np.tanh(logits_of(model, params, tokens_BL) / 0.5)
  )


def test_learned_positions_are_added_to_the_embedding():
  model, params = build(position='learned', norm='layer')
  tokens_BL = tokens_of(1, 4)
  position = np.array([[3, 0, 7, 2]])
  shift = params['embedding']['position'][position]
  flat = {**params, 'embedding': {**params['embedding'], 'position': jnp.zeros((64, 16))}}
  embed = lambda p: model.bind({'params': p}).embedding(tokens_BL, position)
  close(embed(params), embed(flat) + shift)
  close(embed(flat), params['embedding']['table'][tokens_BL])


def test_rotary_attention_depends_on_distance_alone():
  model, params = build()
  tokens_BL = tokens_of(1, 6)
  here = logits_of(model, params, tokens_BL, np.arange(6)[None])
  close(logits_of(model, params, tokens_BL, np.arange(6)[None] + 40), here, atol=1e-4)
  learned, params = build(position='learned')
  here = logits_of(learned, params, tokens_BL, np.arange(6)[None])
  moved = logits_of(learned, params, tokens_BL, np.arange(6)[None] + 40)
  assert np.abs(here - moved).max() > 0.01


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_is_close_and_logits_are_float32(dtype):
  (model, _), tokens_BL = build(), tokens_of(2, 8)
  half = make(**SMALL, compute=dict(dtype=dtype))
  params = jax.jit(half.init)(jax.random.key(0), tokens_BL)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype('float32')}
  hidden_BLD, _ = jax.eval_shape(lambda p: half.apply(p, tokens_BL, method='hidden'), params)
  assert hidden_BLD.dtype == dtype
  logits = logits_of(half, params, tokens_BL)
  assert logits.dtype == np.float32
  close(logits, logits_of(model, params, tokens_BL), atol=0.02)
  assert half.make_cache(1, 4).layers[0]['k'].dtype == dtype


def test_scalar_head_gives_one_number_a_token():
  model, params = build(head='scalar')
  tokens_BL = tokens_of(2, 5)
  scores = logits_of(model, params, tokens_BL)
  assert scores.shape == (2, 5) and scores.dtype == np.float32
  hidden_BLD, _ = jax.jit(lambda p: model.apply(p, tokens_BL, method='hidden'))(params)
  close(scores, hidden_BLD @ params['head']['scalar'] + params['head']['bias'])


def test_hidden_and_unembed_are_the_two_halves():
  model, params = build(head='untied')
  tokens_BL = tokens_of(2, 5)
  hidden_BLD, cache = jax.jit(lambda p: model.apply(p, tokens_BL, method='hidden'))(params)
  assert hidden_BLD.shape == (2, 5, 16) and cache is None
  logits = model.apply(params, hidden_BLD, method='unembed')
  close(logits, logits_of(model, params, tokens_BL))
  one = model.apply(params, hidden_BLD[0, 0], method='unembed')
  close(one, logits[0, 0])


def test_fresh_parameters():
  model = make(**(SMALL | dict(vocab_size=512, dim=64, num_layers=4, hidden_dim=256, bias=True)))
  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  attn, mlp = params['blocks']['attention'], params['blocks']['mlp']
  std = lambda x: float(np.asarray(x).std())
  assert std(params['embedding']['table']) == pytest.approx(0.02, rel=0.1)
  assert std(attn['q']) == pytest.approx(64**-0.5, rel=0.2)
  assert std(mlp['down']) == pytest.approx(256**-0.5 / 8**0.5, rel=0.2)  # 2 x 4 layers add up
  assert not any(np.any(x) for k, x in [*attn.items(), *mlp.items()] if k.endswith('_bias'))
  assert np.abs(attn['q'][0] - attn['q'][1]).max() > 0  # layers differ


def test_num_params_counts_every_array():
  count = lambda **options: make(**(SMALL | options)).num_params()
  attn, mlp = 16 * 4 * (4 + 2 + 2) + 4 * 4 * 16, 3 * 16 * 24
  plain = 24 * 16 + 2 * (attn + mlp + 2 * 16) + 16
  assert count() == plain
  assert count(head='untied') == plain + 16 * 24
  assert count(head='scalar') == plain + 16 + 1
  assert count(qk_norm=True) == plain + 2 * 2 * 4
  assert count(qkv_bias=True) == plain + 2 * (4 + 2 + 2) * 4
  gpt2 = count(norm='layer', mlp='gelu', position='learned', bias=True, max_length=10)
  biases = 2 * ((4 + 2 + 2) * 4 + 16 + 24 + 16 + 2 * 16) + 16
  assert gpt2 == plain - 2 * 16 * 24 + 10 * 16 + biases


def test_flops_per_token_by_hand():
  # Products of one token forward, two FLOPs a multiply-add; training is three times that.
  attn, mlp, head = 16 * 4 * (4 + 2 + 2) + 4 * 4 * 16, 3 * 16 * 24, 16 * 24
  keys = np.mean([t + 1 for t in range(8)])  # keys a query sees
  scores = lambda keys: 2 * keys * 4 * 4  # q k and weights v
  flops = lambda **options: make(**(SMALL | options)).flops_per_token(8)
  assert flops() == pytest.approx(6 * (2 * (attn + mlp + scores(keys)) + head))
  assert flops(compute=dict(remat='full'), head='untied') == flops()
  assert flops(causal=False) == pytest.approx(6 * (2 * (attn + mlp + scores(8)) + head))
  keys = np.mean([min(t + 1, 3) for t in range(8)])
  assert flops(window=3) == pytest.approx(6 * (2 * (attn + mlp + scores(keys)) + head))
  assert flops(window=100) == flops()
  assert flops(head='scalar') == flops() - 6 * (head - 16)
  assert flops(mlp='gelu') == flops() - 6 * 2 * 16 * 24


def test_defaults_of_a_shape():
  shape = make(vocab_size=8, dim=96, num_layers=1, num_heads=3).shape
  assert (shape.num_kv_heads, shape.head_dim, shape.hidden_dim) == (3, 32, 256)
  shape = make(vocab_size=8, dim=96, num_layers=1, num_heads=3, mlp='gelu').shape
  assert shape.hidden_dim == 384


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      dict(compute=dict(product_dtype='bfloat16', dtype='bfloat16')),
      'compute: product_dtype rounds float32 products',
    ),
    (
      dict(compute=dict(product_dtype='bfloat16'), experts=dict(count=2)),
      'product_dtype rounds no products of experts',
    ),
    (dict(remat='dots'), r'model: remat is how a model is run: set config\.compute\.remat'),
    (dict(compute=dict(remats='dots')), "compute: unknown field 'remats'; did you mean 'remat'"),
    (dict(num_layer=3), "model: unknown field 'num_layer'; did you mean 'num_layers'"),
    (dict(mlp='swigl'), "mlp 'swigl'; did you mean 'swiglu'"),
    (dict(norm='batch'), "norm 'batch'; choose from: rms, layer"),
    (dict(position='alibi'), "position 'alibi'"),
    (dict(head='both'), "head 'both'"),
    (dict(compute=dict(dtype='int8')), "compute: dtype 'int8'"),
    (dict(compute=dict(remat='some')), "compute: remat 'some'"),
    (dict(compute=dict(cache_dtype='int4')), "compute: cache_dtype 'int4'; did you mean 'int8'"),
    (dict(num_kv_heads=3), 'num_heads 4 is not a multiple of num_kv_heads 3'),
    (dict(head_dim=6), 'head_dim divisible by 4, not 6'),
  ],
)
def test_shapes_that_cannot_be(options, message):
  with pytest.raises(BadInput, match=message):
    make(**(SMALL | options))


def test_learned_positions_allow_any_head_size():
  assert make(**(SMALL | dict(head_dim=6)), position='learned').shape.head_dim == 6


def test_a_missing_option_is_named():
  with pytest.raises(BadInput, match=r"'dim' is missing; set config\.model\.dim"):
    make(vocab_size=8, num_layers=1, num_heads=1)


@pytest.mark.parametrize(
  'options',
  [
    {},
    dict(num_kv_heads=2),
    dict(head_dim=48, rope_dim=32),
    dict(query_scale=0.3),
  ],
)
def test_a_model_starts_by_copying_what_came_after_the_same_token_before(options):
  shape = dict(vocab_size=512, dim=128, num_layers=3, num_heads=4, qkv_bias=True, embedding_std=1.0)
  shape |= dict(induction_heads=2) | options
  model = make(**shape, max_length=128)
  draw = np.random.default_rng(0)
  first = np.stack([draw.permutation(512)[:40] for _ in range(8)])
  tokens = jnp.asarray(np.tile(first, 2))
  params = jax.jit(model.init)(jax.random.key(0), tokens[:, :1])
  logits = logits_of(model, params, tokens)[:, 40:-1]
  best = np.argsort(-logits)[..., :2]  # the other is the token itself, whose embedding is the head
  assert np.mean((best == first[:, 1:, None]).any(-1)) > 0.9


def test_where_a_token_stands_twice_the_one_before_it_decides():
  shape = dict(vocab_size=512, dim=128, num_layers=3, num_heads=4, qkv_bias=True, embedding_std=1.0)
  draw = np.random.default_rng(0)
  # Thirty words stand there twice each, and most pairs once.
  first = np.stack(
    [np.repeat(draw.permutation(512)[:30], 2)[draw.permutation(60)] for _ in range(8)]
  )
  tokens = np.tile(first, 2)
  found = {}
  for count in (2, 3):  # of which there are not heads enough for the second kind
    model = make(**shape, induction_heads=count, max_length=128)
    params = jax.jit(model.init)(jax.random.key(0), tokens[:, :1])
    logits = logits_of(model, params, jnp.asarray(tokens))[:, 61:-1].copy()
    np.put_along_axis(logits, tokens[:, 61:-1, None], -np.inf, axis=-1)  # its own embedding
    found[count] = np.mean(logits.argmax(-1) == first[:, 2:])
  assert found[2] > 0.45 and found[2] > found[3] + 0.25


@pytest.mark.parametrize('theta', [2.0, 100.0])
def test_where_every_pair_turns_fast_the_slowest_one_is_compared(theta):
  shape = dict(vocab_size=64, dim=32, num_layers=2, num_heads=2, qkv_bias=True, rope_theta=theta)
  params = make(**shape, max_length=64, induction_heads=1).init(
    jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
  )
  second = jax.tree.map(lambda x: x[1], params['blocks']['attention'])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  assert np.count_nonzero(second['q'][:, 0]) == np.count_nonzero(second['k'][:, 0]) == 2


def test_embeddings_of_another_size_start_with_the_same_logits():
  model = make(**SMALL, max_length=64, embedding_std=1.0)
  params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  assert np.std(params['embedding']['table']) == pytest.approx(1.0, rel=0.1)
  assert np.std(logits_of(model, params, jnp.arange(20)[None])) < 0.2  # 0.02 sqrt(16) = 0.08


@pytest.mark.parametrize(
  'options',
  [
    dict(qkv_bias=False),
    dict(qk_norm=True),
    dict(bias=True, position='learned'),
    dict(rope_scaling=dict(kind='linear', factor=2.0)),
    dict(window=4),
    dict(num_layers=1),
  ],
)
def test_where_no_induction_heads_can_be_a_model_starts_as_it_would(options):
  draw = lambda **more: make(**SMALL | dict(qkv_bias=True) | options | more).init(
    jax.random.key(0), jnp.zeros((1, 1), jnp.int32)
  )
  jax.tree.map(np.testing.assert_array_equal, draw(induction_heads=2), draw())

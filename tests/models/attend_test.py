"""Every attention backend is the textbook attention, in values, gradients and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.models import attend, transformer
from llm_jax.models.attend import AttentionSpec, Positions, chunked, cudnn, splash, xla
from llm_jax.parallel.mesh import make_mesh
from llm_jax.types import BadInput

SPECS = {
  'causal': AttentionSpec(),
  'both sides': AttentionSpec(causal=False),
  'window': AttentionSpec(window=5),
  'window on both sides': AttentionSpec(causal=False, window=5),
  'soft-cap': AttentionSpec(softcap=0.7),
}
specs = pytest.mark.parametrize('spec', SPECS.values(), ids=SPECS)


def positions_of(*rows):
  """Rows of document lengths; a negative one is padding."""
  segment = np.stack(
    [
      np.concatenate([np.full(abs(n), i + 1 if n > 0 else 0) for i, n in enumerate(r)])
      for r in rows
    ]
  )
  position = np.stack([np.concatenate([np.arange(abs(n)) for n in r]) for r in rows])
  position, segment = jnp.asarray(position), jnp.asarray(segment)
  return Positions(position, segment, position, segment)


def heads_of(length, heads=4, kv_heads=2, size=8, rows=2, dtype=jnp.float32):
  draw = np.random.default_rng(0)
  shapes = [(rows, h, length, size) for h in (heads, kv_heads, kv_heads, heads)]
  return [jnp.asarray(draw.normal(size=shape), dtype) for shape in shapes]


def textbook(positions, spec, q_BHLE, k_BKSE, v_BKSE, sink_H=None):
  """Whole score matrices; a query that sees nothing gives 0."""
  group = q_BHLE.shape[1] // k_BKSE.shape[1]
  k, v = (jnp.repeat(x, group, axis=1) for x in (k_BKSE, v_BKSE))  # neighbours share a key head
  score = jnp.einsum('bhle,bhse->bhls', q_BHLE, k) / q_BHLE.shape[-1] ** 0.5
  if spec.softcap:
    score = spec.softcap * jnp.tanh(score / spec.softcap)
  see = xla.seen(*positions[:4], spec)[:, None]
  weight = jnp.where(see, jnp.exp(score), 0)
  total = weight.sum(-1, keepdims=True)
  if sink_H is not None:
    total += jnp.exp(sink_H)[:, None, None]
  return jnp.einsum('bhls,bhse->bhle', weight / jnp.where(total == 0, 1, total), v)


def test_the_textbook_is_right_in_numpy():
  positions, spec = positions_of((2, 3, -1)), AttentionSpec(softcap=0.5)
  q, k, v, _ = (np.asarray(x, np.float64) for x in heads_of(6, rows=1))
  out = textbook(positions, spec, *map(jnp.asarray, (q, k, v)))
  for head, query, first in ((0, 1, 0), (3, 4, 2)):
    keys = slice(first, query + 1)
    score = 0.5 * np.tanh(k[0, head // 2, keys] @ q[0, head, query] / np.sqrt(8) / 0.5)
    weight = np.exp(score) / np.exp(score).sum()
    np.testing.assert_allclose(out[0, head, query], weight @ v[0, head // 2, keys], atol=1e-6)


def assert_same(backend, positions, spec, heads, atol=2e-5):
  """Values, and gradients of what the loss could read, are those of the textbook."""
  *qkv, grad = heads
  real = (positions.q_segment > 0)[:, None, :, None]

  def run(function, *qkv):
    out, pull = jax.vjp(lambda *qkv: jnp.where(real, function(*qkv), 0), *qkv)
    return out, *pull(grad)

  mine = jax.jit(lambda *qkv: run(backend.make(positions, spec), *qkv))(*qkv)
  theirs = jax.jit(lambda *qkv: run(functools.partial(textbook, positions, spec), *qkv))(*qkv)
  for a, b in zip(mine, theirs, strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4)


@specs
@pytest.mark.parametrize('backend', [xla, chunked], ids=['xla', 'chunked'])
@pytest.mark.parametrize('length', [17, 24], ids='length {}'.format)
def test_packed_and_padded_rows(monkeypatch, backend, spec, length):
  monkeypatch.setattr(xla, 'QUERY_BLOCK', 4)
  monkeypatch.setattr(chunked, 'BLOCK', 4)
  positions = positions_of((-3, 6, 1, length - 12, -2), (length - 9, 9))
  assert_same(backend, positions, spec, heads_of(length))


@pytest.mark.parametrize('backend', [xla, chunked], ids=['xla', 'chunked'])
def test_sinks_take_a_share_and_learn(monkeypatch, backend):
  monkeypatch.setattr(xla, 'QUERY_BLOCK', 4)
  monkeypatch.setattr(chunked, 'BLOCK', 4)
  *qkv, grad = heads_of(17)
  sink_H = jnp.array([-1.0, 0.5, 2.0, 40.0])  # the last one leaves nothing, and overflows nothing
  spec = AttentionSpec(window=5, softcap=0.7, sinks=True)
  assert_same(backend, positions_of((-3, 6, 8), (8, 9)), spec, (*qkv, sink_H, grad))
  for kernel in (cudnn, splash):
    assert 'no sinks' in kernel.refuses(
      AttentionSpec(sinks=True), head_dim=64, length=128, dtype='bfloat16'
    )


@specs
def test_the_kernel_for_tpus(monkeypatch, spec):
  monkeypatch.setattr(splash, 'INTERPRET', True)
  monkeypatch.setattr(splash, 'BLOCKS', (128,))
  positions = positions_of((-3, 100, 20, 130, -3), (130, 126))
  assert_same(splash, positions, spec._replace(window=spec.window and 70), heads_of(256), atol=1e-4)


def blocks_of(mask, length, rows, columns):
  cut = lambda size: [slice(first, first + size) for first in range(0, length, size)]
  return [[mask[q, k] for k in cut(columns)] for q in cut(rows)]


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('window', [None, 1, 9, 16, 17, 60, 200])
@pytest.mark.parametrize('size', [(16, 16), (8, 32)], ids=str)
def test_blocks_of_the_mask_for_tpus(causal, window, size):
  behind = np.arange(128)[:, None] - np.arange(128)
  far = np.inf if window is None else window
  expected = (behind < far) & (behind >= 0 if causal else -behind < far)
  mask = splash.make_mask(128, AttentionSpec(causal, window))
  np.testing.assert_array_equal(np.block(blocks_of(mask, 128, *size)), expected)


@pytest.mark.parametrize(('window', 'partial'), [(None, 128), (4096, 128 + 124)])
def test_the_mask_of_a_long_row_is_few_arrays(window, partial):
  length, size = 131072, 1024
  mask = splash.make_mask(length, AttentionSpec(window=window))
  blocks = blocks_of(mask, length, size, size)
  # Those on an edge of what is seen, and two for the 16,000 others.
  assert len({id(block) for row in blocks for block in row}) == partial + 2


@pytest.mark.parametrize('kv_heads', [1, 4])
def test_any_grouping_of_heads(monkeypatch, kv_heads):
  monkeypatch.setattr(chunked, 'BLOCK', 4)
  for backend in (xla, chunked):
    assert_same(
      backend, positions_of((10,)), AttentionSpec(), heads_of(10, kv_heads=kv_heads, rows=1)
    )


@pytest.mark.parametrize('backend', [xla, chunked], ids=['xla', 'chunked'])
@pytest.mark.parametrize(
  'spec', [AttentionSpec(), AttentionSpec(softcap=0.7)], ids=['causal', 'soft-cap']
)
def test_rounded_operands_are_near_and_what_comes_out_is_wide(monkeypatch, backend, spec):
  monkeypatch.setattr(xla, 'QUERY_BLOCK', 4)
  monkeypatch.setattr(chunked, 'BLOCK', 4)
  positions = positions_of((6, 4))
  *qkv, grad = heads_of(10)

  def run(function):
    def both(grad, *qkv):
      out, pull = jax.vjp(function, *qkv)
      return out, *pull(grad)

    return jax.jit(both)(grad, *qkv)

  exact = run(functools.partial(textbook, positions, spec))
  for a, b in zip(
    run(backend.make(positions, spec._replace(product_dtype='bfloat16'))), exact, strict=True
  ):
    assert a.dtype == np.float32
    error = np.linalg.norm(a - b) / np.linalg.norm(b)
    assert 1e-4 < error < 1e-2  # rounded, to 8 bits


def test_a_query_that_sees_nothing_moves_nothing():
  positions = positions_of((-4, 4))
  *qkv, grad = heads_of(8, rows=1)
  out, pull = jax.vjp(chunked.make(positions, AttentionSpec()), *qkv)
  assert not out[:, :, :4].any()
  assert not pull(grad)[0][:, :, :4].any()
  assert not pull(grad.at[:, :, 4:].set(0))[2].any()


def test_blocks_that_cannot_see_each_other_are_passed_over():
  positions = positions_of((8, 8, 16), (8, 24, 0))
  where = Positions(*(chunked._cut(x, 8, axis=1) for x in positions[:4]))
  pairs = np.asarray(chunked._pairs(where, AttentionSpec(), 4))
  row = np.array([[1, 0], [1, 1]])  # two blocks of one document
  assert (pairs[:2, :2] == row).all() and not pairs[2:, :2].any()
  assert (pairs[2:, 2:] == np.tril(np.ones((6, 6)))).all()  # the second row goes on
  near = np.asarray(chunked._pairs(where, AttentionSpec(window=5), 4))
  assert near[5, 4] and not near[5, 3]
  assert np.asarray(chunked._pairs(where, AttentionSpec(window=6), 4))[5, 3]


@pytest.mark.parametrize('name', ['chunked', 'auto'])
def test_memory_grows_with_the_length_not_with_its_square(name):
  def temporary(length):
    model = transformer.make(
      vocab_size=64, dim=32, num_layers=2, num_heads=2, max_length=length,
      compute=dict(attention=name, remat='full'),
    )  # fmt: skip
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    loss = lambda p, *at: model.apply(p, *at, method='hidden')[0].sum()
    compiled = jax.jit(jax.grad(loss)).lower(params, tokens, tokens, tokens).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  half, whole = temporary(2**14), temporary(2**15)
  assert whole < 2.2 * half
  assert whole < 2**32 / 8  # one matrix of scores would be 4 GiB


@pytest.mark.parametrize('remat', ['attention', 'dots', 'full'])
def test_what_the_kernel_leaves_is_kept_by_name(remat):
  model = transformer.make(
    vocab_size=8, dim=16, num_layers=1, num_heads=2, compute=dict(attention='chunked', remat=remat)
  )
  params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  loss = lambda p: model.apply(p, jnp.zeros((1, 6), jnp.int32))[0].sum()
  text = str(jax.make_jaxpr(jax.grad(loss))(params))
  # The loop over keys is a while; run again it would be there three times.
  assert text.count('while[') == (3 if remat == 'full' else 2)


def test_documents_as_cudnn_reads_them():
  positions = positions_of((3, 2, -1), (-1, 5), (6,))
  offsets, sizes, fits = cudnn.documents(positions.q_segment, 3)
  assert offsets.tolist() == [[0, 3, 5, -1], [0, 1, -1, -1], [0, -1, -1, -1]]
  assert sizes.tolist() == [[3, 2, 1], [1, 5, -1], [6, -1, -1]]
  assert fits
  assert offsets.dtype == sizes.dtype == jnp.int32


@pytest.mark.parametrize(
  ('segment', 'fits'),
  [
    ([1, 2, 3, 4], False),  # more than 3
    ([1, 1, 2, 1], False),  # in two places
    ([2, 2, 1, 1], False),  # not in order: nobody packs so, and it could be the case above
    ([0, 1, 0, 0], True),
    ([1, 0, 2, 2], True),
  ],
)
def test_rows_that_do_not_fit_are_noticed(segment, fits):
  assert bool(cudnn.documents(jnp.asarray([segment]), 3)[2]) == fits


CAUSAL = AttentionSpec()


def choose(name, spec=CAUSAL, head_dim=64, length=256, dtype='bfloat16'):
  return attend.choose(name, spec, head_dim=head_dim, length=length, dtype=dtype)


def test_auto_takes_the_kernel_of_the_machine(monkeypatch):
  assert choose('auto') == 'xla'
  assert choose('auto', length=attend.LONG) == 'chunked'
  assert choose('auto', AttentionSpec(aligned=False), length=10**5) == 'xla'
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert choose('auto') == 'xla'  # not of NVIDIA, or older than what packs documents
  monkeypatch.setattr(cudnn, '_capability', lambda: 8.0)
  assert choose('auto', length=4096) == 'chunked'
  monkeypatch.setattr(cudnn, '_capability', lambda: 9.0)
  assert choose('auto') == 'cudnn'
  assert choose('auto', dtype='float32') == 'xla'
  assert choose('auto', AttentionSpec(softcap=1.0), length=4096) == 'chunked'
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert choose('auto') == 'splash'
  assert choose('auto', length=200) == 'xla'


@pytest.mark.parametrize(
  ('name', 'asked', 'message'),
  [
    ('flash', {}, "compute: no attention 'flash'; did you mean 'splash'"),
    ('cudnn', dict(dtype='float32'), 'needs 16-bit activations, not float32'),
    ('cudnn', dict(spec=AttentionSpec(causal=False)), 'causal training only'),
    ('cudnn', dict(spec=AttentionSpec(softcap=1.0)), 'no soft-cap'),
    ('cudnn', dict(head_dim=256), 'a head_dim that is a multiple of 8 up to 128, not 256'),
    ('splash', dict(length=200), 'a multiple of 128 tokens, not 200'),
  ],
)
def test_what_a_backend_cannot_do_is_said(name, asked, message):
  with pytest.raises(BadInput, match=message):
    choose(name, **asked)


def test_a_cache_is_read_by_xla_whatever_trains():
  assert choose('chunked') == 'chunked'
  assert choose('chunked', AttentionSpec(aligned=False)) == 'xla'


def test_the_kernel_lowers_for_tpus():
  positions = positions_of((256,))
  run = lambda *qkv: splash.make(positions, AttentionSpec())(*qkv).astype(jnp.float32).sum()
  qkv = heads_of(256, size=64, rows=1, dtype=jnp.bfloat16)[:3]
  lowered = jax.jit(jax.grad(run)).trace(*qkv).lower(lowering_platforms=('tpu',))
  assert lowered.as_text().count('tpu_custom_call') >= 2  # forward and backward


def test_heads_that_cannot_be_cut_are_named():
  model = transformer.make(vocab_size=8, dim=12, num_layers=1, num_heads=3, head_dim=4)
  tokens = jnp.zeros((1, 4), jnp.int32)
  params = model.init(jax.random.key(0), tokens)
  message = r'3 attention heads cannot be divided by tensor \* sequence = 2'
  with jax.set_mesh(make_mesh(sequence=2)), pytest.raises(BadInput, match=message):
    jax.jit(model.apply).lower(params, tokens)


@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='needs an NVIDIA GPU')
@pytest.mark.parametrize('most', [32, 2], ids=['cudnn', 'a row too full'])
@pytest.mark.parametrize('window', [None, 70])
def test_the_kernel_for_nvidia(monkeypatch, most, window):
  monkeypatch.setattr(cudnn, 'DOCUMENTS', most)
  positions, spec = positions_of((-3, 100, 20, 130, -3), (130, 126)), AttentionSpec(window=window)
  heads = heads_of(256, size=64, dtype=jnp.bfloat16)
  real = (positions.q_segment > 0)[:, None, :, None]

  def run(function, *heads):
    *qkv, grad = heads
    out, pull = jax.vjp(lambda *qkv: jnp.where(real, function(*qkv), 0), *qkv)
    return out, *pull(grad)

  mine = jax.jit(lambda *heads: run(cudnn.make(positions, spec), *heads))(*heads)
  exact = [x.astype(jnp.float32) for x in heads]
  theirs = jax.jit(lambda *heads: run(functools.partial(textbook, positions, spec), *heads))(*exact)
  for a, b in zip(mine, theirs, strict=True):
    assert np.isfinite(a.astype(jnp.float32)).all()
    assert jnp.linalg.norm((a - b).ravel()) < 0.01 * jnp.linalg.norm(b.ravel())

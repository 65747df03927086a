"""What holds for every loss: microbatches, padding, devices, slopes, memory and presets."""

import functools
import inspect
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.find import find
from llm_jax.losses import logprobs
from llm_jax.models.transformer import make
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.training import optimizer
from llm_jax.training.step import compile_step, make_state
from llm_jax.types import BadInput

V, ROWS, LENGTH, KEPT = 11, 6, 9, 3
PREFERENCES = ('reward', 'dpo', 'kto', 'orpo', 'simpo', 'distill')  # these have presets
# (loss, options); those of which a statistic belongs to the microbatch are in the second tuple.
EXACT = (
  ('cross_entropy', {}),
  ('cross_entropy', dict(z_loss=0.1, average='sequence', dft=True, diagnostics=True)),
  ('reward', {}),
  ('reward', dict(margin='large', centering=0.1)),
  ('reward', dict(kind='best_of_k')),
  *(
    ('dpo', dict(kind=kind))
    for kind in (
      *('sigmoid', 'sigmoid_norm', 'hinge', 'ipo', 'exo_pair', 'nca_pair', 'robust', 'bco_pair'),
      *('sppo_hard', 'apo_zero', 'apo_down', 'discopop', 'sft'),
    )
  ),
  ('dpo', dict(label_smoothing=0.1, f_divergence='js', ld_alpha=0.5, wpo=True, nll_weight=0.1)),
  ('dpo', dict(kind='ipo', average='sum', reference_free=True)),
  ('kto', dict(kind='apo_zero_unpaired', undesirable_weight=1.5)),
  ('orpo', {}),
  ('orpo', dict(nll_span='all')),
  *(('simpo', dict(kind=kind)) for kind in ('simpo', 'cpo', 'cpo_hinge', 'cpo_ipo')),
  ('simpo', dict(alpha=0.1, nll_weight=0.2)),
  ('distill', {}),
  ('distill', dict(divergence='jsd', temperature=2.0, t_squared=True)),
)
BY_MICROBATCH = (
  ('kto', {}),
  ('dpo', dict(kind='aot')),
  ('dpo', dict(kind='aot_unpaired')),
  ('dpo', dict(kind='bco_pair', shift='mean')),
  ('dpo', dict(nll_weight=1.0, nll_average='token')),
  ('orpo', dict(nll_average='token')),
  ('simpo', dict(nll_weight=1.0, nll_average='token')),
)
GROUP = {'kto': 1, 'reward': 3}
every = lambda cases: pytest.mark.parametrize(('name', 'options'), cases, ids=str)


def batch_of(name, rows=ROWS):
  """Rows of very different lengths, the last two answers of the last row missing (of a ranking)."""
  group = GROUP.get(name, 2)
  draw = np.random.default_rng(3)
  shape = (rows, group, LENGTH)
  real = np.arange(LENGTH) < draw.integers(4, LENGTH, (rows, group, 1))
  if name == 'reward':
    real[-1, -1] = False
  batch = {
    'tokens': draw.integers(0, V, shape),
    'segment': real,
    'position': np.arange(LENGTH) * real,
    'mask': real & (np.arange(LENGTH) >= draw.integers(1, 4, (rows, 1, 1))),
  }
  batch = {k: v.astype(np.int32) for k, v in batch.items()}
  if name == 'kto':
    batch |= {f'kl_{k}': np.roll(v, 1, axis=-1) for k, v in batch.items()}
    batch['kl_ref_logp'] = draw.normal(-3, 0.3, shape)
    batch['label'] = draw.integers(0, 2, rows)
  if name == 'distill':
    batch['teacher_ids'] = draw.permuted(np.tile(np.arange(V), (*shape, 1)), axis=-1)[..., :KEPT]
    batch['teacher_ids'] = batch['teacher_ids'].astype(np.int32)
    batch['teacher_logits'] = draw.normal(-2.5, 0.3, (*shape, KEPT))
  batch['ref_logp'] = draw.normal(-2.5, 1.5, shape)
  batch['margin'] = draw.integers(0, 4, rows)
  return {k: v if v.dtype == np.int32 else v.astype(np.float32) for k, v in batch.items()}


class Scorer:
  """A reward model that is a table: the score is that of the last token and the one before."""

  shape = SimpleNamespace(causal=True, vocab_size=V)

  def apply(self, params, x, *place, method):
    if method == 'unembed':
      return x.sum(-1)
    table = params['table']
    return table[x] + jnp.roll(table[x], 1, axis=1) ** 2, None


PARAMS = {'table': jnp.asarray(np.random.default_rng(1).normal(size=(V, V)), jnp.float32)}


@pytest.fixture(scope='module')
def run(table):
  """(name, options, batch) to (Mean, Metrics) and the gradient of the total, by a table."""

  @functools.cache
  def compiled(name, options):
    model = Scorer() if name == 'reward' else table(V)
    loss = functools.partial(find('losses', name).loss_fn, model=model, **dict(options))

    def total(params, batch):
      out = loss(params, batch, jax.random.key(0))
      return out[0].total, out

    return jax.jit(jax.value_and_grad(total, has_aux=True))

  def run(name, options, batch, params=PARAMS):
    (_, out), grad = compiled(name, tuple(options.items()))(params, batch)
    return out, grad['table']

  return run


def assert_same(found, wanted, rtol=1e-5, atol=1e-5):
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
  jax.tree.map(close, found, wanted)


def only(batch, row):
  """The batch with all rows but one replaced by padding, so that nothing compiles anew."""
  keep = lambda v: v * (np.arange(ROWS) == row).reshape(-1, *[1] * (v.ndim - 1)).astype(v.dtype)
  return {k: keep(v) for k, v in batch.items()}


@every(EXACT)
def test_microbatches_add_up_and_rows_of_padding_add_nothing(run, name, options):
  batch = batch_of(name)
  parts = [run(name, options, only(batch, row)) for row in range(ROWS)]
  added = functools.reduce(functools.partial(jax.tree.map, jnp.add), parts)
  whole = run(name, options, batch)
  assert whole[0][0].count > 0 and np.any(whole[1])
  assert_same(added, whole)


@every(BY_MICROBATCH)
def test_these_have_a_statistic_of_the_microbatch(run, name, options):
  batch = batch_of(name)
  apart = sum(float(run(name, options, only(batch, row))[0][0].total) for row in range(ROWS))
  assert abs(apart - float(run(name, options, batch)[0][0].total)) > 1e-4


@every(BY_MICROBATCH)
def test_rows_of_padding_are_in_no_statistic(run, name, options):
  batch = batch_of(name)
  padded = {k: np.concatenate([v, np.zeros_like(v)]) for k, v in batch.items()}
  assert_same(run(name, options, padded), run(name, options, batch))


@every(EXACT + BY_MICROBATCH)
def test_columns_of_padding_add_nothing(run, name, options):
  batch = batch_of(name)
  wide = lambda v: np.pad(v, ((0, 0), (0, 0), (0, 5), *[(0, 0)] * (v.ndim - 3)))
  padded = {k: wide(v) if v.ndim > 1 else v for k, v in batch.items()}
  assert_same(run(name, options, padded), run(name, options, batch))


@every(EXACT + BY_MICROBATCH)
def test_an_empty_batch_is_harmless(run, name, options):
  empty = {k: np.zeros_like(v) for k, v in batch_of(name).items()}
  (mean, metrics), grad = run(name, options, empty)
  assert mean.total == mean.count == 0 and not grad.any()
  assert all(np.isfinite(x) for x in jax.tree.leaves(metrics))


# Weights, z0 and shifts that are held constant on purpose are tested with their losses.
HELD = ('dft', 'wpo', 'shift')
SLOPES = [c for c in EXACT + BY_MICROBATCH if c != ('kto', {}) and not any(k in c[1] for k in HELD)]


@every(SLOPES)
def test_gradients_are_slopes(run, name, options):
  batch, eps = batch_of(name), 1e-2
  direction = np.random.default_rng(2).normal(size=(V, V)).astype(np.float32) / V
  total = lambda by: float(
    run(name, options, batch, {'table': PARAMS['table'] + by * direction})[0][0].total
  )
  _, grad = run(name, options, batch)
  measured = (total(eps) - total(-eps)) / (2 * eps)
  assert float((grad * direction).sum()) == pytest.approx(measured, rel=1e-2, abs=2e-3)


@pytest.mark.parametrize('name', ['cross_entropy', 'reward', 'dpo'])
def test_devices_do_not_matter(name):
  head = 'scalar' if name == 'reward' else 'tied'
  model = make(vocab_size=16, dim=16, num_layers=1, num_heads=2, hidden_dim=16, head=head)
  loss = find('losses', name).loss_fn
  init = lambda: jax.tree.map(
    lambda x: x + 0.1, model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  )

  def train(**axes):
    mesh, tx = make_mesh(**axes), optimizer.guard(optax.sgd(0.3), None)
    with jax.set_mesh(mesh):
      state = make_state(init, tx, mesh)
      step = compile_step(state, mesh, loss_fn=functools.partial(loss, model=model), tx=tx, seed=0)
      state, metrics = step(state, shard_batch(batch_of(name, rows=8), mesh))
    return jax.device_get((state.params, metrics))

  assert_same(train(data=2, fsdp=2, tensor=2), train(data=1))


def arrays(jaxpr):
  """Shapes of everything a jaxpr makes, in calls, loops and branches too."""
  for equation in jaxpr.eqns:
    yield from (v.aval.shape for v in equation.outvars if hasattr(v.aval, 'shape'))
    for value in equation.params.values():
      for part in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(part, 'jaxpr', part)
        if hasattr(inner, 'eqns'):
          yield from arrays(inner)


@every(
  [
    ('cross_entropy', {}),
    ('cross_entropy', dict(z_loss=0.1, dft=True, diagnostics=True)),
    ('dpo', {}),
    ('dpo', dict(wpo=True, nll_weight=1.0)),
    ('kto', {}),
    ('orpo', dict(nll_span='all')),
    ('simpo', {}),
    ('distill', {}),
    ('distill', dict(divergence='jsd', temperature=2.0)),
    ('reward', {}),
  ]
)
def test_no_array_of_all_logits_is_made(name, options):
  rows, length, vocab, kept = 8, 1024, 32768, 64
  head = 'scalar' if name == 'reward' else 'tied'
  model = make(vocab_size=vocab, dim=16, num_layers=1, num_heads=2, hidden_dim=16, head=head)
  group = GROUP.get(name, 2)

  def resized(key, v):
    shape = (rows,) if v.ndim == 1 else (rows, group, length, *[kept] * (v.ndim - 3))
    return jax.ShapeDtypeStruct(shape, v.dtype)

  batch = {k: resized(k, v) for k, v in batch_of(name).items()}
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
  loss = find('losses', name).loss_fn
  both = lambda p, b: loss(p, b, None, model=model, **options)
  grad = jax.grad(lambda p, b: (both(p, b)[0].total, both(p, b)[1]), has_aux=True)
  sizes = [int(np.prod(shape)) for shape in arrays(jax.make_jaxpr(grad)(params, batch).jaxpr)]
  assert max(sizes) <= logprobs.BLOCK_ELEMENTS < rows * group * length * vocab / 2
  if name != 'reward':
    assert max(sizes) > logprobs.BLOCK_ELEMENTS / 2  # the blocks were seen


@pytest.mark.parametrize('name', PREFERENCES)
def test_presets_pass_their_check(name):
  module = find('losses', name)
  for preset in module.PRESETS.values():
    module.check(**preset)


@pytest.mark.parametrize('name', ('cross_entropy', *PREFERENCES))
def test_check_takes_what_the_loss_takes(name):
  module = find('losses', name)
  about = lambda f: {
    p.name: p.default for p in inspect.signature(f).parameters.values() if p.name != 'model'
  }
  taken = about(module.loss_fn)
  assert about(module.check) == {
    k: v for k, v in taken.items() if k not in ('params', 'batch', 'rng')
  }
  wrong = {'cross_entropy': 'average', 'distill': 'divergence', 'orpo': 'nll_span'}.get(
    name, 'kind'
  )
  with pytest.raises(BadInput):  # the loss itself checks too
    module.loss_fn(PARAMS, batch_of(name), None, model=None, **{wrong: 'nonsense'})

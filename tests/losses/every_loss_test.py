"""What holds for every loss: microbatches, padding, devices, slopes, memory and presets."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.find import find
from llm_jax.losses import logprobs, policy_gradient
from llm_jax.models import actor_critic
from llm_jax.models.transformer import make
from llm_jax.options import resolve
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.training import optimizer
from llm_jax.training.step import compile_step, make_state
from llm_jax.types import BadInput

V, ROWS, LENGTH, KEPT = 11, 6, 9, 3
WITH_PRESETS = ('reward', 'dpo', 'kto', 'orpo', 'simpo', 'distill', 'policy_gradient')
# (loss, options); those of which a statistic belongs to the microbatch are in the second tuple.
EXACT = (
  ('cross_entropy', {}),
  ('cross_entropy', dict(z_loss=0.1, average='sequence', dft=True, diagnostics=True)),
  ('classify', {}),
  ('classify', dict(label_smoothing=0.2, weights=(1.0, 2.0, 0.5))),
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
  *(('policy_gradient', dict(kind=kind)) for kind in policy_gradient.KINDS),
  ('policy_gradient', dict(aggregation='sequence_mean', ratio_level='sequence', clip_dual=1.5)),
  ('policy_gradient', dict(aggregation='sequence_sum', importance_cap=1.1, log_ratio_clamp=0.5)),
  ('policy_gradient', dict(aggregation='constant', max_length=7, ratio_level='sequence_sum')),
  ('policy_gradient', dict(kl_weight=0.2, kl_importance=True, entropy_weight=0.1, temperature=0.7)),
  ('ppo', {}),
  ('ppo', dict(value_clip=None, value_weight=0.5, clip_dual=1.5, importance_cap=1.1)),
  ('ppo', dict(clip=0.1, entropy_weight=0.1, temperature=0.7, log_ratio_clamp=0.5)),
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
GROUP = {'kto': 1, 'reward': 3, 'ppo': 1}
every = lambda cases: pytest.mark.parametrize(('name', 'options'), cases, ids=str)


def batch_of(name, rows=ROWS):
  """Rows of very different lengths.

  The last answer of the last row of a ranking is missing, and the reward of the second rollout.
  """
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
  if name == 'classify':
    batch['target'] = draw.integers(0, 3, shape).astype(np.int32)
  if name == 'distill':
    batch['teacher_ids'] = draw.permuted(np.tile(np.arange(V), (*shape, 1)), axis=-1)[..., :KEPT]
    batch['teacher_ids'] = batch['teacher_ids'].astype(np.int32)
    batch['teacher_logits'] = draw.normal(-2.5, 0.3, (*shape, KEPT))
  batch['ref_logp'] = draw.normal(-2.5, 1.5, shape)
  batch['margin'] = draw.integers(0, 4, rows)
  if name in ('policy_gradient', 'ppo'):
    # Near what the table says, so that some ratios are clipped and others are not.
    logp_VV = np.asarray(jax.nn.log_softmax(PARAMS['table']))
    logp = logp_VV[np.roll(batch['tokens'], 1, axis=-1), batch['tokens']]
    batch |= {k: logp + draw.normal(0, 0.3, shape) for k in ('old_logp', 'sampled_logp')}
    batch['advantage'] = draw.normal(size=shape) * batch['mask']
    batch['valid'] = np.ones((rows, group))
    batch['valid'][1, 0] = 0
  if name == 'ppo':
    batch['value'] = draw.normal(0, 2, shape)
    batch['return'] = batch['value'] + draw.normal(size=shape)
    batch['value_mask'] = real & (np.cumsum(batch['mask'], axis=-1) > 0)
  return {k: v if v.dtype == np.int32 else v.astype(np.float32) for k, v in batch.items()}


class Scorer:
  """A reward model that is a table: the score is that of the last token and the one before."""

  shape = SimpleNamespace(causal=True, vocab_size=V)

  def apply(self, params, x, *place, method):
    if method == 'unembed':
      return x.sum(-1)
    table = params['table']
    return table[x] + jnp.roll(table[x], 1, axis=1) ** 2, None


class Classifier:
  """A table whose first columns are the logits of three classes."""

  shape = SimpleNamespace(causal=True, vocab_size=V, classes=('a', 'b', 'c'))

  def apply(self, params, x, *place):
    return params['table'][x][..., :3], None


class Critic:
  """A table that speaks, and whose rows sum to the value after a token."""

  shape = SimpleNamespace(causal=True, vocab_size=V)

  def apply(self, params, x, *place, method):
    if method == 'unembed':
      return x
    rows = params['table'][x]
    return rows.sum(-1) if method == 'value' else (rows, None)


def transformer_of(name, vocab_size):
  """A small model such as the loss trains."""
  shape = dict(vocab_size=vocab_size, dim=16, num_layers=1, num_heads=2, hidden_dim=16)
  if name == 'ppo':
    return actor_critic.make(policy=shape, critic=shape)
  heads = {'reward': dict(head='scalar'), 'classify': dict(head='classes', classes=('a', 'b', 'c'))}
  return make(**shape, **heads.get(name, {}))


PARAMS = {'table': jnp.asarray(np.random.default_rng(1).normal(size=(V, V)), jnp.float32)}


SPECIAL = {'reward': Scorer, 'classify': Classifier, 'ppo': Critic}


@pytest.fixture(scope='module')
def run(table):
  """(name, options, batch) to (Mean, Metrics) and the gradient of the total, by a table."""

  @functools.cache
  def compiled(name, options):
    model = SPECIAL[name]() if name in SPECIAL else table(V)
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


def merged(a, b):
  """What two microbatches give together."""
  ((loss, metrics), grad), ((other_loss, other_metrics), other_grad) = a, b
  together = {name: value + other_metrics[name] for name, value in metrics.items()}
  return (loss + other_loss, together), grad + other_grad


def only(batch, row):
  """The batch with all rows but one replaced by padding, so that nothing compiles anew."""
  keep = lambda v: v * (np.arange(ROWS) == row).reshape(-1, *[1] * (v.ndim - 1)).astype(v.dtype)
  return {k: keep(v) for k, v in batch.items()}


@every(EXACT)
def test_microbatches_add_up_and_rows_of_padding_add_nothing(run, name, options):
  batch = batch_of(name)
  parts = [run(name, options, only(batch, row)) for row in range(ROWS)]
  whole = run(name, options, batch)
  assert whole[0][0].count > 0 and np.any(whole[1])
  assert_same(functools.reduce(merged, parts), whole)


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
  padded = {k: wide(v) if v.ndim > 2 else v for k, v in batch.items()}
  assert_same(run(name, options, padded), run(name, options, batch))


@every(EXACT + BY_MICROBATCH)
def test_an_empty_batch_is_harmless(run, name, options):
  empty = {k: np.zeros_like(v) for k, v in batch_of(name).items()}
  (mean, metrics), grad = run(name, options, empty)
  assert mean.total == mean.count == 0 and not grad.any()
  assert all(np.isfinite(x) for x in jax.tree.leaves(metrics))


# Weights, z0 and shifts that are held constant on purpose are tested with their losses.
HELD = ('dft', 'wpo', 'shift')
HELD_KINDS = ('cispo', 'vespo')
SLOPES = [
  (name, options)
  for name, options in EXACT + BY_MICROBATCH
  if (name, options) != ('kto', {})
  and not any(k in options for k in HELD)
  and options.get('kind') not in HELD_KINDS
]


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


@pytest.mark.parametrize(
  'name', ['cross_entropy', 'classify', 'reward', 'dpo', 'policy_gradient', 'ppo']
)
def test_devices_do_not_matter(name):
  model = transformer_of(name, 16)
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
    ('policy_gradient', {}),
    ('policy_gradient', dict(kl_weight=0.1, entropy_weight=0.1, importance_cap=2.0)),
    ('ppo', dict(entropy_weight=0.1)),
  ]
)
def test_no_array_of_all_logits_is_made(name, options):
  rows, length, vocab, kept = 8, 1024, 32768, 64
  model = transformer_of(name, vocab)
  group = GROUP.get(name, 2)

  def resized(key, v):
    shape = (rows, group, length, kept)[: v.ndim]
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


@pytest.mark.parametrize('name', WITH_PRESETS)
def test_presets_can_be_bound(check, name):
  module = find('losses', name)
  for preset in module.PRESETS.values():
    check(module.loss_fn, **preset)


@pytest.mark.parametrize(
  ('name', 'wrong'),
  [
    ('cross_entropy', dict(average='nonsense')),
    ('distill', dict(divergence='nonsense')),
    ('orpo', dict(nll_span='nonsense')),
    ('classify', dict(label_smoothing=2.0)),
    ('ppo', dict(clip=-1)),
    ('policy_gradient', dict(kl_clamp=1.0)),
    ('dpo', dict(kind='ipo', beta=-1)),
    *((name, dict(kind='nonsense')) for name in ('reward', 'kto', 'simpo', 'dpo')),
  ],
)
def test_a_loss_that_is_called_checks_its_options_too(name, wrong):
  with pytest.raises(BadInput):
    find('losses', name).loss_fn(PARAMS, batch_of(name), None, model=None, **wrong)


@every([*EXACT, *BY_MICROBATCH])
def test_a_loss_needs_what_it_says_it_reads(table, name, options):
  module = find('losses', name)
  model = SPECIAL[name]() if name in SPECIAL else table(V)
  loss = functools.partial(module.loss_fn, rng=None, model=model, **options)
  fields = module.READS
  if callable(fields):
    fields = fields(resolve(module.loss_fn, options))
  optional = {'segment', 'position', 'teacher_ids'}
  batch = {k: v for k, v in batch_of(name).items() if k in optional | {*fields}}
  assert batch.keys() >= {*fields}
  jax.eval_shape(loss, PARAMS, batch)
  for missing in fields:
    with pytest.raises((BadInput, KeyError), match=missing):
      jax.eval_shape(loss, PARAMS, {k: v for k, v in batch.items() if k != missing})

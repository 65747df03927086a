"""What must not matter to a step does not, what must differ does, and nothing bad gets in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.losses import cross_entropy
from llm_jax.models import transformer
from llm_jax.parallel.mesh import make_mesh, shard_batch
from llm_jax.parallel.parameters import path_of
from llm_jax.training import optimizer
from llm_jax.training.step import (
  TrainState,
  abstract_state,
  compile_step,
  make_state,
  measured,
  shared,
  start_state,
  train_step,
)
from llm_jax.types import Mean, Peak

MODEL = transformer.make(vocab_size=64, dim=16, num_layers=2, num_heads=4, max_length=32)
MESHES = [
  dict(data=8),
  dict(fsdp=8),
  dict(data=2, fsdp=2, tensor=2),
  dict(fsdp=2, sequence=4),
  dict(data=2, tensor=2, sequence=2),
]
STEPS = 3


def init():
  return MODEL.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def loss_fn(params, batch, rng):
  return cross_entropy.loss_fn(params, batch, rng, model=MODEL)


def batch_of(step, rows=8, length=16):
  """Two documents a row and a very uneven number of targets in each, none at all in row 3."""
  draw = np.random.default_rng(step)
  column = np.arange(length)
  border = draw.integers(4, length - 2, (rows, 1))
  segment = np.where(column < border, 1, 2) * (column < length - draw.integers(0, 3, (rows, 1)))
  share = np.linspace(0.1, 1.0, rows)[:, None]
  mask = (draw.uniform(size=(rows, length)) < share) & (segment > 0) & (column > 0)
  mask &= column != border
  mask[3] = False
  return {
    'tokens': draw.integers(0, 64, (rows, length)).astype(np.int32),
    'mask': mask.astype(np.float32),
    'segment': segment.astype(np.int32),
    'position': np.where(column < border, column, column - border).astype(np.int32),
  }


def sgd():
  """Plain gradient descent: unlike Adam it does not turn a rounding error into a whole step."""
  return optimizer.guard(optax.sgd(0.3), None)


def adamw(**changes):
  return optimizer.make(total_steps=STEPS, learning_rate=1e-2, warmup_steps=1, **changes)[0]


def train(mesh_axes, tx, *, change=lambda batch: batch, steps=STEPS, **how):
  """The losses and the final state of a few steps of the tiny model."""
  mesh = make_mesh(**mesh_axes)
  with jax.set_mesh(mesh):
    state = make_state(init, tx, mesh)
    step_fn = compile_step(state, mesh, loss_fn=loss_fn, tx=tx, seed=0, **how)
    losses = []
    for step in range(steps):
      state, metrics = step_fn(state, shard_batch(change(batch_of(step)), mesh))
      losses.append(float(metrics['loss'].value))
  return losses, state


def assert_same(first, second, rtol=1e-5, atol=1e-6):
  assert jax.tree.structure(first) == jax.tree.structure(second)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
  jax.tree.map(close, jax.device_get(first), jax.device_get(second))


def largest(first, second):
  """The largest difference in each leaf."""
  return jax.tree.map(lambda a, b: np.abs(a - b).max(), *jax.device_get((first, second)))


@pytest.fixture(scope='module')
def plain():
  return train(dict(data=1), sgd())


@pytest.fixture(scope='module')
def plain_adamw():
  return train(dict(data=1), adamw())


def test_the_masks_tell_a_mean_of_means_apart(plain):
  counts = batch_of(0)['mask'].sum(1)
  assert counts.min() == 0 and counts.max() > 8
  losses, state = plain
  assert len(set(losses)) == STEPS
  moved = largest(state.params, jax.jit(init)())
  assert min(jax.tree.leaves(moved)) > 1e-4  # far above the tolerance of the comparisons below


@pytest.mark.parametrize('accumulate', [1, 4])
def test_gradients_in_bfloat16_are_near_and_add_up_in_float32(plain, accumulate):
  losses, state = train(dict(data=1), sgd(), accumulate=accumulate, gradients='bfloat16')
  np.testing.assert_allclose(losses, plain[0], rtol=5e-3)
  far = largest(state.params, plain[1].params)
  assert 1e-6 < max(jax.tree.leaves(far)) < 0.02
  assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype('float32')}


@pytest.mark.parametrize('name', ['adamw', 'lion', 'adafactor', 'muon'])
def test_a_first_moment_in_bfloat16(name):
  size = lambda state: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.opt_state))
  whole = abstract_state(init, adamw(name=name), make_mesh(data=1))
  losses, half = train(dict(data=1), adamw(name=name, moment_dtype='bfloat16'))
  count = sum(leaf.size for leaf in jax.tree.leaves(whole.params))
  assert size(whole) - size(half) == 2 * count
  assert losses[-1] < losses[0]


def test_accumulation_changes_nothing(plain):
  losses, state = train(dict(data=1), sgd(), accumulate=4)
  np.testing.assert_allclose(losses, plain[0], rtol=1e-5)
  assert_same(state.params, plain[1].params)


def test_accumulation_on_devices_changes_nothing(plain):
  losses, state = train(dict(data=2, fsdp=2, tensor=2), sgd(), accumulate=2)
  np.testing.assert_allclose(losses, plain[0], rtol=1e-5)
  assert_same(state.params, plain[1].params)


@pytest.mark.parametrize('axes', MESHES, ids=str)
def test_devices_change_nothing(plain_adamw, axes):
  losses, state = train(axes, adamw())
  np.testing.assert_allclose(losses, plain_adamw[0], rtol=1e-5)
  assert_same(state, plain_adamw[1], atol=2e-5)


@pytest.mark.parametrize('name', ['adamw', 'lion', 'muon'])
def test_moments_live_where_their_parameters_live(name):
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  state = make_state(init, adamw(name=name, ema=0.9), mesh)
  placed = {
    path_of(k): (leaf.shape, leaf.sharding)
    for k, leaf in jax.tree_util.tree_flatten_with_path(state.params)[0]
  }
  mirrored = []
  for key_path, leaf in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]:
    owner = [path for path in placed if path_of(key_path).endswith('/' + path)]
    if owner:
      shape, sharding = placed[owner[0]]
      assert leaf.shape == shape and leaf.sharding == sharding, path_of(key_path)
      mirrored.append(owner[0])
    else:
      assert leaf.size < 4 and leaf.sharding.is_fully_replicated, path_of(key_path)
  # The average, and one moment at least, of every parameter.
  assert all(mirrored.count(path) >= 2 for path in placed)
  assert not state.params['blocks']['mlp']['up'].sharding.is_fully_replicated


def test_shapes_of_a_state_are_those_of_a_state():
  mesh, tx = make_mesh(fsdp=2, tensor=2), adamw()
  state, abstract = make_state(init, tx, mesh), abstract_state(init, tx, mesh)
  about = lambda x: (x.shape, x.dtype, x.sharding)
  assert jax.tree.map(about, state) == jax.tree.map(about, abstract)


def test_a_state_around_given_parameters_is_a_fresh_one():
  mesh, tx = make_mesh(fsdp=2), adamw()
  made = make_state(init, tx, mesh)
  given = make_state(init, tx, mesh).params
  jax.tree.map(np.testing.assert_array_equal, made, start_state(given, tx, mesh))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))  # taken over


def test_padding_rows_change_nothing(plain):
  fill = lambda v: np.concatenate([v, np.zeros_like(v)])
  losses, state = train(
    dict(data=1), sgd(), change=lambda batch: {k: fill(v) for k, v in batch.items()}
  )
  np.testing.assert_allclose(losses, plain[0], rtol=1e-5)
  assert_same(state.params, plain[1].params)


def test_padding_columns_change_nothing(plain):
  wide = lambda v: np.pad(v, ((0, 0), (0, 8)))
  losses, state = train(
    dict(data=1), sgd(), change=lambda batch: {k: wide(v) for k, v in batch.items()}
  )
  np.testing.assert_allclose(losses, plain[0], rtol=1e-5)
  assert_same(state.params, plain[1].params)


# A loss small enough to be looked through; `bad` and `size` of the batch steer its gradient.

VECTOR = {'final_norm': {'scale': jnp.arange(1.0, 5.0)}, 'embedding': {'table': jnp.ones((2, 4))}}


def small_loss(params, batch, rng):
  scale, table = params['final_norm']['scale'], params['embedding']['table']
  error_B4 = batch['x'][:, None] * scale + table.sum(0) - 1
  error_B4 = error_B4 * jnp.where(batch['bad'] > 0, jnp.nan, batch['size'])[:, None]
  draws = {f'draw{i}': Mean.of(jax.random.uniform(rng), batch['id'][0] == i) for i in range(2)}
  loss, farthest = Mean.of((error_B4**2).mean(-1), batch['mask']), Peak.of(batch['x'])
  return loss, {**draws, 'farthest': farthest}


def small_batch(*, rows=4, bad=0, size=1.0, mask=1.0):
  return {
    'x': jnp.linspace(0.5, 1.5, rows),
    'bad': jnp.full(rows, bad),
    'size': jnp.full(rows, size),
    'mask': jnp.full(rows, mask),
    'id': jnp.arange(rows) % 2,
  }


def small(tx, *, accumulate=1, seed=0):
  mesh = make_mesh(data=1)
  state = start_state(jax.tree.map(jnp.copy, VECTOR), tx, mesh)
  return state, compile_step(
    state, mesh, loss_fn=small_loss, tx=tx, seed=seed, accumulate=accumulate
  )


def test_a_program_serves_other_seeds_where_it_is_shared_and_is_forgotten_after():
  tx = sgd()
  program = lambda seed: small(tx, seed=seed)[1].program
  with shared():
    assert program(0) is program(1)
    assert small(sgd())[1].program is not program(0)
  assert program(0) is not program(0)


def quiet(**changes):
  return optimizer.make(total_steps=1000, learning_rate=1e-3, warmup_steps=0, **changes)[0]


def test_the_step_compiles_once_and_takes_its_state_over():
  state, step_fn = small(quiet())
  for _ in range(4):
    before = jax.tree.leaves(state)
    state, _ = step_fn(state, small_batch())
    assert all(leaf.is_deleted() for leaf in before)
  assert step_fn.program._cache_size() == 1
  assert int(state.step) == 4


def test_the_big_step_compiles_once_on_a_mesh():
  mesh, tx = make_mesh(data=2, fsdp=2, tensor=2), adamw()
  with jax.set_mesh(mesh):
    state = make_state(init, tx, mesh)
    step_fn = compile_step(state, mesh, loss_fn=loss_fn, tx=tx, seed=0)
    for step in range(3):
      state, _ = step_fn(state, shard_batch(batch_of(step), mesh))
  assert step_fn.program._cache_size() == 1


@pytest.mark.parametrize('accumulate', [1, 2])
def test_what_is_not_finite_is_skipped_and_counted(accumulate):
  state, step_fn = small(quiet(), accumulate=accumulate)
  state, _ = step_fn(state, small_batch())
  seen = []
  for bad in (1, 1, 0, 1, 0):
    before = jax.device_get((state.params, state.opt_state.inner))
    state, metrics = step_fn(state, small_batch(bad=bad))
    after = (state.params, state.opt_state.inner)
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), before, jax.device_get(after))
    assert all(jax.tree.leaves(same)) == bool(bad)
    seen.append([int(metrics[k].total) for k in ('skipped', 'skipped_in_a_row')])
  assert seen == [[1, 1], [2, 2], [2, 0], [3, 1], [3, 0]]
  assert int(state.step) == 6  # a skipped update is a step: its batch is not read again
  assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(state)])).all()


def test_one_bad_microbatch_skips_the_update():
  state, step_fn = small(quiet(), accumulate=2)
  batch = small_batch()
  state, metrics = step_fn(state, batch | {'bad': batch['bad'].at[1].set(1)})
  assert int(metrics['skipped'].total) == 1
  jax.tree.map(np.testing.assert_array_equal, state.params, VECTOR)


def test_a_spike_is_skipped_once_the_guard_knows_what_is_usual():
  state, step_fn = small(quiet(spike=5.0))
  state, metrics = step_fn(state, small_batch(size=100.0))  # too early to tell
  assert int(metrics['skipped'].total) == 0
  state, step_fn = small(quiet(spike=5.0))
  for _ in range(optimizer.SPIKE_WARMUP):
    state, metrics = step_fn(state, small_batch())
  usual = float(state.opt_state.norm_mean)
  assert usual == pytest.approx(float(metrics['grad_norm'].value), rel=0.3)
  before = jax.device_get(state.params)
  state, metrics = step_fn(state, small_batch(size=10.0))
  assert float(metrics['grad_norm'].value) > 5 * usual
  assert int(metrics['skipped'].total) == 1
  assert float(state.opt_state.norm_mean) == usual  # a spike does not become usual
  jax.tree.map(np.testing.assert_array_equal, state.params, before)
  state, metrics = step_fn(state, small_batch(size=1.2))
  assert int(metrics['skipped'].total) == 1


def test_without_spike_any_finite_gradient_counts():
  state, step_fn = small(quiet())
  for _ in range(optimizer.SPIKE_WARMUP):
    state, _ = step_fn(state, small_batch())
  _, metrics = step_fn(state, small_batch(size=1000.0))
  assert int(metrics['skipped'].total) == 0


@pytest.mark.parametrize('accumulate', [1, 2])
def test_a_batch_without_targets_is_harmless(accumulate):
  state, step_fn = small(quiet(weight_decay=0.0), accumulate=accumulate)
  state, metrics = step_fn(state, small_batch(mask=0.0))
  assert float(metrics['loss'].value) == 0 and float(metrics['loss'].count) == 0
  assert int(metrics['skipped'].total) == 0
  jax.tree.map(np.testing.assert_array_equal, state.params, VECTOR)
  state, metrics = step_fn(state, small_batch())
  assert float(metrics['loss'].value) > 0
  assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(state)])).all()


def test_the_loss_is_that_before_the_update_and_the_norm_that_of_the_mean():
  state, step_fn = small(sgd())
  batch = small_batch()
  mean = lambda params: small_loss(params, batch, jax.random.key(0))[0].value
  value, grads = jax.value_and_grad(mean)(VECTOR)
  _, metrics = step_fn(state, batch)
  np.testing.assert_allclose(metrics['loss'].value, value, rtol=1e-6)
  np.testing.assert_allclose(metrics['grad_norm'].value, optax.global_norm(grads), rtol=1e-6)


def test_random_numbers_differ_by_step_microbatch_and_seed_and_by_nothing_else():
  def draws(seed):
    state, step_fn = small(quiet(), accumulate=2, seed=seed)
    out = []
    for _ in range(3):
      state, metrics = step_fn(state, small_batch())
      # `id` is 0, 1, 0, 1: a strided split gives each microbatch one id.
      assert [float(metrics[f'draw{i}'].count) for i in range(2)] == [1, 1]
      out += [float(metrics[f'draw{i}'].total) for i in range(2)]
    return out

  first = draws(0)
  assert len(set(first)) == 6
  assert draws(0) == first
  assert not set(draws(1)) & set(first)


@pytest.mark.parametrize('accumulate', [1, 2, 4])
def test_the_largest_of_a_batch_is_that_of_its_microbatches(accumulate):
  state, step_fn = small(quiet(), accumulate=accumulate)
  for x in ([1.0, 7.0, 2.0, 3.0], [9.0, 1.0, 2.0, 3.0]):  # in either half
    state, metrics = step_fn(state, small_batch() | {'x': jnp.asarray(x)})
    assert isinstance(metrics['farthest'], Peak) and metrics['farthest'].value == max(x)


@pytest.mark.parametrize('accumulate', [1, 2])
def test_what_annotators_measured_is_reported_as_its_mean(accumulate):
  state, step_fn = small(quiet(), accumulate=accumulate)
  batch = small_batch() | {'log/reward': jnp.asarray([1.0, 2.0, 4.0, 9.0])}
  _, metrics = step_fn(state, batch)
  assert metrics['reward'].value == 4 and 'log/reward' not in metrics
  assert set(measured(small_batch())) == set()


def test_rows_that_only_fill_a_batch_are_not_measured():
  segment = np.zeros((4, 2, 3), np.int32)
  segment[0, 0, 2] = segment[2, 1, 0] = 1
  batch = {'segment': segment, 'log/reward': np.array([1.0, 100.0, 4.0, 100.0])}
  found = measured(jax.tree.map(jnp.asarray, batch))
  assert (float(found['reward'].total), float(found['reward'].count)) == (5, 2)


def test_short_gradients_leave_norms_exact():
  # Stacked over layers a norm has two axes too, and is still read in float32.
  params = {
    'blocks': {'norm': {'scale': jnp.full((2, 8), 1.001)}, 'mlp': {'up': jnp.full((8, 8), 1.001)}}
  }
  seen = {}

  def loss_fn(params, batch, rng):
    seen.update(jax.tree.map(lambda x: x.dtype, params))
    sums = [x.astype(jnp.float32).sum() for x in jax.tree.leaves(params)]
    return Mean.of(sum(sums) * batch['mask']), {}

  tx = optimizer.guard(optax.sgd(0.1), None)
  state = TrainState(jnp.int32(0), params, tx.init(params))
  batch = {'mask': jnp.ones(2)}
  train_step(state, batch, loss_fn=loss_fn, tx=tx, seed=0, gradients='bfloat16')
  assert seen['blocks']['norm']['scale'] == jnp.float32
  assert seen['blocks']['mlp']['up'] == jnp.bfloat16

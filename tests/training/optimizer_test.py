"""Every optimizer learns, decays the matrices and nothing else; schedules against hand values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.models import transformer
from llm_jax.parallel.parameters import path_of
from llm_jax.training import optimizer
from llm_jax.training.step import TrainState
from llm_jax.types import BadInput

NAMES = ('adamw', 'lion', 'adafactor', 'muon')
MATRICES = ('/q', '/k', '/v', '/o', '/gate', '/up', '/down', 'head/kernel')


def params_of(**shape):
  model = transformer.make(
    **{'vocab_size': 12, 'dim': 8, 'num_layers': 2, 'num_heads': 2, 'hidden_dim': 16, **shape}
  )
  init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  return jax.tree.map(lambda x: x + 0.5, jax.jit(init)())  # no zeros: decay shows everywhere


GPT2 = dict(norm='layer', mlp='gelu', position='learned', bias=True, max_length=8)
QWEN3 = dict(qk_norm=True, num_kv_heads=1, head='untied')
REWARD = dict(head='scalar', qkv_bias=True)


def flat(tree):
  return {path_of(k): np.asarray(v) for k, v in jax.tree_util.tree_flatten_with_path(tree)[0]}


@pytest.mark.parametrize('name', NAMES)
def test_it_learns(name):
  params = params_of(**QWEN3)
  target = jax.tree.map(lambda x: x + np.sign(np.sin(100 * np.asarray(x))) * 0.3, params)
  tx, _ = optimizer.make(
    total_steps=60, name=name, learning_rate=0.05, warmup_steps=5, weight_decay=0.0
  )

  def loss(params):
    return sum(jnp.square(a - b).sum() for a, b in zip(*map(jax.tree.leaves, (params, target))))

  @jax.jit
  def step(params, state):
    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  state, values = jax.jit(tx.init)(params), []
  for _ in range(61):
    params, state, value = step(params, state)
    values.append(float(value))
  assert values[60] < 0.2 * values[0]


@pytest.mark.parametrize('shape', [GPT2, QWEN3, REWARD], ids=['gpt2', 'qwen3', 'reward'])
@pytest.mark.parametrize('name', NAMES)
def test_decay_touches_exactly_the_matrices(name, shape):
  params = params_of(**shape)
  tx, _ = optimizer.make(
    total_steps=10,
    name=name,
    learning_rate=0.1,
    schedule='constant',
    warmup_steps=0,
    weight_decay=0.2,
  )
  updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  values = flat(params)
  matrices = [path for path in values if path.endswith(MATRICES)]
  assert len(matrices) >= 6
  for path, update in flat(updates).items():
    wanted = -0.1 * 0.2 * values[path] if path in matrices else np.zeros_like(update)
    np.testing.assert_allclose(update, wanted, rtol=1e-5, atol=1e-9, err_msg=path)


def rate(step, **changes):
  options = dict(total_steps=100, learning_rate=2.0, warmup_steps=10, final_fraction=0.1)
  return float(optimizer.make(**options | changes)[1](step))


@pytest.mark.parametrize(
  'schedule, step, wanted',
  [
    ('cosine', 0, 0.2),  # the first update moves already
    ('cosine', 4, 1.0),
    ('cosine', 9, 2.0),
    ('cosine', 10, 2.0),
    ('cosine', 55, 1.1),
    ('cosine', 100, 0.2),
    ('linear', 0, 0.2),
    ('linear', 10, 2.0),
    ('linear', 55, 1.1),
    ('linear', 100, 0.2),
    ('constant', 0, 0.2),
    ('constant', 9, 2.0),
    ('constant', 100, 2.0),
    ('wsd', 0, 0.2),
    ('wsd', 10, 2.0),
    ('wsd', 50, 2.0),
    ('wsd', 80, 2.0),
    ('wsd', 90, 1.1),
    ('wsd', 100, 0.2),
  ],
)
def test_schedules_by_hand(schedule, step, wanted):
  assert rate(step, schedule=schedule) == pytest.approx(wanted, rel=1e-5)


def test_a_schedule_rises_then_never_rises_again():
  for schedule in ('cosine', 'linear', 'wsd'):
    rates = [rate(step, schedule=schedule) for step in range(0, 100, 3)]
    peak = int(np.argmax(rates))
    assert all(np.diff(rates[: peak + 1]) > 0) and all(np.diff(rates[peak:]) <= 0)


def test_options_of_the_schedule():
  assert rate(60, schedule='wsd', decay_fraction=0.5) == pytest.approx(1.64)
  assert rate(100, final_fraction=0.5) == pytest.approx(1.0)
  assert rate(0, warmup_steps=0) == pytest.approx(2.0)
  # Warmup takes half of the run at most, so that a short run still reaches its peak.
  assert rate(49, warmup_steps=1000) == pytest.approx(2.0)
  assert rate(0, warmup_steps=1000) == pytest.approx(2.0 / 50)
  assert rate(0, total_steps=1) > 0 and rate(0, total_steps=2) > 0


@pytest.mark.parametrize('name', NAMES)
def test_the_schedule_sets_the_size_of_the_update(name):
  params = params_of()
  grads = jax.tree.map(lambda x: jnp.sin(50 * x), params)
  sizes = []
  for learning_rate in (0.1, 0.2):
    tx, _ = optimizer.make(
      total_steps=100,
      name=name,
      learning_rate=learning_rate,
      warmup_steps=10,
      weight_decay=0.0,
    )
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    assert (
      jnp.vdot(
        *(jnp.concatenate([v.ravel() for v in jax.tree.leaves(t)]) for t in (updates, grads))
      )
      < 0
    )  # downhill
    sizes.append(float(optax.global_norm(updates)))
  assert sizes[1] == pytest.approx(2 * sizes[0], rel=1e-4)


@pytest.mark.parametrize('clip, size, kept', [(1.0, 5.0, 1.0), (1.0, 0.5, 0.5), (None, 5.0, 5.0)])
def test_clip(clip, size, kept):
  params = {'embedding': {'table': jnp.ones((2, 2))}}
  grads = jax.tree.map(lambda x: x * size / 2, params)  # of global norm `size`
  tx, _ = optimizer.make(total_steps=10, clip=clip, b1=0.9)
  _, state = tx.update(grads, tx.init(params), params)
  (moment,) = [
    leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0] if '/mu/' in path_of(path)
  ]
  assert float(jnp.linalg.norm(moment)) == pytest.approx(0.1 * kept, rel=1e-5)


def test_the_average_is_the_one_worked_out_by_hand():
  params = {'embedding': {'table': jnp.array([[1.0, -2.0]])}}
  inner = optimizer.guard(optax.sgd(1.0), None)
  tx = optimizer.average(inner, 0.75)
  state = tx.init(params)
  grads = [np.array([[0.5, 0.0]]), np.array([[-1.0, 4.0]]), np.array([[2.0, 2.0]])]
  value = mean = np.array([[1.0, -2.0]])
  for grad in grads:
    updates, state = tx.update({'embedding': {'table': jnp.asarray(grad)}}, state, params)
    params = optax.apply_updates(params, updates)
    value = value - grad
    mean = 0.75 * mean + 0.25 * value
  np.testing.assert_allclose(params['embedding']['table'], value)
  np.testing.assert_allclose(state.ema['embedding']['table'], mean)
  whole = TrainState(jnp.int32(3), params, state)
  np.testing.assert_allclose(optimizer.averaged_params(whole)['embedding']['table'], mean)
  assert optimizer.averaged_params(TrainState(jnp.int32(3), params, state.inner)) is params


def test_an_average_is_kept_only_on_request_and_does_not_share_memory():
  params = {'embedding': {'table': jnp.ones((2, 2))}}
  state = optimizer.make(total_steps=10, ema=0.9)[0].init(params)
  np.testing.assert_array_equal(state.ema['embedding']['table'], params['embedding']['table'])
  assert state.ema['embedding']['table'] is not params['embedding']['table']
  assert [int(n) for n in optimizer.skipped(state)] == [0, 0]
  plain = optimizer.make(total_steps=10)[0].init(params)
  assert not isinstance(plain, optimizer.Average)
  assert [int(n) for n in optimizer.skipped(plain)] == [0, 0]


def test_a_skipped_update_leaves_the_average_of_constant_parameters():
  params = {'embedding': {'table': jnp.ones((2, 2))}}
  tx, _ = optimizer.make(total_steps=10, ema=0.5)
  updates, state = tx.update(
    {'embedding': {'table': jnp.full((2, 2), jnp.nan)}}, tx.init(params), params
  )
  np.testing.assert_array_equal(updates['embedding']['table'], 0)
  np.testing.assert_array_equal(state.ema['embedding']['table'], 1)
  assert [int(n) for n in optimizer.skipped(state)] == [1, 1]


def test_muon_treats_layers_apart():
  params = params_of(num_layers=3, num_kv_heads=1)
  grads = jax.tree.map(lambda x: jnp.sin(50 * x), params)
  # Clipping looks at all layers together, so it is off.
  tx, _ = optimizer.make(total_steps=10, name='muon', clip=None, weight_decay=0.1)
  update = jax.jit(lambda grads, params: tx.update(grads, tx.init(params), params)[0])
  updates = update(grads, params)
  for layer in range(3):
    here = slice(layer, layer + 1)
    alone = lambda tree, here=here: {'blocks': jax.tree.map(lambda x: x[here], tree['blocks'])}
    one = update(alone(grads), alone(params))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8)
    jax.tree.map(close, alone(updates), one)


def test_muon_makes_matrices_orthogonal_and_nothing_else():
  params = params_of()
  draw = lambda x: jax.random.normal(jax.random.key(x.size), x.shape)
  tx, _ = optimizer.make(
    total_steps=10, name='muon', learning_rate=1.0, warmup_steps=0, weight_decay=0.0
  )
  update = jax.jit(lambda params: tx.update(jax.tree.map(draw, params), tx.init(params), params)[0])
  updates = update(params)
  shapes = {'q': (8, 8), 'k': (8, 8), 'v': (8, 8), 'o': (8, 8)}
  blocks = updates['blocks']
  matrices = [blocks['attention'][n].reshape(2, *shape) for n, shape in shapes.items()]
  matrices += [blocks['mlp'][n] for n in ('gate', 'up', 'down')]
  for matrix in matrices:
    values = np.linalg.svd(np.asarray(matrix), compute_uv=False)
    assert values.max() / values.min() < 3  # of a random square matrix: tens to hundreds
    # 0.2 of the root mean square of Adam's updates, whatever the shape.
    assert np.sqrt(np.square(matrix).mean()) == pytest.approx(0.2, rel=0.3)
  # The rest goes through Adam with Nesterov momentum, whose first update has one size everywhere,
  # (b1 (1 - b1) / (1 - b1^2) + 1) times the learning rate.
  for leaf in (updates['embedding']['table'], blocks['mlp_norm']['scale']):
    np.testing.assert_allclose(np.abs(leaf), 1 + 0.9 * 0.1 / (1 - 0.9**2), rtol=1e-3)


@pytest.mark.parametrize('name', NAMES)
def test_what_is_not_decayed_has_a_rate_of_its_own(name):
  params = params_of()

  def updates(rate):
    how = dict(name=name, warmup_steps=0, weight_decay=0.3, clip=None)
    tx, _ = optimizer.make(total_steps=10, embedding_rate=rate, **how)
    return jax.jit(lambda p: tx.update(p, tx.init(p), p)[0])(params)

  plain, other = updates(1.0), updates(3.0)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
  close(other['embedding']['table'], 3 * plain['embedding']['table'])
  for part in ('attention_norm', 'mlp_norm'):
    close(other['blocks'][part]['scale'], 3 * plain['blocks'][part]['scale'])
  for part in ('attention', 'mlp'):
    jax.tree.map(close, other['blocks'][part], plain['blocks'][part])


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(name='adam'), "optimizer: name 'adam'; did you mean 'adamw'?"),
    (dict(name='sophia'), "optimizer: name 'sophia'; choose from: adamw, lion, adafactor, muon"),
    (dict(schedule='cosin'), "optimizer: schedule 'cosin'; did you mean 'cosine'?"),
    (dict(schedule='step'), 'choose from: cosine, linear, wsd, constant'),
  ],
)
def test_unknown_names(options, message):
  with pytest.raises(BadInput) as error:
    optimizer.make(total_steps=10, **options)
  assert message in str(error.value)

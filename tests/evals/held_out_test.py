"""A loss on held-out rows is the loss on all of them at once, however they are put into batches."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.evals import held_out
from llm_jax.find import find
from llm_jax.losses.logprobs import score
from llm_jax.models import transformer
from llm_jax.parallel.mesh import make_mesh
from llm_jax.types import Mean, Peak

V, L, ROWS = 11, 8, 7
LOSSES = ('cross_entropy', 'dpo', 'orpo', 'simpo', 'reward')
KEY = jax.random.key(0)


class Table:
  """A model whose logits, or whose score of an answer, are looked up by the token before."""

  def __init__(self, head):
    self.shape = SimpleNamespace(vocab_size=V, causal=True)
    self.head = head
    self.traced = 0

  def apply(self, params, x, *place, method):
    if method == 'unembed':
      return x.sum(-1) if self.head == 'scalar' else x
    self.traced += 1
    return params['table'][x], None


def rows_of(count=ROWS):
  """Pairs of answers of very different lengths."""
  draw, rows = np.random.default_rng(0), []
  for _ in range(count):
    real = np.arange(L) < draw.integers(4, L + 1, (2, 1))
    rows.append(
      {
        'tokens': draw.integers(0, V, (2, L)).astype(np.int32) * real,
        'segment': real.astype(np.int32),
        'position': (np.arange(L) * real).astype(np.int32),
        'mask': (real & (np.arange(L) >= draw.integers(1, 4))).astype(np.float32),
        'ref_logp': draw.normal(-2.5, 1.0, (2, L)).astype(np.float32),
        'margin': np.float32(draw.integers(0, 4)),
      }
    )
  return rows


def stacked(rows):
  return {k: jnp.asarray(np.stack([row[k] for row in rows])) for k in rows[0]}


PARAMS = {'table': jnp.asarray(np.random.default_rng(1).normal(size=(V, V)), jnp.float32)}


def bound(name):
  model = Table('scalar' if name == 'reward' else 'tied')
  return model, functools.partial(find('losses', name).loss_fn, model=model)


def evaluator(loss_fn, rows, mesh=None, **options):
  mesh = mesh or make_mesh(data=1)
  return held_out.make(None, None, loss_fn=loss_fn, rows=rows, mesh=mesh, **options)


def assert_same(found, wanted):
  """Sums and counts, not only their quotients."""
  assert found.keys() == wanted.keys()
  for name, mean in wanted.items():
    np.testing.assert_allclose(found[name].total, mean.total, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found[name].count, mean.count, err_msg=name)


@pytest.mark.parametrize('name', LOSSES)
def test_batches_add_up_to_all_rows_with_every_metric_of_the_loss(name):
  rows = rows_of()
  _, loss_fn = bound(name)
  loss, metrics = jax.jit(loss_fn)(PARAMS, stacked(rows), KEY)
  assert loss.count > 0
  assert name == 'cross_entropy' or {'accuracy', 'margin'} <= set(metrics)
  for batch_size in (1, 4, ROWS, 16):
    assert_same(evaluator(loss_fn, rows, batch_size=batch_size)(PARAMS), {'loss': loss, **metrics})


def test_all_batches_share_one_shape_and_are_compiled_once():
  model, loss_fn = bound('dpo')
  evaluate = evaluator(loss_fn, rows_of(), batch_size=3)
  first, second = evaluate(PARAMS), evaluate(PARAMS)
  assert model.traced == 1
  assert_same(first, second)


def test_max_rows_are_spread_evenly():
  rows = rows_of(9)
  _, loss_fn = bound('dpo')
  three = evaluator(loss_fn, [rows[0], rows[4], rows[8]])(PARAMS)
  assert_same(evaluator(loss_fn, rows, batch_size=2, max_rows=3)(PARAMS), three)
  assert_same(evaluator(loss_fn, rows, max_rows=100)(PARAMS), evaluator(loss_fn, rows)(PARAMS))


@pytest.mark.parametrize('max_rows', range(1, 13))
def test_no_row_is_read_twice(max_rows):
  rows = [{'number': np.int32(i)} for i in range(12)]
  found = held_out.batches(rows, make_mesh(data=1), 5, max_rows)
  read = np.concatenate([batch['number'] for batch in found])[:max_rows]
  assert len(set(read.tolist())) == max_rows and read[0] == 0
  if max_rows > 1:
    assert read[-1] == 11 and np.ptp(np.diff(read)) <= 1


def test_hosts_divide_each_batch(monkeypatch):
  rows = [{'number': np.int32(i + 1)} for i in range(6)]
  monkeypatch.setattr(held_out, 'shard_batch', lambda batch, mesh: batch['number'].tolist())
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  read = []
  for host in range(2):
    monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
    read.append(list(held_out.batches(rows, None, 4, None)))
  assert read == [[[1, 2], [5, 6]], [[3, 4], [0, 0]]]


def test_annotators_see_the_parameters_and_the_same_seeds_every_time():
  draws = []

  def noise(params, batch, rng):
    draws.append(float(jax.random.uniform(rng)))
    return {**batch, 'ref_logp': batch['ref_logp'] + params['table'].sum()}

  def double(params, batch, rng):
    draws.append(float(jax.random.uniform(rng)))
    return {**batch, 'ref_logp': batch['ref_logp'] * 2}

  rows = rows_of()
  _, loss_fn = bound('dpo')
  evaluate = evaluator(loss_fn, rows, batch_size=4, annotate=[noise, double])
  found = evaluate(PARAMS)
  whole = stacked(rows)
  whole['ref_logp'] = (whole['ref_logp'] + PARAMS['table'].sum()) * 2  # in this order
  loss, metrics = jax.jit(loss_fn)(PARAMS, whole, KEY)
  assert_same(found, {'loss': loss, **metrics})
  evaluate(PARAMS)
  assert draws[:4] == draws[4:] and len(set(draws[:4])) == 4


@pytest.mark.parametrize('batch_size', [1, 3, ROWS, 16])
def test_what_annotators_measure_is_a_mean_over_rows_and_the_largest_is_that_of_all(batch_size):
  def loss_fn(params, batch, rng):
    return Mean.of(batch['margin'], 1), {'highest': Peak.of(batch['margin'])}

  def judge(params, batch, rng):  # of the rows that fill the last batch it thinks a lot
    real_B = (batch['segment'] > 0).any((1, 2))
    return {**batch, 'log/reward': jnp.where(real_B, batch['margin'] + 1, 1000.0)}

  rows = rows_of()
  margins = [row['margin'] for row in rows]
  evaluate = evaluator(loss_fn, rows, batch_size=batch_size, annotate=[judge])
  found = evaluate(PARAMS)
  assert found['reward'].count == ROWS
  assert found['reward'].value == pytest.approx(np.mean(margins) + 1)
  assert found['highest'].value == max(margins) > 0


@pytest.mark.parametrize('name', ['dpo', 'reward'])
def test_devices_change_nothing_and_a_transformer_reads_empty_rows(name):
  head = 'scalar' if name == 'reward' else 'tied'
  shape = dict(vocab_size=16, dim=16, num_layers=2, num_heads=2)
  model, frozen = transformer.make(**shape, head=head), transformer.make(**shape)
  init = lambda model, seed: jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))
  params, theirs = init(model, 0), init(frozen, 1)
  params = jax.tree.map(lambda x: x + 0.1, params)  # a scalar head begins at 0
  refer = jax.jit(lambda batch: score(frozen, theirs, batch))
  annotate = lambda params, batch, rng: {**batch, 'ref_logp': refer(batch)}
  loss_fn, rows = functools.partial(find('losses', name).loss_fn, model=model), rows_of(11)

  def on(**axes):
    with jax.set_mesh(mesh := make_mesh(**axes)):
      run = evaluator(loss_fn, rows, mesh, batch_size=8, annotate=[annotate])
      return jax.device_get(run(params))

  loss, metrics = jax.jit(loss_fn)(params, annotate(params, stacked(rows), KEY), KEY)
  alone = on(data=1)
  assert alone['loss'].count == 11
  assert_same(alone, {'loss': loss, **metrics})
  assert_same(on(data=2, fsdp=2, tensor=2), alone)

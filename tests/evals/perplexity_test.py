"""Loss and bits per byte against numbers worked out with NumPy; batches and devices don't show."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.evals import perplexity
from llm_jax.models import transformer
from llm_jax.parallel.mesh import make_mesh

VOCAB = 16
BYTES = np.array([0, 0, 0, 1, 1, 2, 3, 4, 1, 1, 2, 5, 7, 1, 1, 2], np.int32)
TOKENIZER = types.SimpleNamespace(token_bytes=BYTES, prefix_after=frozenset())


class Bigrams:
  """A model whose logits are a row of a table, so that its loss is a look-up."""

  shape = types.SimpleNamespace(vocab_size=VOCAB, causal=True)

  def __init__(self):
    self.traced = 0

  def apply(self, params, x, position=None, segment=None, *, method):
    if method == 'unembed':
      return x
    self.traced += 1
    return params['table'][x], None


def rows_of(count, length=8, seed=0):
  draw = np.random.default_rng(seed)
  rows = []
  for _ in range(count):
    mask = (draw.uniform(size=length) < 0.7) & (np.arange(length) > 0)
    rows.append(
      {
        'tokens': draw.integers(0, VOCAB, length).astype(np.int32),
        'mask': mask.astype(np.float32),
        'segment': np.ones(length, np.int32),
        'position': np.arange(length, dtype=np.int32),
      }
    )
  return rows


def by_hand(table, rows):
  """(nats per token, bits per byte)."""
  logp = table - np.log(np.exp(table).sum(-1, keepdims=True))
  nats = count = size = 0
  for row in rows:
    for t in np.flatnonzero(row['mask']):
      nats -= logp[row['tokens'][t - 1], row['tokens'][t]]
      count += 1
      size += BYTES[row['tokens'][t]]
  return nats / count, nats / math.log(2) / size


TABLE = np.random.default_rng(1).normal(size=(VOCAB, VOCAB)).astype(np.float32)


def evaluate(rows, model=None, params=None, mesh=None, **options):
  mesh = mesh or make_mesh(data=1)
  with jax.set_mesh(mesh):
    run = perplexity.make(model or Bigrams(), TOKENIZER, rows=rows, mesh=mesh, **options)
    return {k: float(v.value) for k, v in run(params or {'table': TABLE}).items()}


@pytest.mark.parametrize('batch_size', [1, 4, 6, 16])
def test_numbers_by_hand_whatever_the_batch(batch_size):
  rows = rows_of(6)
  values = evaluate(rows, batch_size=batch_size)
  loss, bits = by_hand(TABLE, rows)
  assert values == pytest.approx({'loss': loss, 'bits_per_byte': bits}, rel=1e-5)


def test_a_model_that_knows_nothing():
  values = evaluate(rows_of(4), params={'table': np.zeros((VOCAB, VOCAB), np.float32)})
  assert values['loss'] == pytest.approx(math.log(VOCAB))


def test_all_batches_share_one_shape_and_are_compiled_once():
  model, mesh = Bigrams(), make_mesh(data=1)
  run = perplexity.make(model, TOKENIZER, rows=rows_of(7), mesh=mesh, batch_size=3)
  first, second = run({'table': TABLE}), run({'table': TABLE})
  assert model.traced == 1
  assert float(first['loss'].value) == float(second['loss'].value)
  assert float(first['loss'].count) == sum(row['mask'].sum() for row in rows_of(7))


def test_max_rows_are_spread_evenly():
  rows = rows_of(9)
  loss, bits = by_hand(TABLE, [rows[0], rows[4], rows[8]])
  values = evaluate(rows, max_rows=3)
  assert values == pytest.approx({'loss': loss, 'bits_per_byte': bits}, rel=1e-5)
  assert evaluate(rows, max_rows=100) == pytest.approx(evaluate(rows), rel=1e-6)


def test_a_vocabulary_larger_than_the_tokenizers():
  model = Bigrams()
  model.shape = types.SimpleNamespace(vocab_size=VOCAB + 4, causal=True)
  table = np.pad(TABLE, ((0, 4), (0, 4)), constant_values=-1e9)
  values = evaluate(rows_of(5), model=model, params={'table': table})
  assert values == pytest.approx(evaluate(rows_of(5)), rel=1e-5)


def test_what_annotators_hide_is_what_is_asked_and_the_same_every_time():
  model = Bigrams()
  model.shape = types.SimpleNamespace(vocab_size=VOCAB, causal=False)
  draws = []

  def hide(params, batch, rng):
    draws.append(float(jax.random.uniform(rng)))
    mask = jnp.zeros_like(batch['mask']).at[:, 2].set(1)
    tokens = jnp.where(mask > 0, 3, batch['tokens'])
    return {**batch, 'tokens': tokens, 'target': batch['tokens'], 'mask': mask}

  rows, mesh = rows_of(4), make_mesh(data=1)
  run = perplexity.make(model, TOKENIZER, rows=rows, mesh=mesh, batch_size=2, annotate=[hide])
  values = run({'table': TABLE})
  logp = TABLE[3] - np.log(np.exp(TABLE[3]).sum())
  hidden = [row['tokens'][2] for row in rows]
  nats = -sum(logp[token] for token in hidden)
  assert float(values['loss'].value) == pytest.approx(nats / 4, rel=1e-5)
  wanted = nats / math.log(2) / sum(BYTES[token] for token in hidden)
  assert float(values['bits_per_byte'].value) == pytest.approx(wanted, rel=1e-5)
  run({'table': TABLE})
  assert len(draws) == 4 and draws[:2] == draws[2:] and draws[0] != draws[1]


@pytest.mark.parametrize('axes', [dict(fsdp=8), dict(data=2, fsdp=2, tensor=2)], ids=str)
def test_devices_change_nothing(axes):
  model = transformer.make(vocab_size=VOCAB, dim=16, num_layers=2, num_heads=2)
  params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  rows = rows_of(11)
  alone = evaluate(rows, model=model, params=params, batch_size=8)
  spread = evaluate(rows, model=model, params=params, batch_size=8, mesh=make_mesh(**axes))
  assert spread == pytest.approx(alone, rel=1e-5)

"""Cross-entropy over classes: numbers by hand, weights, and a model that learns eight texts."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.data.labelled import Labelled, Rows
from llm_jax.losses import classify
from llm_jax.models.transformer import make
from llm_jax.types import BadInput

LOGITS = np.array([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0], [9.0, 9.0, 9.0]])
BATCH = {
  'tokens': jnp.array([[0, 1, 2, 3]]),
  'mask': jnp.array([[1.0, 1.0, 1.0, 0.0]]),
  'target': jnp.array([[0, 2, 0, 1]]),
}


class Given:
  """Logits of each id."""

  shape = SimpleNamespace(classes=('a', 'b', 'c'))

  def apply(self, params, tokens, *place):
    return params[tokens], None


def loss(**options):
  params = jnp.asarray(LOGITS, jnp.float32)
  return classify.loss_fn(params, BATCH, None, model=Given(), **options)


def test_the_loss_and_the_accuracy_are_those_worked_out_by_hand():
  mean, metrics = loss()
  p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
  assert mean.value == pytest.approx(-np.log([p[0, 0], 1 / 3, p[2, 0]]).mean(), rel=1e-6)
  assert metrics['accuracy'].value == pytest.approx(1 / 3) and metrics['accuracy'].count == 3


def test_smoothing_spreads_a_share_of_the_target():
  logp = np.log(np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True))[:3]
  wanted = [0.7 * logp[i, gold] + 0.1 * logp[i].sum() for i, gold in enumerate((0, 2, 0))]
  assert loss(label_smoothing=0.3)[0].value == pytest.approx(-np.mean(wanted), rel=1e-6)


def test_weights_are_those_of_the_right_classes_and_the_mean_is_over_them():
  logp = np.log(np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True))
  wanted = -(3 * logp[0, 0] + 1 * logp[1, 2] + 3 * logp[2, 0]) / 7
  mean, metrics = loss(weights=(3.0, 2.0, 1.0))
  assert mean.value == pytest.approx(wanted, rel=1e-6) and mean.count == 7
  assert metrics['accuracy'].count == 3  # of texts, whatever they weigh


def test_there_is_a_weight_for_each_class():
  with pytest.raises(BadInput, match=r"2 weights for the 3 classes \('a', 'b', 'c'\)"):
    loss(weights=(1.0, 2.0))


TEXTS = [[1, *np.random.default_rng(i).integers(3, 30, 3 + i % 4), 2] for i in range(8)]
LABELS = [0, 1, 2, 0, 2, 1, 1, 0]


def rows_of(texts, labels, **how):
  rows = Rows.of([Labelled(*both) for both in zip(texts, labels, strict=True)], 16, **how)
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


@pytest.mark.parametrize('causal', [True, False], ids=['causal', 'masked'])
def test_a_small_model_learns_eight_texts_and_packing_does_not_matter(causal):
  model = make(
    vocab_size=32, dim=16, num_layers=1, num_heads=2, max_length=16, head='classes',
    classes=('a', 'b', 'c'), causal=causal,
  )  # fmt: skip
  packed, alone = (rows_of(TEXTS, LABELS, pack=pack) for pack in (True, False))
  assert len(packed['tokens']) < len(alone['tokens']) == 8
  total = functools.partial(classify.loss_fn, rng=None, model=model)
  tx = optax.adam(0.02)

  @jax.jit
  def step(params, state):
    grad = jax.grad(lambda p: total(p, packed)[0].value)(params)
    updates, state = tx.update(grad, state)
    return optax.apply_updates(params, updates), state

  params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  state = tx.init(params)
  for _ in range(60):
    params, state = step(params, state)
  measured = jax.jit(total)
  (mean, metrics), (other, others) = (measured(params, batch) for batch in (packed, alone))
  assert metrics['accuracy'].value == others['accuracy'].value == 1 and mean.value < 0.1
  assert mean.count == other.count == 8
  np.testing.assert_allclose(mean.total, other.total, rtol=1e-4, atol=1e-4)


def test_other_losses_refuse_a_classifier():
  from llm_jax.losses import cross_entropy

  model = make(vocab_size=8, dim=8, num_layers=1, num_heads=2, head='classes', classes=('a', 'b'))
  with pytest.raises(BadInput, match='the model is a classifier, which gives no log-prob'):
    cross_entropy.loss_fn({}, BATCH, None, model=model)

"""How often a classifier is right on held-out texts: accuracy, F1 and Matthews' correlation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.evals import counts
from llm_jax.evals.held_out import batches
from llm_jax.losses import classify
from llm_jax.options import Count
from llm_jax.types import BadInput, Batch, Counts, Mean, Metrics, Model, Params, Tokenizer

READS = ('tokens', 'mask', 'target')
METRICS = ('loss', 'accuracy', 'mcc', 'f1', 'texts')


def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  rows: Sequence[Mapping[str, np.ndarray]],
  mesh: Any,
  batch_size: Count = 16,
  max_rows: Count | None = None,
) -> Callable[[Params], Metrics]:
  """`evaluate(params) -> {'loss', 'accuracy', 'mcc', 'f1', 'texts'}`, over all rows or `max_rows`.

  `loss` is -log p(class) in nats, `mcc` Matthews' correlation, `f1` that of the second of two
  classes or the mean of those of more, and `texts` how many there were.

  Args:
    model: with a head of classes.
    tokenizer: unused.
    rows: held-out rows of `data/labelled.py`.
    mesh: where batches go.
    batch_size: rows at a time.
    max_rows: most rows read, evenly spread.
  """
  del tokenizer
  classes = len(model.shape.classes)

  @jax.jit
  def sums(params: Params, batch: Batch) -> tuple[Mean, Any]:
    logp_BLC = jax.nn.log_softmax(classify.logits(model, params, batch))
    target_BL, mask_BL = batch['target'], batch['mask']
    gold_BL = jnp.take_along_axis(logp_BLC, target_BL[..., None], axis=-1)[..., 0]
    said = logp_BLC.argmax(-1)
    flat = (x.reshape(-1) for x in (said, target_BL, mask_BL))
    return Mean.of(-gold_BL, mask_BL), counts.table(*flat, classes=classes)['table']

  def evaluate(params: Params) -> Metrics:
    parts = [sums(params, batch) for batch in batches(rows, mesh, batch_size, max_rows)]
    loss = functools.reduce(lambda a, b: a + b, (loss for loss, _ in parts))
    table = {'table': sum(np.asarray(table, np.float64) for _, table in parts)}
    f1 = _second if classes == 2 else counts.macro_f1
    found = {'accuracy': counts.accuracy, 'mcc': counts.matthews_of_classes, 'f1': f1}
    metrics = {name: Counts(table, compute) for name, compute in found.items()}
    return {'loss': loss, **metrics, 'texts': Counts(table, _total)}

  return evaluate


def check(model: Model, **others: Any) -> None:
  """Whether the model is a classifier."""
  del others
  if model.shape.head != 'classes':
    raise BadInput('classes: this model has no classes; train one with configs/classify.py')


def _total(sums: counts.Sums) -> float:
  return float(sums['table'].sum())


def _second(sums: counts.Sums) -> float:
  """F1 of the second class."""
  table_CC = sums['table']
  return counts.f1(
    {
      'true_positive': table_CC[1, 1],
      'false_positive': table_CC[0, 1],
      'false_negative': table_CC[1].sum() - table_CC[1, 1],
    }
  )

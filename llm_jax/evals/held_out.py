"""The loss and the metrics of a stage on held-out rows, whatever the loss is."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from llm_jax.options import Count
from llm_jax.parallel.mesh import shard_batch
from llm_jax.training.batches import annotated
from llm_jax.training.step import measured
from llm_jax.types import Annotate, Batch, LossFn, Metrics, Model, Params, Tokenizer

METRICS = ('loss',)  # and what the loss measures


def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  loss_fn: LossFn,
  rows: Sequence[Mapping[str, np.ndarray]],
  mesh: Any,
  batch_size: Count = 16,
  max_rows: Count | None = None,
  annotate: Sequence[Annotate] = (),
) -> Callable[[Params], Metrics]:
  """`evaluate(params) -> {'loss', ...}`: what the loss reports, over all rows or `max_rows`.

  Args:
    model: unused; the loss knows it.
    tokenizer: unused.
    loss_fn: of the run, bound.
    rows: held-out rows.
    mesh: where batches go.
    batch_size: rows at a time; the last batch is filled with empty rows, which losses leave out.
    max_rows: most rows read, evenly spread.
    annotate: what the training batches go through too; here with fixed seeds.
  """
  del model, tokenizer

  @jax.jit
  def sums(params: Params, batch: Batch) -> Metrics:
    loss, metrics = loss_fn(params, batch, jax.random.key(0))
    return {'loss': loss, **metrics, **measured(batch)}

  def evaluate(params: Params) -> Metrics:
    parts = [
      sums(params, annotated(annotate, params, batch, 0, i))
      for i, batch in enumerate(batches(rows, mesh, batch_size, max_rows))
    ]
    return functools.reduce(lambda a, b: {k: a[k] + b[k] for k in a}, parts)

  return evaluate


def batches(
  rows: Sequence[Mapping[str, np.ndarray]], mesh: Any, batch_size: int, max_rows: int | None
) -> Iterator[Batch]:
  """Rows evenly spread, in batches of one shape on the mesh; empty rows fill the last one."""
  count = min(len(rows), max_rows or len(rows))
  index = np.linspace(0, len(rows) - 1, count).round().astype(int)
  hosts, host = jax.process_count(), jax.process_index()
  for start in range(0, count, batch_size):
    picked = [rows[int(i)] for i in index[start : start + batch_size]]
    empty = {k: np.zeros_like(v) for k, v in picked[0].items()}
    picked += [empty] * (batch_size - len(picked))
    mine = picked[host * batch_size // hosts : (host + 1) * batch_size // hosts]
    yield shard_batch({k: np.stack([row[k] for row in mine]) for k in mine[0]}, mesh)

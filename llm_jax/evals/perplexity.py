"""Loss on held-out rows, per token and, comparable across tokenizers, in bits per byte of text."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.evals import held_out
from llm_jax.losses.logprobs import score
from llm_jax.options import Count
from llm_jax.training.batches import annotated
from llm_jax.types import Annotate, Array, Batch, Mean, Metrics, Model, Params, Tokenizer

READS = ('tokens', 'mask')
METRICS = ('loss', 'bits_per_byte')


def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  rows: Sequence[Mapping[str, np.ndarray]],
  mesh: Any,
  batch_size: Count = 16,
  max_rows: Count | None = None,
  annotate: Sequence[Annotate] = (),
) -> Callable[[Params], Metrics]:
  """`evaluate(params) -> {'loss', 'bits_per_byte'}` over all rows (or `max_rows`, evenly spread).

  Args:
    model: a Transformer.
    tokenizer: gives the bytes that each id stands for.
    rows: held-out rows with `tokens`, `mask`, `position`, `segment`.
    mesh: where batches go.
    batch_size: rows at a time; the last batch is filled with rows that count nothing.
    max_rows: most rows read.
    annotate: what the training batches go through too, such as masking; here with fixed seeds.
  """
  bytes_V = np.zeros(model.shape.vocab_size, np.float32)
  bytes_V[: len(tokenizer.token_bytes)] = tokenizer.token_bytes
  prefix_V = np.zeros(model.shape.vocab_size, bool)
  prefix_V[sorted(tokenizer.prefix_after)] = True

  @jax.jit
  def sums(params: Params, batch: Batch, bytes_V: Array) -> tuple[Array, Array, Array]:
    mask = batch['mask']
    nats = -(score(model, params, batch) * mask).sum()
    bytes_BL = bytes_V[batch.get('target', batch['tokens'])]
    if (
      tokenizer.prefix_after
    ):  # the blank that the tokenizer put before a text is none of its bytes
      prefixed_BL = jnp.roll(jnp.asarray(prefix_V)[batch['tokens']], 1, -1) & (bytes_BL > 0)
      bytes_BL -= prefixed_BL
    return nats, mask.sum(), (bytes_BL * mask).sum()

  def evaluate(params: Params) -> Metrics:
    nats, tokens, size = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
    for i, batch in enumerate(held_out.batches(rows, mesh, batch_size, max_rows)):
      batch = annotated(annotate, params, batch, 0, i)
      part = sums(params, batch, bytes_V)
      nats, tokens, size = nats + part[0], tokens + part[1], size + part[2]
    return {'loss': Mean(nats, tokens), 'bits_per_byte': Mean(nats / math.log(2), size)}

  return evaluate

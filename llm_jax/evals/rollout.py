"""Answers sampled to prompts: the reward they get, and their divergence from a reference."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from llm_jax.evals import held_out
from llm_jax.options import Count
from llm_jax.training.batches import annotated
from llm_jax.training.step import measured
from llm_jax.types import Annotate, Batch, Evaluate, Mean, Metrics, Model, Params, Tokenizer

READS = ('mask',)
METRICS = ('reward', 'kl')  # and what the annotators log


def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  rows: Sequence[Mapping[str, np.ndarray]],
  mesh: Any,
  annotate: Sequence[Annotate],
  batch_size: Count = 16,
  max_rows: Count | None = None,
) -> Evaluate:
  """`evaluate(params) -> {'reward', 'kl', ...}`: means over answers to all prompts or `max_rows`.

  `reward` is that of the answers whose score is known. `kl` is the divergence from the reference,
  in nats an answer, estimated by the sum of `old_logp - ref_logp` over the tokens of an answer
  (arXiv:2009.01325, section 2). Each is there if the annotators write its fields. What else they
  log (`log/<name>`) is measured too.

  Args:
    model: unused; the annotators know it.
    tokenizer: unused.
    rows: prompts.
    mesh: where batches go.
    annotate: what samples, judges and compares, in order; with fixed seeds.
    batch_size: prompts at a time; the last batch is filled with empty rows, which do not count.
    max_rows: most prompts, evenly spread.
  """
  del model, tokenizer

  @jax.jit
  def sums(batch: Batch) -> Metrics:
    found = measured(batch)
    if 'reward' in batch:
      found['reward'] = Mean.of(batch['reward'], batch['valid'])
    if {'old_logp', 'ref_logp'} <= batch.keys():
      mask_BGL = batch['mask']
      apart_BG = ((batch['old_logp'] - batch['ref_logp']) * mask_BGL).sum(-1)
      found['kl'] = Mean.of(apart_BG, mask_BGL.any(-1))
    return found

  def evaluate(params: Params) -> Metrics:
    parts = [
      sums(annotated(annotate, params, batch, 0, i))
      for i, batch in enumerate(held_out.batches(rows, mesh, batch_size, max_rows))
    ]
    return functools.reduce(lambda a, b: {k: a[k] + b[k] for k in a}, parts)

  return evaluate

"""Pretraining rows beside those of reinforcement learning: PTX, arXiv:2203.02155, section 3.5."""

from typing import Any

import jax
import numpy as np

from llm_jax.data import packed
from llm_jax.options import Count, Place, checked
from llm_jax.parallel.mesh import shard_batch
from llm_jax.types import Annotate, Array, BadInput, Batch, Model, Params, Tokenizer

READS = ('tokens',)
WRITES = ('ptx_tokens', 'ptx_mask', 'ptx_position', 'ptx_segment')


@checked(where='annotate.pretraining_rows')
def make(
  model: Model, tokenizer: Tokenizer, *, mesh: Any, path: Place, rows: Count = 1
) -> Annotate:
  """Writes `ptx_tokens`, `ptx_mask`, `ptx_position`, `ptx_segment` [B, rows * L].

  Which rows depends on the step alone. Several rows beside a prompt are joined, as further
  documents of one.

  Args:
    model: of the policy; its longest sequence bounds a row.
    tokenizer: of the policy.
    mesh: where rows live.
    path: folder of a tokenized corpus (jobs/tokenize).
    rows: for each prompt.

  Raises:
    BadInput: no such corpus, or rows longer than the model can read.
  """
  source = packed.make(tokenizer, path=path, split='train')
  length = len(source[0]['tokens'])
  if length > model.shape.max_length:
    raise BadInput(
      f'annotate.pretraining_rows: rows of {length} tokens are longer than config.model.max_length '
      f'{model.shape.max_length}'
    )

  def annotate(params: Params, batch: Batch, rng: Array) -> Batch:
    del params
    count = len(batch['tokens'])
    draw = np.random.default_rng(np.asarray(jax.random.key_data(rng)).tolist())
    index = draw.integers(0, len(source), (count, rows))
    hosts, host = jax.process_count(), jax.process_index()
    mine = index[host * count // hosts : (host + 1) * count // hosts]
    found = {
      f'ptx_{k}': np.stack([_joined([source[int(i)] for i in several], k) for several in mine])
      for k in ('tokens', 'mask', 'position', 'segment')
    }
    return {**batch, **shard_batch(found, mesh)}

  return annotate


def _joined(rows: list[Any], field: str) -> np.ndarray:
  if field != 'segment':
    return np.concatenate([row[field] for row in rows])
  # Documents keep apart: their numbers go on from row to row, and padding stays 0.
  out, last = [], 0
  for row in rows:
    segment_L = row['segment']
    out.append(np.where(segment_L > 0, segment_L + last, 0).astype(segment_L.dtype))
    last += int(segment_L.max())
  return np.concatenate(out)

"""A teacher's most likely tokens at every position, for distillation (arXiv:1503.02531)."""

from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from llm_jax import artifact
from llm_jax.options import Place, at_least, checked
from llm_jax.types import JUDGES, Annotate, Array, BadInput, Batch, Model, Params, Tokenizer

READS = ('tokens',)
WRITES = ('teacher_logits', 'teacher_ids')
ARTIFACTS = ('path',)


@checked(where='annotate.teacher')
def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  mesh: Any,
  path: Place,
  top_k: Annotated[int, at_least(0)] = 64,
  trust: Sequence[str] = (),
) -> Annotate:
  """Writes `teacher_logits` float32 and `teacher_ids` int32 [..., L, K], entry t about token t.

  Logits are less their logsumexp over the whole vocabulary, so that exp gives probabilities and
  what the top k leave out is known. They come a row at a time: with K small, nothing of the size
  of the vocabulary is kept.

  Args:
    model: of the student.
    tokenizer: of the student; the caller sees to it that the teacher has the same.
    mesh: where the teacher's parameters go.
    path: folder of the teacher's artifact.
    trust: modules of the user's that the artifact may name as its model.
    top_k: K; 0 takes the whole vocabulary, which needs memory for [B, L, V].

  Raises:
    BadInput: a teacher that gives no distribution, or top_k above its vocabulary.
  """
  del tokenizer
  made = artifact.load(path, mesh, model.compute, trust=trust)
  shape = made.model.shape
  if shape.head in JUDGES or not shape.causal:
    raise BadInput(f'annotate.teacher: {path!r} is no causal language model')
  if top_k > shape.vocab_size:
    raise BadInput(f'annotate.teacher: top_k {top_k} is outside 0..{shape.vocab_size}')
  if shape.vocab_size > model.shape.vocab_size:
    raise BadInput(
      f'annotate.teacher: {path!r} has a vocabulary of {shape.vocab_size}, the student only '
      f'{model.shape.vocab_size}; set config.model.vocab_size={shape.vocab_size}'
    )
  count = top_k or shape.vocab_size

  @jax.jit
  def top(params: Params, batch: Batch) -> tuple[Array, Array]:
    lead, length = batch['tokens'].shape[:-1], batch['tokens'].shape[-1]
    flat = {
      k: batch[k].reshape(-1, length) for k in ('tokens', 'position', 'segment') if k in batch
    }
    hidden_BLD, _ = made.model.apply(
      params, flat['tokens'], flat.get('position'), flat.get('segment'), method='hidden'
    )

    def row(hidden_LD: Array) -> tuple[Array, Array]:
      logits_LV = made.model.apply(params, hidden_LD, method='unembed')
      return jax.lax.top_k(jax.nn.log_softmax(logits_LV), count)

    logits, ids = jax.lax.map(row, hidden_BLD)
    # Position t - 1 predicts token t, as in losses/logprobs.py.
    shift = lambda x: jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0))).reshape(*lead, length, count)
    return shift(logits), shift(ids.astype(jnp.int32))

  def annotate(params: Params, batch: Batch, rng: Array) -> Batch:
    del params, rng
    logits, ids = top(made.params, batch)
    return {**batch, 'teacher_logits': logits, 'teacher_ids': ids}

  return annotate

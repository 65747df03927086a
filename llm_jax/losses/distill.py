"""Distillation: a divergence from a teacher's predictions, arXiv:1503.02531 and 2306.13649."""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.losses.answers import field, token_metrics
from llm_jax.losses.logprobs import read_blocks, read_scores
from llm_jax.options import Positive, Share, checked
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Model, Params

READS = ('tokens', 'mask', 'teacher_logits')
PRESETS: dict[str, dict[str, Any]] = {
  'trl': dict(divergence='jsd', beta=0.5, t_squared=False),
  'tunix': dict(divergence='forward', t_squared=True),
}
SMALLEST = 2.0**-24  # what is left of 1 in float32 when next to nothing is


def _check(*, divergence: str, beta: float | None, **others: Any) -> None:
  if beta is not None and divergence != 'jsd':
    raise BadInput(f'loss: divergence {divergence!r} does not use beta; remove it, or choose jsd')


@checked(_check)
def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Model,
  divergence: Literal['forward', 'reverse', 'jsd'] = 'forward',
  beta: Share | None = None,
  temperature: Positive = 1.0,
  t_squared: bool = False,
) -> tuple[Mean, Metrics]:
  """The divergence between teacher and student, in nats, averaged over the tokens of `mask`.

  The teacher may have kept only its K likeliest words. All others are then one outcome, `rest`, for
  both: what is compared are distributions over K + 1 outcomes, so every divergence is finite, 0
  only if they agree, and exact if K is the whole vocabulary.

  Args:
    params: of the student.
    batch: `tokens`, `mask` [..., L], optionally `position`, `segment`; `teacher_logits` and
      `teacher_ids` [..., L, K], of which entry t is about token t (the prediction made one before,
      as in `logprobs.Scores`). With K < V the logits are log-probabilities, so that they say how
      much is left for the rest; with K = V any logits will do, and without ids they are in order.
    rng: unused.
    model: a Transformer, the student.
    divergence: 'forward' KL(teacher | student), 'reverse' KL(student | teacher), or 'jsd', the
      generalised Jensen-Shannon divergence.
    beta: weight of the teacher in the mixture of 'jsd'; default 0.5. At 0 and 1, where it would
      vanish, it stands for the forward and the reverse KL, as in TRL; near 0 and 1 it is near 0.
    temperature: both distributions are flattened by it (after the rest became one outcome).
    t_squared: multiply by temperature^2, so that gradients keep their size (Hinton); TRL does not.

  Raises:
    BadInput: an option is wrong, or the batch lacks the teacher's fields.
  """
  del rng
  beta = {'forward': 0.0, 'reverse': 1.0}.get(divergence, 0.5 if beta is None else beta)
  aligned = [field(batch, 'teacher_logits')]
  if 'teacher_ids' in batch:
    aligned.append(batch['teacher_ids'])
  elif aligned[0].shape[-1] != model.shape.vocab_size:
    raise BadInput('loss: the batch has no teacher_ids; only a whole vocabulary does without')
  read = functools.partial(_read, beta=beta, temperature=temperature)
  out = read_blocks(model, params, batch, read, *aligned)
  apart, logp, entropy, kept = out
  mask = batch['mask'].astype(jnp.float32)
  scale = temperature**2 if t_squared else 1.0
  return Mean.of(scale * apart, mask), {
    'cross_entropy': Mean.of(-logp, mask),
    'teacher_kept': Mean.of(kept, mask),
    **token_metrics(logp, entropy, mask),
  }


def _read(
  logits_V: Array,
  target: Array,
  teacher_K: Array,
  ids_K: Array | None = None,
  *,
  beta: float,
  temperature: float,
) -> tuple[Array, ...]:
  """The divergence of one block; the student's scores; the probability the teacher kept."""
  out = read_scores(logits_V, target)
  teacher_K = teacher_K.astype(jnp.float32)
  student_K = logits_V if ids_K is None else jnp.take_along_axis(logits_V, ids_K, axis=-1)
  if ids_K is None or ids_K.shape[-1] == logits_V.shape[-1]:
    teacher_K, kept = jax.nn.log_softmax(teacher_K), jnp.ones_like(out.logp)
  else:
    kept = jnp.exp(teacher_K).sum(-1)
    teacher_K = _append(teacher_K, jnp.log(jnp.maximum(1 - kept, SMALLEST)))
    # From the others themselves, so that a student that is sure still has a gradient here.
    others_V = jnp.put_along_axis(logits_V, ids_K, -jnp.inf, axis=-1, inplace=False)
    student_K = _append(student_K, jax.nn.logsumexp(others_V, axis=-1))
  student_K = student_K - out.logsumexp[..., None]
  if temperature != 1:
    teacher_K, student_K = (jax.nn.log_softmax(x / temperature) for x in (teacher_K, student_K))
  return jsd(teacher_K, student_K, beta), out.logp, out.entropy, kept


def _append(x_K: Array, last: Array) -> Array:
  return jnp.concatenate([x_K, last[..., None]], axis=-1)


def jsd(teacher_K: Array, student_K: Array, beta: float) -> Array:
  """Generalised Jensen-Shannon divergence of log-probabilities (arXiv:2306.13649, eq. 1).

  beta KL(teacher | m) + (1 - beta) KL(student | m), with m = beta teacher + (1 - beta) student; at
  0 it is KL(teacher | student) instead, at 1 KL(student | teacher).

  >>> teacher_K, student_K = jnp.log(jnp.array([0.9, 0.1])), jnp.log(jnp.array([0.5, 0.5]))
  >>> [round(float(jsd(teacher_K, student_K, beta)), 3) for beta in (0, 0.5, 1)]
  [0.368, 0.102, 0.511]
  """
  if beta == 0:
    return kl(teacher_K, student_K)
  if beta == 1:
    return kl(student_K, teacher_K)
  mixture_K = jnp.logaddexp(teacher_K + math.log(beta), student_K + math.log1p(-beta))
  return beta * kl(teacher_K, mixture_K) + (1 - beta) * kl(student_K, mixture_K)


def kl(logp_K: Array, logq_K: Array) -> Array:
  """KL(p | q) of log-probabilities [..., K], in nats; what p never does costs nothing.

  >>> logp_K, logq_K = jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.5, 0.5]))
  >>> round(float(kl(logp_K, logq_K)), 4), float(kl(logq_K, logp_K))
  (0.6931, inf)
  """
  possible_K = logp_K > -jnp.inf
  return (jnp.exp(logp_K) * (jnp.where(possible_K, logp_K - logq_K, 0))).sum(-1)

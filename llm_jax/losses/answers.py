"""What losses over answers share: which options a kind uses, sums over answers, what is logged."""

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.options import within
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics

Average = Literal['sequence', 'token']
MAX_EXPONENT = 80.0  # exp of it is still a float32
Smoothing = Annotated[float, within(0, 0.5)]  # a share of labels that are wrong


def field(batch: Batch, name: str) -> Array:
  """A field of a batch, as numbers and not as a function of anything.

  Raises:
    BadInput: it is not there.
  """
  if name not in batch:
    raise BadInput(f'loss: the batch has no {name}')
  return jax.lax.stop_gradient(batch[name])


def pairs(batch: Batch) -> tuple[Array, Array]:
  """Which pairs of a batch count [B], and the targets [B, 2, L] of those as float32.

  A pair counts if both of its answers have a target: an answer of which truncation left nothing
  teaches nothing.

  Raises:
    BadInput: `tokens` is not [B, 2, L].
  """
  shape = batch['tokens'].shape
  if len(shape) != 3 or shape[1] != 2:
    raise BadInput(f'loss: tokens of shape {shape}; pairs are [B, 2, L], the chosen answer first')
  pair_B = (batch['mask'] > 0).any(-1).all(-1)
  return pair_B, jnp.where(pair_B[:, None, None], batch['mask'], 0).astype(jnp.float32)


def per_token(sum_X: Array, length_X: Array) -> Array:
  """Sums over answers divided by lengths; 0 where there is no token.

  >>> per_token(jnp.array([6.0, 0.0]), jnp.array([3, 0])).tolist()
  [2.0, 0.0]
  """
  return sum_X / jnp.maximum(length_X, 1)


def nll(logp_BL: Array, target_BL: Array, average: Average) -> Array:
  """-log p of answers, in nats a token [B]; its mean over the rows with a target is the loss term.

  >>> logp_BL, target_BL = -jnp.array([[2.0, 4.0], [9.0, 0.0]]), jnp.array([[1, 1], [1, 0]])
  >>> nll(logp_BL, target_BL, 'sequence').tolist()  # their mean is 6
  [3.0, 9.0]
  >>> nll(logp_BL, target_BL, 'token').mean().round(4).tolist()  # 15 nats, 3 tokens
  5.0

  Args:
    logp_BL: log-probabilities.
    target_BL: 1 where they count, in rows that count.
    average: 'sequence': each row's mean, so all rows weigh the same. 'token': one mean over the
      tokens of the (micro)batch, shared out so that the mean over its rows is that mean; what
      Hugging Face trainers do, and not the same under another number of microbatches.
  """
  nll_B, length_B = -(logp_BL * target_BL).sum(-1), target_BL.sum(-1)
  if average == 'sequence':
    return per_token(nll_B, length_B)
  return nll_B * per_token((length_B > 0).sum(), length_B.sum())


def check_nll(*, nll_weight: float, nll_average: str | None, **others: Any) -> None:
  """Raises BadInput for an average of an added `nll` that is not there."""
  if nll_average is not None and not nll_weight:
    raise BadInput('loss: nll_average is not used without nll_weight')


def smooth(margin: Array, label_smoothing: float) -> Array:
  """-log sigmoid(margin), and of -margin for the share of labels that is assumed wrong.

  >>> round(float(smooth(jnp.array(3.0), 0.0)), 3), round(float(smooth(jnp.array(3.0), 0.1)), 3)
  (0.049, 0.349)
  """
  loss = -jax.nn.log_sigmoid(margin)
  if not label_smoothing:
    return loss
  return (1 - label_smoothing) * loss - label_smoothing * jax.nn.log_sigmoid(-margin)


def pair_metrics(
  logp_BGL: Array,
  entropy_BGL: Array,
  reward_BG: Array,
  pair_B: Array,
  target_BGL: Array,
  ref_BGL: Array | None = None,
) -> Metrics:
  """What every loss over pairs logs.

  Means over pairs of `chosen_logp`, `rejected_logp` (sums over the answer), `chosen_reward`,
  `rejected_reward`, their `margin` and how often it is positive; the mean over tokens of `entropy`
  and, with a reference, `kl` (logp - ref_logp of the given answers: an estimate of the divergence
  only as far as the policy would have written them); `response_length` in tokens; and
  `trained_tokens` in total.
  """
  logp_BG = (logp_BGL * target_BGL).sum(-1)
  gap_B = reward_BG[:, 0] - reward_BG[:, 1]
  metrics = {
    'chosen_logp': Mean.of(logp_BG[:, 0], pair_B),
    'rejected_logp': Mean.of(logp_BG[:, 1], pair_B),
    'chosen_reward': Mean.of(reward_BG[:, 0], pair_B),
    'rejected_reward': Mean.of(reward_BG[:, 1], pair_B),
    'margin': Mean.of(gap_B, pair_B),
    'accuracy': Mean.of(gap_B > 0, pair_B),
  }
  return metrics | token_metrics(logp_BGL, entropy_BGL, target_BGL, ref_BGL)


def token_metrics(
  logp_X: Array, entropy_X: Array, target_X: Array, ref_X: Array | None = None
) -> Metrics:
  """`entropy`, `response_length`, `trained_tokens` and, with a reference, `kl`; [..., L] each."""
  length = target_X.sum(-1)
  metrics = {
    'entropy': Mean.of(entropy_X, target_X),
    'response_length': Mean.of(length, length > 0),
    'trained_tokens': Mean(target_X.sum(), jnp.zeros(())),
  }
  if ref_X is not None:
    metrics['kl'] = Mean.of(logp_X - ref_X, target_X)
  return metrics

"""What losses over answers share: which options a kind uses, sums over answers, what is logged."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.options import suggest
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics


def settle(kinds: Mapping[str, Callable], kind: str, **options: Any) -> dict[str, Any]:
  """The keyword arguments of `kinds[kind]`: those given, and its own defaults for the others.

  Args:
    kinds: functions by name; what a kind uses is what its function names.
    kind: one of them.
    **options: None means not given.

  Raises:
    BadInput: unknown kind, or an option that it does not use.
  """
  if kind not in kinds:
    raise BadInput(f'loss: kind {kind!r}; {suggest(str(kind), [*kinds])}')
  parameters = inspect.signature(kinds[kind]).parameters.values()
  uses = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
  given = {name: value for name, value in options.items() if value is not None}
  for name in given:
    if name not in uses:
      listed = ', '.join(uses) or 'no options'
      raise BadInput(f'loss: kind {kind!r} does not use {name}; remove it (it uses: {listed})')
  return uses | given


def between(
  name: str, value: float | None, low: float, high: float, *, open_ends: bool = False
) -> None:
  """Raises BadInput unless `value` is None or in [low, high], or in (low, high)."""
  if value is None:
    return
  if not (low < value < high if open_ends else low <= value <= high):
    wanted = f'strictly between {low} and {high}' if open_ends else f'from {low} to {high}'
    raise BadInput(f'loss: {name} {value}; choose a number {wanted}')


def one_of(name: str, value: str | None, names: tuple[str, ...]) -> None:
  """Raises BadInput unless `value` is None or one of `names`."""
  if value is not None and value not in names:
    raise BadInput(f'loss: {name} {value!r}; {suggest(str(value), [*names])}')


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


def reference(batch: Batch) -> Array:
  """`ref_logp` [B, G, L] of a batch, as numbers and not as a function of anything.

  Raises:
    BadInput: it is not there.
  """
  if 'ref_logp' not in batch:
    raise BadInput("loss: the batch has no ref_logp; put 'reference' into config.annotate.steps")
  return jax.lax.stop_gradient(batch['ref_logp'])


def per_token(sum_X: Array, length_X: Array) -> Array:
  """Sums over answers divided by lengths; 0 where there is no token."""
  return sum_X / jnp.maximum(length_X, 1)


def nll(logp_BL: Array, target_BL: Array, average: str) -> Array:
  """-log p of answers, in nats a token [B]; its mean over the rows with a target is the loss term.

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


def check_nll(weight: float, average: str | None) -> None:
  """Raises BadInput for a weight and an average of an added `nll` that cannot be."""
  between('nll_weight', weight, 0, math.inf)
  one_of('nll_average', average, ('sequence', 'token'))
  if average is not None and not weight:
    raise BadInput('loss: nll_average is not used without nll_weight')


def smooth(margin: Array, label_smoothing: float) -> Array:
  """-log sigmoid(margin), and of -margin for the share of labels that is assumed wrong."""
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

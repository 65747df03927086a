"""Preferences without a reference: SimPO (2405.14734, eq. 6), CPO (2401.08417), AlphaPO."""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.losses import answers
from llm_jax.losses.answers import MAX_EXPONENT, Average, Smoothing, per_token
from llm_jax.losses.logprobs import scores
from llm_jax.options import NotNegative, Positive, kinds
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Model, Params

# A preset is a library and the kind for which its convention is known.
PRESETS: dict[str, dict[str, Any]] = {
  'trl': dict(kind='simpo', beta=0.1, gamma=0.5, nll_weight=1.0, nll_average='token'),
  'trl_cpo': dict(kind='cpo', beta=0.1, nll_weight=1.0, nll_average='token'),
  'open_instruct': dict(kind='simpo', gamma_beta_ratio=0.3),
}
READS = ('tokens', 'mask')


def simpo(
  gap_B: Array,
  *,
  beta: Positive = 2.0,
  gamma: NotNegative | None = None,
  gamma_beta_ratio: NotNegative | None = None,
  alpha: float = 0.0,
  label_smoothing: Smoothing = 0.0,
) -> Array:
  """-log sigmoid(beta gap - gamma) of log-probabilities per token; gamma is 1 unless given."""
  del alpha  # of `_reward`, before the gap
  if gamma_beta_ratio is not None:
    gamma = gamma_beta_ratio * beta
  return answers.smooth(beta * gap_B - (1.0 if gamma is None else gamma), label_smoothing)


def cpo(gap_B: Array, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.0) -> Array:
  """DPO with a uniform reference, on sums over tokens."""
  return answers.smooth(beta * gap_B, label_smoothing)


def cpo_hinge(gap_B: Array, *, beta: Positive = 0.1) -> Array:
  """The hinge of SLiC (arXiv:2305.10425), on sums over tokens."""
  return jax.nn.relu(1 - beta * gap_B)


def cpo_ipo(gap_B: Array, *, beta: Positive = 0.1) -> Array:
  """IPO (arXiv:2310.12036, eq. 17) with a uniform reference, on means over tokens."""
  return (gap_B - 1 / (2 * beta)) ** 2


KINDS = {kind.__name__: kind for kind in (simpo, cpo, cpo_hinge, cpo_ipo)}


def _check(*, gamma: float | None = None, gamma_beta_ratio: float | None = None, **o: Any) -> None:
  answers.check_nll(**o)
  if gamma is not None and gamma_beta_ratio is not None:
    raise BadInput('loss: gamma and gamma_beta_ratio say the same (gamma = ratio * beta); keep one')


@kinds(KINDS, _check)
def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Model,
  kind: Any = 'simpo',
  nll_weight: NotNegative = 0.0,
  nll_average: Average | None = None,
) -> tuple[Mean, Metrics]:
  """A loss of preference pairs by their log-probabilities alone, averaged over pairs.

  Args:
    params: of the model.
    batch: `tokens`, `mask`, `segment`, `position` [B, 2, L], the chosen answer first; a pair of
      which an answer has no target does not count.
    rng: unused.
    model: a Transformer.
    kind: how the loss is made of the gap between two answers; each function says what it is.
    beta: scale of the rewards.
    gamma: by how much the chosen reward should win, after beta; 1 by default.
    gamma_beta_ratio: the same before beta, as TRL and open-instruct hold it: gamma / beta.
    alpha: rewards are (1 - p^-alpha) / alpha of the probability per token (AlphaPO,
      arXiv:2501.03884) instead of its logarithm, the limit at 0.
    label_smoothing: the assumed share of wrong labels.
    nll_weight: weight of an added -log p per token of the chosen answer (CPO).
    nll_average: 'sequence' (default): each answer's mean, so all pairs weigh the same. 'token': one
      mean over the tokens of the (micro)batch, as Hugging Face trainers do.

  Raises:
    BadInput: an option is wrong, or the batch is not pairs.
  """
  del rng
  pair_B, target_BGL = answers.pairs(batch)
  out = scores(model, params, batch)
  logp_BG = (out.logp * target_BGL).sum(-1)
  if kind.func in (simpo, cpo_ipo):
    logp_BG = per_token(logp_BG, target_BGL.sum(-1))  # the others compare sums
  reward_BG = _reward(logp_BG, kind.keywords.get('alpha', 0.0))
  loss_B = kind(reward_BG[:, 0] - reward_BG[:, 1])
  if nll_weight:
    nll_B = answers.nll(out.logp[:, 0], target_BGL[:, 0], nll_average or 'sequence')
    loss_B += nll_weight * nll_B
  return Mean.of(loss_B, pair_B), answers.pair_metrics(
    out.logp, out.entropy, kind.keywords['beta'] * reward_BG, pair_B, target_BGL
  )


def _reward(logp: Array, alpha: float) -> Array:
  if not alpha:
    return logp
  return -jnp.expm1(jnp.minimum(-alpha * logp, MAX_EXPONENT)) / alpha

"""Preferences without a reference: SimPO (2405.14734, eq. 6), CPO (2401.08417), AlphaPO."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.losses import answers
from llm_jax.losses.answers import between, per_token
from llm_jax.losses.logprobs import scores
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Params

# A preset is a library and the kind for which its convention is known.
PRESETS: dict[str, dict[str, Any]] = {
  'trl': dict(kind='simpo', beta=0.1, gamma=0.5, nll_weight=1.0, nll_average='token'),
  'trl_cpo': dict(kind='cpo', beta=0.1, nll_weight=1.0, nll_average='token'),
  'open_instruct': dict(kind='simpo', gamma_beta_ratio=0.3),
}
MAX_EXPONENT = 80.0  # exp of it is still a float32


def simpo(
  gap_B: Array,
  *,
  beta: float = 2.0,
  gamma: float | None = None,
  gamma_beta_ratio: float | None = None,
  alpha: float = 0.0,
  label_smoothing: float = 0.0,
) -> Array:
  """-log sigmoid(beta gap - gamma) of log-probabilities per token; gamma is 1 unless given."""
  del alpha  # of `_reward`, before the gap
  if gamma_beta_ratio is not None:
    gamma = gamma_beta_ratio * beta
  return answers.smooth(beta * gap_B - (1.0 if gamma is None else gamma), label_smoothing)


def cpo(gap_B: Array, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Array:
  """DPO with a uniform reference, on sums over tokens."""
  return answers.smooth(beta * gap_B, label_smoothing)


def cpo_hinge(gap_B: Array, *, beta: float = 0.1) -> Array:
  """The hinge of SLiC (arXiv:2305.10425), on sums over tokens."""
  return jax.nn.relu(1 - beta * gap_B)


def cpo_ipo(gap_B: Array, *, beta: float = 0.1) -> Array:
  """IPO (arXiv:2310.12036, eq. 17) with a uniform reference, on means over tokens."""
  return (gap_B - 1 / (2 * beta)) ** 2


KINDS: dict[str, Callable[..., Array]] = {
  kind.__name__: kind for kind in (simpo, cpo, cpo_hinge, cpo_ipo)
}
PER_TOKEN = ('simpo', 'cpo_ipo')  # the others compare sums


def check(
  *,
  kind: str = 'simpo',
  beta: float | None = None,
  gamma: float | None = None,
  gamma_beta_ratio: float | None = None,
  alpha: float | None = None,
  label_smoothing: float | None = None,
  nll_weight: float = 0.0,
  nll_average: str | None = None,
) -> dict[str, Any]:
  """The keyword arguments of the kind.

  Raises:
    BadInput: hyperparameters of `loss_fn` out of range, that do not go together, or unused.
  """
  options = answers.settle(
    KINDS,
    kind,
    beta=beta,
    gamma=gamma,
    gamma_beta_ratio=gamma_beta_ratio,
    alpha=alpha,
    label_smoothing=label_smoothing,
  )
  between('beta', beta, 0, math.inf, open_ends=True)
  between('label_smoothing', label_smoothing, 0, 0.5)
  answers.check_nll(nll_weight, nll_average)
  if gamma is not None and gamma_beta_ratio is not None:
    raise BadInput('loss: gamma and gamma_beta_ratio say the same (gamma = ratio * beta); keep one')
  return options


def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Any,
  kind: str = 'simpo',
  beta: float | None = None,
  gamma: float | None = None,
  gamma_beta_ratio: float | None = None,
  alpha: float | None = None,
  label_smoothing: float | None = None,
  nll_weight: float = 0.0,
  nll_average: str | None = None,
) -> tuple[Mean, Metrics]:
  """A loss of preference pairs by their log-probabilities alone, averaged over pairs.

  Options that are None take the default of the kind's function, and what a kind does not name is
  an error.

  Args:
    params: of the model.
    batch: `tokens`, `mask`, `segment`, `position` [B, 2, L], the chosen answer first; a pair of
      which an answer has no target does not count.
    rng: unused.
    model: a Transformer.
    kind: a name in `KINDS`; each function says what it is.
    beta: scale of the rewards.
    gamma: by how much the chosen reward should win, after beta (simpo); default 1.
    gamma_beta_ratio: the same before beta, as TRL and open-instruct hold it: gamma / beta.
    alpha: rewards are (1 - p^-alpha) / alpha of the probability per token (AlphaPO,
      arXiv:2501.03884) instead of its logarithm, the limit at 0 (simpo).
    label_smoothing: the assumed share of wrong labels (simpo, cpo).
    nll_weight: weight of an added -log p per token of the chosen answer (CPO).
    nll_average: see `answers.nll`; default 'sequence'.

  Raises:
    BadInput: see `check`; or the batch is not pairs.
  """
  del rng
  options = check(
    kind=kind,
    beta=beta,
    gamma=gamma,
    gamma_beta_ratio=gamma_beta_ratio,
    alpha=alpha,
    label_smoothing=label_smoothing,
    nll_weight=nll_weight,
    nll_average=nll_average,
  )
  pair_B, target_BGL = answers.pairs(batch)
  out = scores(model, params, batch)
  logp_BG = (out.logp * target_BGL).sum(-1)
  if kind in PER_TOKEN:
    logp_BG = per_token(logp_BG, target_BGL.sum(-1))
  reward_BG = _reward(logp_BG, options.get('alpha', 0.0))
  loss_B = KINDS[kind](reward_BG[:, 0] - reward_BG[:, 1], **options)
  if nll_weight:
    nll_B = answers.nll(out.logp[:, 0], target_BGL[:, 0], nll_average or 'sequence')
    loss_B += nll_weight * nll_B
  return Mean.of(loss_B, pair_B), answers.pair_metrics(
    out.logp, out.entropy, options['beta'] * reward_BG, pair_B, target_BGL
  )


def _reward(logp: Array, alpha: float) -> Array:
  if not alpha:
    return logp
  return -jnp.expm1(jnp.minimum(-alpha * logp, MAX_EXPONENT)) / alpha

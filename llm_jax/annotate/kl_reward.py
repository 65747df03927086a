"""The reward of RLHF: a penalty for leaving the reference at every token, and the score at the end.

arXiv:1909.08593, eq. 2, and the controller of the penalty in its section 2.2.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.annotate import stats
from llm_jax.losses import ratios
from llm_jax.options import NotNegative, Positive, checked
from llm_jax.types import Array, Batch, Model, Params, Tokenizer

READS = ('reward', 'tokens', 'mask', 'old_logp', 'ref_logp')
WRITES = lambda o: (
  *('token_reward', 'log/answer_kl', 'log/answer_kl_k3', 'log/kl_coefficient'),
  *(('value_mask',) if o['score_position'] == 'after' else ()),
)
PRESETS: dict[str, dict[str, Any]] = {
  'trl': dict(score_position='after'),
  'verl': dict(),
  'openrlhf': dict(clamp=10.0),
  'ziegler': dict(coefficient=0.15, target=6.0),  # arXiv:1909.08593's code
}


@checked(where='annotate.kl_reward')
def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  coefficient: NotNegative = 0.05,
  estimator: Literal['k1', 'k2', 'k3'] = 'k1',
  clamp: Positive | None = None,
  target: Positive | None = None,
  horizon: Positive | None = None,
  score_position: Literal['last', 'after'] = 'last',
  whiten: bool = False,
  whiten_ddof: Literal[0, 1] | None = None,
  whiten_eps: Positive | None = None,
) -> 'KlReward':
  """Writes `token_reward` [B, G, L] from `old_logp`, `ref_logp` and `reward`; 0 where none counts.

  With log-ratio d = old_logp - ref_logp of a token, the penalty is coefficient * estimate(d):
  k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d (http://joschu.net/blog/kl-approx.html). As a reward
  only k1 keeps the optimum of a penalty by the divergence itself.

  Logs `answer_kl` (the sum of d over an answer, a mean over answers), `answer_kl_k3` (the same of
  k3), neither of them clamped, and `kl_coefficient`.

  Args:
    model: unused.
    tokenizer: unused.
    coefficient: of the penalty; with `target` the one to start from.
    estimator: of the divergence at a token.
    clamp: the estimate is cut to [-clamp, clamp] (OpenRLHF: 10).
    target: nats of `answer_kl` that the coefficient is steered to.
    horizon: answers over which it is; 10000 by default.
    score_position: 'last': the score is part of the reward of the answer's last token, the end
      of turn (OpenRLHF, verl, Tunix). 'after': it comes one step later (TRL), a step at which
      nothing is chosen and which has a value; then `value_mask` is written, `mask` and that step.
      A row without room for it has its score on its last token.
    whiten: divide token rewards by their standard deviation over the rollout; their mean stays.
    whiten_ddof: of this deviation; 1 (default) or 0.
    whiten_eps: added to the variance; 1e-8 by default.

  Raises:
    BadInput: an option that the others leave without use; or the batch lacks a field.
  """
  del model, tokenizer
  where = 'kl_reward'
  if target is None:
    stats.unused(where, 'without target', horizon=horizon)
  if not whiten:
    why = 'without whiten'
    stats.unused(where, why, whiten_ddof=whiten_ddof, whiten_eps=whiten_eps)
  ddof = 1 if whiten_ddof is None else whiten_ddof
  eps = 1e-8 if whiten_eps is None else whiten_eps

  @jax.jit
  def fields(batch: Batch, coefficient: Array) -> Batch:
    mask_BGL, real_BG = stats.tokens(batch), stats.answers(batch)
    ratio_BGL = jnp.where(mask_BGL, batch['old_logp'] - batch['ref_logp'], 0)
    kl_BGL = ratios.kl(ratio_BGL, estimator, clamp)
    end_BGL = stats.last(mask_BGL)
    if score_position == 'after':
      later_BGL = jnp.pad(end_BGL[..., :-1], ((0, 0), (0, 0), (1, 0)))
      end_BGL = jnp.where(end_BGL[..., -1:], end_BGL, later_BGL)
    step_BGL = mask_BGL | end_BGL
    score_BG1 = jnp.where(real_BG, batch['reward'], 0).astype(jnp.float32)[..., None]
    reward_BGL = jnp.where(end_BGL, score_BG1, 0) - coefficient * kl_BGL
    if whiten:
      reward_BGL = stats.whiten(reward_BGL, step_BGL, ddof=ddof, eps=eps, shift_mean=False)
    out = stats.logged(
      batch,
      answer_kl=stats.mean(ratio_BGL.sum(-1), real_BG),
      answer_kl_k3=stats.mean(ratios.kl(ratio_BGL, 'k3').sum(-1), real_BG),
      kl_coefficient=coefficient,
    )
    out['token_reward'] = reward_BGL
    if score_position == 'after':
      out['value_mask'] = step_BGL.astype(jnp.float32)
    return out

  return KlReward(fields, coefficient, target, 10_000.0 if horizon is None else horizon)


class KlReward:
  """The annotator that `make` describes; with a target its coefficient changes as training goes.

  It changes in `observe` alone, which is called after a rollout that is trained on, so evaluations
  leave it as it is. `carry` and `restore` are what a checkpoint needs.
  """

  def __init__(self, fields: Any, coefficient: float, target: float | None, horizon: float) -> None:
    self._fields, self._coefficient = fields, float(coefficient)
    self._target, self._horizon = target, horizon

  def __call__(self, params: Params, batch: Batch, rng: Array) -> Batch:
    del params, rng
    stats.need(batch, 'kl_reward', 'reward', 'old_logp', 'ref_logp')
    read = ('tokens', 'mask', 'valid', 'reward', 'old_logp', 'ref_logp')
    out = self._fields({k: batch[k] for k in read if k in batch}, self._coefficient)
    return {**batch, **out}

  def observe(self, batch: Batch) -> None:
    """Steers the coefficient by an annotated rollout: *= 1 + clip(kl/target - 1, ±0.2) n/horizon.

    n is the number of its answers. Without a target nothing changes.
    """
    if self._target is None:
      return
    kl, count = _observed({k: batch[k] for k in ('mask', 'valid', 'log/answer_kl') if k in batch})
    error = min(max(float(kl) / self._target - 1, -0.2), 0.2)
    self._coefficient *= 1 + error * int(count) / self._horizon

  def carry(self) -> dict[str, float]:
    """What a resumed run has to know, as plain numbers."""
    return {'coefficient': self._coefficient}

  def restore(self, carried: Mapping[str, float]) -> None:
    """Goes on from what `carry` gave."""
    self._coefficient = float(carried['coefficient'])


@jax.jit
def _observed(batch: Batch) -> tuple[Array, Array]:
  # All entries of log/answer_kl are the same number; max keeps it, where a mean might round.
  return batch['log/answer_kl'].max(), stats.answers(batch).sum()

"""Advantages from the other answers to the same prompt: GRPO (arXiv:2402.03300, section 4.1) & kin.

What the field calls GRPO, Dr. GRPO, RLOO, REINFORCE++ and so on differ in three choices: what is
subtracted from a reward, what it is divided by, and over what it is normalised at the end.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.annotate import stats
from llm_jax.options import Positive, checked
from llm_jax.types import Annotate, Array, BadInput, Batch, Model, Params, Tokenizer

READS = ('reward', 'tokens', 'mask')
WRITES = (
  *('advantage', 'log/zero_variance'),
  *('log/advantage_mean', 'log/advantage_std', 'log/advantage_max'),
)
COMPARES = lambda o: o['baseline'] != 'none' and o['single'] != 'raw'
# A preset names only what is not the default, so that its other options can be changed alone.
PRESETS: dict[str, dict[str, Any]] = {
  'grpo': dict(),  # as TRL does it
  'verl': dict(eps=1e-6, single='raw'),
  'open_instruct': dict(ddof=0, eps=1e-8),  # its `standard`
  'dr_grpo': dict(scale='none'),  # arXiv:2503.20783
  'rloo': dict(baseline='leave_one_out', scale='none'),  # arXiv:2402.14740
  'reinforce_plus_plus': dict(baseline='none', scale='none', whiten='tokens'),  # arXiv:2501.03262
  'reinforce_plus_plus_baseline': dict(scale='none', whiten='tokens'),
  'lite_ppo': dict(scale='batch'),  # arXiv:2508.08221
  'opo': dict(baseline='optimal', scale='none', single='raw'),  # arXiv:2505.23585
}


@checked(where='annotate.group_advantage')
def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  baseline: Literal['mean', 'leave_one_out', 'none', 'optimal'] = 'mean',
  scale: Literal['group', 'batch', 'none'] = 'group',
  ddof: Literal[0, 1] | None = None,
  eps: Positive | None = None,
  whiten: Literal['none', 'tokens', 'answers'] = 'none',
  whiten_ddof: Literal[0, 1] | None = None,
  whiten_eps: Positive | None = None,
  single: Literal['zero', 'raw'] | None = None,
) -> Annotate:
  """Writes `advantage` [B, G, L] from `reward` [B, G]: one number an answer, on its `mask` tokens.

  Answers without a token or with `valid` 0 get 0, and enter no mean. A group whose rewards are all
  equal gets exactly 0 before `whiten`. Logs `zero_variance`, the share of such groups among those
  with an answer, and `advantage_mean`, `advantage_std` and `advantage_max` (of |A|) over tokens.

  Args:
    model: unused.
    tokenizer: unused.
    baseline: what is subtracted: the group's 'mean'; the mean of the others, 'leave_one_out';
      'optimal', the mean weighted by answer length (OPO, arXiv:2505.23585); or 'none'.
    scale: divide by the standard deviation of rewards of the 'group' or of the whole 'batch', or
      by 'none'.
    ddof: of these deviations; 1 (default) or 0.
    eps: added to them; 1e-4 by default.
    whiten: 'tokens' makes mean 0 and variance 1 over the tokens of the rollout (REINFORCE++), where
      long answers weigh more; 'answers' over its answers, with `ddof` and `eps` as for `scale`
      (GDPO, arXiv:2601.05242).
    whiten_ddof: of 'tokens'; 1 (default, verl) or 0 (OpenRLHF).
    whiten_eps: added to the variance of 'tokens'; 1e-8 by default.
    single: a group of one answer has no other to compare with: 'zero' (default), or its 'raw'
      reward (verl), which no group deviation divides.

  Raises:
    BadInput: an option that the others leave without use; or the batch lacks `reward`.
  """
  del model, tokenizer
  where = 'group_advantage'
  if scale == 'none' and whiten != 'answers':
    stats.unused(where, "with scale 'none'", ddof=ddof, eps=eps)
  if whiten != 'tokens':
    why = f'with whiten {whiten!r}'
    stats.unused(where, why, whiten_ddof=whiten_ddof, whiten_eps=whiten_eps)
  if baseline == 'none':
    stats.unused(where, "with baseline 'none'", single=single)
    if scale == 'group':
      raise BadInput(
        f"annotate.{where}: scale 'group' needs a baseline of the group; choose scale 'batch' or "
        "'none', or baseline 'mean'"
      )
  ddof, eps = 1 if ddof is None else ddof, 1e-4 if eps is None else eps
  whiten_ddof = 1 if whiten_ddof is None else whiten_ddof
  whiten_eps = 1e-8 if whiten_eps is None else whiten_eps

  @jax.jit
  def annotate(params: Params, batch: Batch, rng: Array) -> Batch:
    del params, rng
    stats.need(batch, where, 'reward')
    real_BG, mask_BGL = stats.answers(batch), stats.tokens(batch)
    reward_BG = jnp.where(real_BG, batch['reward'], 0).astype(jnp.float32)
    # Compared and not computed: the deviation of equal floats need not be 0.
    highest_B1 = jnp.where(real_BG, reward_BG, -jnp.inf).max(1, keepdims=True)
    lowest_B1 = jnp.where(real_BG, reward_BG, jnp.inf).min(1, keepdims=True)
    equal_B1, alone_B1 = highest_B1 == lowest_B1, real_BG.sum(1, keepdims=True) == 1

    advantage_BG = _centred(reward_BG, real_BG, mask_BGL.sum(-1), baseline)
    if baseline != 'none':
      advantage_BG = jnp.where(equal_B1, 0, advantage_BG)
      if single == 'raw':
        advantage_BG = jnp.where(alone_B1, reward_BG, advantage_BG)
    if scale == 'group':
      deviation_B1 = stats.std(reward_BG, real_BG, ddof=ddof, axis=1) + eps
      advantage_BG /= jnp.where(alone_B1, 1, deviation_B1)
    elif scale == 'batch':
      advantage_BG /= stats.std(reward_BG, real_BG, ddof=ddof) + eps
    if whiten == 'answers':
      deviation = stats.std(advantage_BG, real_BG, ddof=ddof) + eps
      advantage_BG = (advantage_BG - stats.mean(advantage_BG, real_BG)) / deviation
    advantage_BGL = jnp.where(mask_BGL, advantage_BG[..., None], 0)
    if whiten == 'tokens':
      advantage_BGL = stats.whiten(advantage_BGL, mask_BGL, ddof=whiten_ddof, eps=whiten_eps)

    some_B = real_BG.any(1)
    logs = stats.logged(
      batch,
      zero_variance=stats.mean(equal_B1[:, 0], some_B),
      **stats.advantage_stats(advantage_BGL, mask_BGL),
    )
    return {**batch, 'advantage': advantage_BGL, **logs}

  return annotate


def _centred(reward_BG: Array, real_BG: Array, length_BG: Array, baseline: str) -> Array:
  """Rewards less the baseline; those of answers that do not count are 0."""
  if baseline == 'none':
    return reward_BG
  if baseline == 'optimal':
    weighted_B1 = (reward_BG * length_BG).sum(1, keepdims=True)
    return reward_BG - weighted_B1 / jnp.maximum(length_BG.sum(1, keepdims=True), 1)
  centred_BG = reward_BG - stats.mean(reward_BG, real_BG, axis=1)
  if baseline == 'leave_one_out':
    # r - (mean of the others) = n / (n - 1) * (r - mean)
    count_B1 = real_BG.sum(1, keepdims=True)
    centred_BG *= count_B1 / jnp.maximum(count_B1 - 1, 1)
  return centred_BG

"""From scores to rewards: rules for answers that never end or are overlong, clipping, whitening."""

from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.annotate import stats
from llm_jax.options import Count, NotNegative, Positive, checked
from llm_jax.text import chat
from llm_jax.types import Annotate, Array, BadInput, Batch, Model, Params, Tokenizer

READS = ('reward', 'tokens', 'mask')
WRITES = lambda o: (
  *('reward', 'mask', 'log/missing_eos'),
  *(('log/overlong',) if o['overlong_buffer'] is not None else ()),
)
COMPARES = lambda o: o['whiten'] == 'group'


@checked(where='annotate.score_rules')
def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  template: str | None,
  max_new: Count,
  missing_eos_score: float | None = None,
  missing_eos_penalty: NotNegative | None = None,
  overlong_buffer: Count | None = None,
  overlong_weight: Positive | None = None,
  mask_truncated: bool = False,
  clip: Positive | None = None,
  whiten: Literal['none', 'group', 'rollout'] = 'none',
  whiten_ddof: Literal[0, 1] | None = None,
  whiten_eps: Positive | None = None,
) -> Annotate:
  """Rewrites `reward` [B, G]; the rules that are set are applied in the order of the arguments.

  An answer ends if the last token of its `mask` is a stop id; lengths are counted in tokens of
  `mask`. Answers that do not count (no token, or `valid` 0) get reward 0 and enter no mean. Logs
  `missing_eos`, the share of answers that do not end, and with a buffer `overlong`, the share that
  reaches into it.

  Args:
    model: unused.
    tokenizer: of the model; gives the stop ids.
    template: the chat template of the prompts (text/chat.py); None for plain text.
    max_new: most tokens of an answer.
    missing_eos_score: the score of an answer that does not end, whatever it says (-1 in
      arXiv:2403.17031).
    missing_eos_penalty: what such an answer loses instead (TRL).
    overlong_buffer: an answer loses overlong_weight * min(length - (max_new - buffer), buffer) /
      buffer for what reaches into the last tokens before max_new (DAPO, arXiv:2503.14476, eq. 13).
    overlong_weight: the most it can lose that way; 1 by default.
    mask_truncated: answers that do not end do not train: their `mask` becomes 0, and the statistics
      of `whiten` and of later annotators leave them out (DAPO, section 3.4).
    clip: rewards are cut to [-clip, clip].
    whiten: mean 0 and variance 1 over the 'group' or the 'rollout', or 'none'.
    whiten_ddof: 1 (default) or 0.
    whiten_eps: added to the variance; 1e-8 by default.

  Raises:
    BadInput: rules that exclude each other, or an option without use; or the batch lacks `reward`.
  """
  del model
  where = 'score_rules'
  if missing_eos_score is not None:
    why = 'beside missing_eos_score'
    stats.unused(where, why, missing_eos_penalty=missing_eos_penalty)
  if mask_truncated:
    stats.unused(
      where,
      'with mask_truncated',
      missing_eos_score=missing_eos_score,
      missing_eos_penalty=missing_eos_penalty,
    )
  if overlong_buffer is None:
    stats.unused(where, 'without overlong_buffer', overlong_weight=overlong_weight)
  elif overlong_buffer > max_new:
    raise BadInput(
      f'annotate.{where}: overlong_buffer {overlong_buffer}; choose 1..{max_new}, up to max_new'
    )
  if whiten == 'none':
    why = "with whiten 'none'"
    stats.unused(where, why, whiten_ddof=whiten_ddof, whiten_eps=whiten_eps)
  weight = 1.0 if overlong_weight is None else overlong_weight
  ddof = 1 if whiten_ddof is None else whiten_ddof
  eps = 1e-8 if whiten_eps is None else whiten_eps
  stops = {*tokenizer.stop_ids, *(chat.stop_ids(tokenizer, template) if template else ())}
  stop_ids = jnp.asarray(sorted(stops))

  @jax.jit
  def annotate(params: Params, batch: Batch, rng: Array) -> Batch:
    del params, rng
    stats.need(batch, where, 'reward')
    real_BG, mask_BGL = stats.answers(batch), stats.tokens(batch)
    stop_BGL = (batch['tokens'][..., None] == stop_ids).any(-1)
    endless_BG = real_BG & ~(stats.last(mask_BGL) & stop_BGL).any(-1)
    logs = {'missing_eos': stats.mean(endless_BG, real_BG)}
    out = dict(batch)
    reward_BG = batch['reward'].astype(jnp.float32)
    if missing_eos_score is not None:
      reward_BG = jnp.where(endless_BG, missing_eos_score, reward_BG)
    if missing_eos_penalty is not None:
      reward_BG = jnp.where(endless_BG, reward_BG - missing_eos_penalty, reward_BG)
    if overlong_buffer is not None:
      over_BG = mask_BGL.sum(-1) - (max_new - overlong_buffer)
      reward_BG -= weight * jnp.clip(over_BG, 0, overlong_buffer) / overlong_buffer
      logs['overlong'] = stats.mean(over_BG > 0, real_BG)
    if mask_truncated:
      out['mask'] = jnp.where(endless_BG[..., None], 0, batch['mask'])
      real_BG &= ~endless_BG
    if clip is not None:
      reward_BG = jnp.clip(reward_BG, -clip, clip)
    if whiten != 'none':
      axis = 1 if whiten == 'group' else None
      reward_BG = stats.whiten(reward_BG, real_BG, ddof=ddof, eps=eps, axis=axis)
    out['reward'] = jnp.where(real_BG, reward_BG, 0)
    return out | stats.logged(batch, **logs)

  return annotate

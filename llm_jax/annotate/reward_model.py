"""Scores of the answers under a reward model, an artifact of the stage `reward`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import artifact
from llm_jax.annotate import stats
from llm_jax.losses.reward import answer_scores
from llm_jax.options import Place
from llm_jax.types import Annotate, Array, BadInput, Batch, Model, Params, Tokenizer

READS = ('tokens', 'mask', 'segment')
WRITES = ('reward', 'valid', 'log/reward', 'log/reward_std')
ARTIFACTS = ('path',)


def make(
  model: Model, tokenizer: Tokenizer, *, mesh: Any, path: Place, trust: Sequence[str] = ()
) -> Annotate:
  """Writes `reward` [B, G], float32 whatever the reward model computes in, and `valid`.

  A score is read at the last token of prompt and answer. `valid` is 0, and the reward too, where
  there is no answer or the score is not finite. What a judge before it wrote is added. Logs
  `reward` and `reward_std` (n in its denominator), mean and standard deviation over the answers
  that count.

  Args:
    model: of the policy.
    tokenizer: of the policy; the caller sees to it that the reward model has the same.
    mesh: where the reward model's parameters go.
    path: folder of its artifact.
    trust: modules of the user's that the artifact may name as its model.

  Raises:
    BadInput: no scalar head; or answers longer than the reward model can read.
  """
  del tokenizer
  if artifact.describe(path)['model'].get('head') != 'scalar':
    raise BadInput(
      f'annotate.reward_model: {path!r} has no scalar head; give the folder of a reward stage'
    )
  made = artifact.load(path, mesh, model.compute, trust=trust)

  @jax.jit
  def fields(params: Params, batch: Batch) -> Batch:
    score_BG = answer_scores(made.model, params, batch)
    real_BG = (batch['mask'] > 0).any(-1) & jnp.isfinite(score_BG)
    out = stats.judged(batch, score_BG, real_BG)
    logs = stats.logged(
      batch,
      reward=stats.mean(out['reward'], out['valid'] > 0),
      reward_std=stats.std(out['reward'], out['valid'] > 0, ddof=0),
    )
    return out | logs

  def annotate(params: Params, batch: Batch, rng: Array) -> Batch:
    del params, rng
    length, most = batch['tokens'].shape[-1], made.model.shape.max_length
    if length > most:
      raise BadInput(
        f'annotate.reward_model: answers of {length} tokens with their prompts, and {path!r} reads '
        f'{most}; lower max_new, or train a reward model with a larger model.max_length'
      )
    read = ('tokens', 'mask', 'position', 'segment', 'reward', 'valid')
    return {**batch, **fields(made.params, {k: batch[k] for k in read if k in batch})}

  return annotate

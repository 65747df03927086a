"""Reward models from rankings: Bradley-Terry over pairs (arXiv:2203.02155, eq. 1) and best of K."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.options import NotNegative, checked
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Model, Params

# Margins by how much better the first answer is, from 0 (hardly) to 3 (clearly); Llama 2,
# arXiv:2307.09288, table 27.
GRADES = {'small': (0.0, 1 / 3, 2 / 3, 1.0), 'large': (0.0, 1.0, 2.0, 3.0)}
Margin = Literal['none', 'given', 'small', 'large'] | Sequence[float]
PRESETS: dict[str, dict[str, Any]] = {
  'trl': dict(kind='pairwise', margin='none', centering=0.0),
  'openrlhf': dict(kind='pairwise', margin='given', centering=0.0),
  'instruct_gpt': dict(kind='pairwise', margin='none', centering=0.0),
  'llama2': dict(kind='pairwise', margin='large', centering=0.0),
  'ziegler': dict(kind='best_of_k', centering=0.0),
}


READS = lambda o: (
  *('tokens', 'segment'),
  *(('margin',) if o['kind'] == 'pairwise' and o['margin'] not in (None, 'none') else ()),
)


def _check(*, kind: str, margin: Margin | None, **others: Any) -> None:
  if margin is not None and kind != 'pairwise':
    raise BadInput(f'loss: kind {kind!r} does not use margin; remove it or set kind to pairwise')
  if margin is not None and not len(margin):
    raise BadInput('loss: margin () is empty; give one number for each grade, from 0 upwards')


@checked(_check)
def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Model,
  kind: Literal['pairwise', 'best_of_k'] = 'pairwise',
  margin: Margin | None = None,
  centering: NotNegative = 0.0,
) -> tuple[Mean, Metrics]:
  """How surprised the scores are by the rankings, in nats, averaged over prompts.

  A ranking of K answers is one element of the batch, with the same weight whatever its K: each
  answer is read once, and its pairs are averaged.

  Args:
    params: of the model.
    batch: `tokens`, `segment`, optionally `mask` [B, G, L], best answer first; rows without a token
      are no answers, so rankings may differ in length. `margin` [B], unless `margin` is 'none'.
    rng: unused.
    model: a Transformer with a scalar head.
    kind: 'pairwise': -log sigmoid(r_i - r_j - margin), i ranked above j. 'best_of_k': -log of the
      softmax over all answers, at the first (arXiv:1909.08593, eq. 1).
    margin: 'none' (default); 'given', the field as it is; or by the grade in the field: 'small',
      'large', or one number for each grade from 0.
    centering: weight of the mean of (r_i + r_j)^2 over pairs, which keeps scores around 0
      (arXiv:2312.09244; 0.01 is usual).

  Raises:
    BadInput: an option is wrong, or the batch lacks `margin`.
  """
  del rng
  score_BG = answer_scores(model, params, batch)
  real_BG = (batch['segment'] > 0).any(-1)
  answers = score_BG.shape[1]
  above_GG = jnp.triu(jnp.ones((answers, answers), bool), 1)
  pair_BGG = above_GG & real_BG[:, :, None] & real_BG[:, None, :]
  pairs_B = pair_BGG.sum((1, 2))
  ranked_B = pairs_B > 0

  def over_pairs(x_BGG: Array) -> Array:
    """Mean over the pairs of each ranking [B]."""
    return jnp.where(pair_BGG, x_BGG, 0).sum((1, 2)) / jnp.maximum(pairs_B, 1)

  higher_BGG, lower_BGG = score_BG[:, :, None], score_BG[:, None, :]
  gap_BGG = higher_BGG - lower_BGG
  if kind == 'pairwise':
    margin_B = _margin(batch, 'none' if margin is None else margin)
    loss_B = over_pairs(-jax.nn.log_sigmoid(gap_BGG - margin_B[:, None, None]))
  else:
    logit_BG = jnp.where(real_BG, score_BG, -jnp.inf)
    logit_BG = jnp.where(ranked_B[:, None], logit_BG, 0)  # else the gradient of nothing is nan
    loss_B = -jax.nn.log_softmax(logit_BG)[:, 0]
  if centering:
    loss_B += centering * over_pairs((higher_BGG + lower_BGG) ** 2)
  metrics = {
    'accuracy': Mean.of(over_pairs(gap_BGG > 0), ranked_B),
    'margin': Mean.of(over_pairs(gap_BGG), ranked_B),
    'chosen_score': Mean.of(over_pairs(jnp.broadcast_to(higher_BGG, gap_BGG.shape)), ranked_B),
    'rejected_score': Mean.of(over_pairs(jnp.broadcast_to(lower_BGG, gap_BGG.shape)), ranked_B),
  }
  if 'mask' in batch:  # which tokens are the answer; the score needs to know only the last one
    length_BG = jnp.where(ranked_B[:, None], batch['mask'].sum(-1), 0)
    metrics['response_length'] = Mean.of(length_BG, length_BG > 0)
    metrics['trained_tokens'] = Mean(length_BG.sum(), jnp.zeros(()))
  return Mean.of(loss_B, ranked_B), metrics


def answer_scores(model: Model, params: Params, batch: Batch) -> Array:
  """The score of each answer, float32, read at its last token; 0 where there is no token.

  The last token is the last index with `segment` > 0: lengths decide, never token ids, and it does
  not matter on which side padding is.

  Args:
    model: a Transformer with a scalar head.
    params: its parameters.
    batch: `tokens`, `segment`, optionally `position` [..., L].

  Returns:
    Scores [...], such as [B, G].
  """
  shape = batch['tokens'].shape
  flat = {
    k: batch[k].reshape(-1, shape[-1]) for k in ('tokens', 'position', 'segment') if k in batch
  }
  hidden_BLD, _ = model.apply(
    params, flat['tokens'], flat.get('position'), flat['segment'], method='hidden'
  )
  real_BL = flat['segment'] > 0
  last_B = shape[-1] - 1 - jnp.argmax(real_BL[:, ::-1], axis=1)
  hidden_BD = jnp.take_along_axis(hidden_BLD, last_B[:, None, None], axis=1)[:, 0]
  score_B = model.apply(params, hidden_BD, method='unembed')
  return jnp.where(real_BL.any(1), score_B, 0).reshape(shape[:-1])


def centre(params: Params, scores: Array, *, scale: bool = False) -> Params:
  """`params` of a reward model with its head shifted, so that the mean of `scores` becomes 0.

  Args:
    params: with `head`: `scalar` [D] and `bias` [].
    scores: of reference answers under `params`, any shape.
    scale: make their standard deviation 1 as well (arXiv:1909.08593).

  Raises:
    BadInput: no scalar head, no scores, or nothing to scale.
  """
  head = params.get('head', {})
  if not {'scalar', 'bias'} <= set(head):
    raise BadInput(
      'centre: these parameters have no scalar head; train with config.model.head=scalar'
    )
  if not scores.size:
    raise BadInput('centre: no scores; give those of a few hundred reference answers')
  mean, std = float(jnp.mean(scores)), float(jnp.std(scores))
  if not math.isfinite(mean) or (scale and not std > 0):
    raise BadInput(
      f'centre: scores have mean {mean} and std {std}; wanted finite and not all equal'
    )
  gain = 1 / std if scale else 1.0
  new = {'scalar': head['scalar'] * gain, 'bias': (head['bias'] - mean) * gain}
  return {**params, 'head': {**head, **new}}


def _margin(batch: Batch, margin: str | Sequence[float]) -> Array:
  """The margin of each ranking [B]."""
  if margin == 'none':
    return jnp.zeros(batch['tokens'].shape[0])
  if 'margin' not in batch:
    raise BadInput(f'loss: margin {margin!r} needs data with a margin; set config.loss.margin=none')
  if margin == 'given':
    return batch['margin']
  table = jnp.asarray(GRADES[margin] if isinstance(margin, str) else margin)
  return table[jnp.clip(jnp.round(batch['margin']).astype(int), 0, len(table) - 1)]

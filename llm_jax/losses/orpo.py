"""Odds ratio preference optimisation: SFT and preferences in one, arXiv:2403.07691, eq. 6."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.losses.answers import Average, nll, pair_metrics, pairs, per_token
from llm_jax.losses.logprobs import scores
from llm_jax.options import NotNegative, checked
from llm_jax.types import Array, Batch, Mean, Metrics, Model, Params

READS = lambda o: ('tokens', 'mask', *(('segment',) if o['nll_span'] == 'all' else ()))
PRESETS: dict[str, dict[str, Any]] = {'trl': dict(beta=0.1, nll_span='all', nll_average='token')}


@checked()
def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Model,
  beta: NotNegative = 0.1,
  nll_span: Literal['answer', 'all'] = 'answer',
  nll_average: Average = 'sequence',
) -> tuple[Mean, Metrics]:
  """-log p of the chosen answer - beta log sigmoid(log odds ratio), averaged over pairs.

  The odds are those of the probability per token. There is no reference.

  Args:
    params: of the model.
    batch: `tokens`, `mask`, `segment`, `position` [B, 2, L], the chosen answer first; a pair of
      which an answer has no target does not count.
    rng: unused.
    model: a Transformer.
    beta: weight of the odds ratio (lambda of the paper).
    nll_span: -log p over the 'answer', or over 'all' of the chosen row, prompt included.
    nll_average: 'sequence': each answer's mean, so all pairs weigh the same. 'token': one mean over
      the tokens of the (micro)batch, as Hugging Face trainers do.

  Raises:
    BadInput: an option is wrong, or the batch is not pairs.
  """
  del rng
  pair_B, target_BGL = pairs(batch)
  out = scores(model, params, batch)
  mean_BG = per_token((out.logp * target_BGL).sum(-1), target_BGL.sum(-1))
  odds_BG = mean_BG - log1mexp(mean_BG)
  odds_B = odds_BG[:, 0] - odds_BG[:, 1]
  span_BL = target_BGL[:, 0]
  if nll_span == 'all':
    real_BL = batch['segment'][:, 0] > 0
    # All but the first token, on whichever side padding is.
    span_BL = real_BL & jnp.pad(real_BL[:, :-1], ((0, 0), (1, 0))) & pair_B[:, None]
  nll_B = nll(out.logp[:, 0], span_BL.astype(jnp.float32), nll_average)
  loss_B = nll_B - beta * jax.nn.log_sigmoid(odds_B)
  return Mean.of(loss_B, pair_B), {
    'nll': Mean.of(nll_B, pair_B),
    'log_odds_ratio': Mean.of(odds_B, pair_B),
    **pair_metrics(out.logp, out.entropy, beta * mean_BG, pair_B, target_BGL),
  }


def log1mexp(x: Array) -> Array:
  """log(1 - exp(x)) for x < 0, without cancellation on either side of -log 2."""
  x = jnp.minimum(x, -jnp.finfo(jnp.float32).tiny)  # a certain token has infinite odds
  near = x > -math.log(2)
  # Each branch sees only what it is good at, so that the other's gradient is not nan.
  small, large = jnp.where(near, x, -1.0), jnp.where(near, -1.0, x)
  return jnp.where(near, jnp.log(-jnp.expm1(small)), jnp.log1p(-jnp.exp(large)))

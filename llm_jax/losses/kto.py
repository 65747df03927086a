"""Kahneman-Tversky optimisation: answers that are good or bad on their own, arXiv:2402.01306."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.losses.answers import field, token_metrics
from llm_jax.losses.logprobs import score, scores
from llm_jax.options import NotNegative, Positive, checked
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Model, Params

MISMATCHED = ('kl_tokens', 'kl_mask', 'kl_segment', 'kl_position', 'kl_ref_logp')
PRESETS: dict[str, dict[str, Any]] = {
  'trl': dict(kind='kto', beta=0.1, desirable_weight=1.0, undesirable_weight=1.0),
}


READS = lambda o: (
  *('tokens', 'mask', 'ref_logp', 'label'),
  *(MISMATCHED if o['kind'] == 'kto' else ()),
)


@checked()
def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Model,
  kind: Literal['kto', 'apo_zero_unpaired'] = 'kto',
  beta: Positive = 0.1,
  desirable_weight: NotNegative = 1.0,
  undesirable_weight: NotNegative = 1.0,
) -> tuple[Mean, Metrics]:
  """1 - sigmoid of how far an answer's log-ratio is on its right side of z0, averaged over answers.

  z0 estimates the divergence from the reference: the mean log-ratio of answers under prompts that
  are not theirs, at least 0, without a gradient. It belongs to a microbatch, which should have a
  few rows; the loss therefore depends on their number.

  Args:
    params: of the model.
    batch: `tokens`, `mask`, `segment`, `position`, `ref_logp` [B, 1, L] and `label` [B], 1 for a
      good answer; for 'kto', the same fields with `kl_` in front of mismatched pairs. Rows without
      a target do not count.
    rng: unused.
    model: a Transformer.
    kind: 'kto', or 'apo_zero_unpaired' (arXiv:2408.06266), which puts z0 at 0.
    beta: how dear it is to leave the reference; rewards are beta (logp - ref_logp).
    desirable_weight: of good answers.
    undesirable_weight: of bad ones; the paper wants the ratio of the weighted numbers of good and
      bad answers between 1 and 4/3.

  Raises:
    BadInput: an option is wrong, or the batch lacks a field.
  """
  del rng
  out, ref_BGL = scores(model, params, batch), field(batch, 'ref_logp')
  target_BGL = batch['mask'].astype(jnp.float32)
  logp_B = (out.logp * target_BGL).sum((1, 2))
  ratio_B = logp_B - (ref_BGL * target_BGL).sum((1, 2))
  real_B = target_BGL.any((1, 2))
  good_B = batch['label'] > 0
  z0, shown = jnp.zeros(()), {}
  if kind == 'kto':
    z0 = _z0(model, params, batch)
    shown = {'z0': Mean.of(z0)}
  side_B = jnp.where(good_B, 1, -1) * beta * (ratio_B - z0)
  weight_B = jnp.where(good_B, desirable_weight, undesirable_weight)
  good_B, bad_B = good_B & real_B, ~good_B & real_B
  return Mean.of(weight_B * jax.nn.sigmoid(-side_B), real_B), {
    'chosen_logp': Mean.of(logp_B, good_B),
    'rejected_logp': Mean.of(logp_B, bad_B),
    'chosen_reward': Mean.of(beta * ratio_B, good_B),
    'rejected_reward': Mean.of(beta * ratio_B, bad_B),
    'margin': Mean.of(side_B, real_B),
    'accuracy': Mean.of(side_B > 0, real_B),
    **shown,
    **token_metrics(out.logp, out.entropy, target_BGL, ref_BGL),
  }


def _z0(model: Model, params: Params, batch: Batch) -> Array:
  missing = [name for name in MISMATCHED if name not in batch]
  if missing:
    raise BadInput(
      f'loss: kto needs mismatched answers, but the batch has no {missing[0]}; add them, or set '
      'config.loss.kind=apo_zero_unpaired'
    )
  fields = {name.removeprefix('kl_'): batch[name] for name in MISMATCHED}
  logp_BGL = score(model, jax.lax.stop_gradient(params), fields)
  ratio_B = ((logp_BGL - fields['ref_logp']) * fields['mask']).sum((1, 2))
  return jnp.maximum(Mean.of(ratio_B, fields['mask'].any((1, 2))).value, 0)

"""Proximal policy optimisation with a critic: arXiv:1707.06347, eq. 7 and 9, and InstructGPT."""

from typing import Annotated, Any

import jax.numpy as jnp

from llm_jax.losses import ratios
from llm_jax.losses.answers import field, nll
from llm_jax.losses.logprobs import score
from llm_jax.options import NotNegative, Positive, Share, above, checked
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Model, Params

PTX = ('ptx_tokens', 'ptx_mask', 'ptx_segment', 'ptx_position')
READS = lambda o: (
  *('tokens', 'mask', 'advantage', 'return', *(('value',) if o['value_clip'] is not None else ())),
  *(('sampled_logp',) if o['importance_cap'] is not None else ()),
  *(PTX if o['ptx_weight'] else ()),
)


def _check(*, clip: float, clip_dual: float | None, **others: Any) -> None:
  ratios.check_clip(clip_high=clip, clip_dual=clip_dual)


@checked(_check)
def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Model,
  clip: Share = 0.2,
  clip_dual: Annotated[float, above(1)] | None = None,
  log_ratio_clamp: Positive | None = None,
  importance_cap: Positive | None = None,
  value_clip: Positive | None = 0.2,
  value_weight: Positive = 0.1,
  entropy_weight: NotNegative = 0.0,
  ptx_weight: NotNegative = 0.0,
  temperature: Positive = 1.0,
) -> tuple[Mean, Metrics]:
  """The clipped surrogate and half the squared error of the values, averaged over sampled tokens.

  Answers without a token in `mask`, and those whose reward is not `valid`, do not count.

  Where `value_mask` has other tokens than `mask`, the sum of their errors is still divided by the
  number of tokens of `mask`, so that microbatches add up exactly; TRL divides by their own number,
  as the metric `value_loss` does.

  Args:
    params: of the model.
    batch: `tokens`, `mask`, `advantage`, `return`, `value` [B, G, L], optionally `segment`,
      `position`, `old_logp` (without it the policy is taken to be the one that sampled),
      `sampled_logp`, `ref_logp`, `value_mask` [B, G, L], and `valid` [B, G]. With a `ptx_weight`,
      rows of pretraining `ptx_tokens`, `ptx_mask`, `ptx_segment`, `ptx_position` [B, L].
    rng: unused.
    model: an ActorCritic.
    clip: ratios beyond 1 - clip and 1 + clip are not pushed further.
    clip_dual: where the advantage is negative, a ratio above it has no gradient (dual clip,
      arXiv:1912.09729, eq. 5), 3 is usual.
    log_ratio_clamp: largest size of a ratio's logarithm; verl and OpenRLHF use 20.
    importance_cap: weigh each token by min(p_old / p_sampled, importance_cap), without a gradient;
      2 is usual.
    value_clip: the larger of two errors counts: that of the value, and that of the value moved no
      further than this from `value`. None: the first, and `value` is not read.
    value_weight: of the values' error.
    entropy_weight: of the entropy, subtracted from each token.
    ptx_weight: of the cross-entropy of pretraining (arXiv:2203.02155, eq. 2, where it is 27.8):
      each row's mean in nats a token, weighted by the number of tokens that train in the answers
      of the same row of the batch. So it is a weighted mean over rows, the same under any number
      of microbatches; rows beside answers that do not count are left out.
    temperature: logits are divided by it; that of the sampler and of the annotators. Not those of
      pretraining.

  Raises:
    BadInput: an option is wrong, or the batch lacks a field.
  """
  del rng
  rollout = ratios.read(model, params, batch, temperature)
  surrogate = ratios.clip(
    rollout,
    log_ratio_clamp=log_ratio_clamp,
    clip_low=clip,
    clip_high=clip,
    clip_dual=clip_dual,
  )
  loss_BGL = surrogate.loss
  if importance_cap is not None:
    loss_BGL *= ratios.importance(rollout, importance_cap)
  if entropy_weight:
    loss_BGL -= entropy_weight * rollout.entropy
  policy = Mean.of(loss_BGL, rollout.target)
  value, value_metrics = _value(model, params, batch, value_clip)
  total = policy.total + value_weight * value.total
  metrics = {
    'policy_loss': policy,
    **ratios.policy_metrics(rollout, surrogate),
    **value_metrics,
  }
  if ptx_weight:
    tokens_B = rollout.target.reshape(rollout.target.shape[0], -1).sum(-1)
    ptx_B, metrics['ptx_loss'] = _pretraining(model, params, batch)
    total += ptx_weight * (ptx_B * tokens_B).sum()
  return Mean(total, policy.count), metrics


def values(model: Model, params: Params, batch: Batch) -> Array:
  """What the critic expects of each token's choice, float32 [..., L].

  Entry t is read where token t is predicted, from the tokens before it; the first of a row is
  predicted nowhere and is 0.

  Args:
    model: an ActorCritic.
    params: its parameters.
    batch: `tokens` [..., L], optionally `position` and `segment` of the same shape.
  """
  shape = batch['tokens'].shape
  flat = {
    k: batch[k].reshape(-1, shape[-1]) for k in ('tokens', 'position', 'segment') if k in batch
  }
  value_BL = model.apply(
    params, flat['tokens'], flat.get('position'), flat.get('segment'), method='value'
  )
  return jnp.pad(value_BL[:, :-1], ((0, 0), (1, 0))).reshape(shape)


def _value(
  model: Model, params: Params, batch: Batch, value_clip: float | None
) -> tuple[Mean, Metrics]:
  """Half the squared error of the values over `value_mask`, and what is logged of them."""
  returns = field(batch, 'return')
  mask = ratios.trained(batch, batch.get('value_mask', batch['mask']))
  value = values(model, params, batch)
  error = (value - returns) ** 2
  metrics: Metrics = {'value': Mean.of(value, mask)}
  if value_clip is not None:
    old = field(batch, 'value')
    clipped = (old + jnp.clip(value - old, -value_clip, value_clip) - returns) ** 2
    metrics['value_clip_fraction'] = Mean.of(clipped > error, mask)
    error = jnp.maximum(error, clipped)
  loss = Mean.of(error / 2, mask)
  return loss, {'value_loss': loss, **metrics}


def _pretraining(model: Model, params: Params, batch: Batch) -> tuple[Array, Mean]:
  """-log p of rows of pretraining, in nats a token: the mean of each row [B], and of all tokens."""
  missing = [name for name in PTX if name not in batch]
  if missing:
    raise BadInput(
      f'loss: ptx_weight needs rows of pretraining, and the batch has no {missing[0]}; add them, '
      'or set config.loss.ptx_weight=0'
    )
  fields = {name.removeprefix('ptx_'): batch[name] for name in PTX}
  logp_BL, mask_BL = score(model, params, fields), fields['mask'].astype(jnp.float32)
  return nll(logp_BL, mask_BL, 'sequence'), Mean.of(-logp_BL, mask_BL)

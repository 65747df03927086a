"""What losses over sampled answers share: which tokens train, and ratios to the policy before."""

from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.losses.answers import MAX_EXPONENT, field, per_token, token_metrics
from llm_jax.losses.logprobs import scores
from llm_jax.options import NotNegative, Positive, Share, above
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Model, Params, Peak

Aggregation = Literal['token_mean', 'sequence_mean', 'sequence_sum', 'constant']
Level = Literal['token', 'sequence', 'sequence_sum']
Estimator = Literal['k1', 'k2', 'k3', 'abs']


class Rollout(NamedTuple):
  """Sampled answers under the policy that trains, float32 [B, G, L] each; entry t is about token t.

  `old`, `sampled` and `ref` are numbers, not functions of the parameters.
  """

  logp: Array
  entropy: Array
  target: Array  # 1 on the tokens that train: those of `mask` in answers whose reward is known
  advantage: Array
  old: Array  # under the policy that sampled; without `old_logp`, what `logp` is now
  sampled: Array | None  # under what was sampled from
  ref: Array | None  # under a frozen model

  @property
  def log_ratio(self) -> Array:
    """log of the policy that trains over the one that sampled; 0 where nothing trains."""
    return jnp.where(self.target > 0, self.logp - self.old, 0)


class Surrogate(NamedTuple):
  """What takes the place of -advantage * logp.

  loss: [B, G, L].
  ratio: [B, G, L], or [B, G, 1] where an answer has one.
  clipped: by name, where a clip is active [B, G, L].
  """

  loss: Array
  ratio: Array
  clipped: dict[str, Array]


def read(model: Model, params: Params, batch: Batch, temperature: float) -> Rollout:
  """The answers of a batch under `model`.

  Args:
    model: a Transformer.
    params: its parameters.
    batch: `tokens`, `mask`, `advantage` [B, G, L], optionally `position`, `segment`, `old_logp`,
      `sampled_logp`, `ref_logp` [B, G, L] and `valid` [B, G].
    temperature: logits are divided by it, as they were in every log-probability of the batch.

  Raises:
    BadInput: the batch has no `advantage`.
  """
  advantage = field(batch, 'advantage')
  out = scores(model, params, batch, temperature=temperature)
  target = trained(batch, batch['mask'])
  return Rollout(
    logp=out.logp,
    entropy=out.entropy,
    target=target,
    advantage=jnp.where(target > 0, advantage, 0),
    old=jax.lax.stop_gradient(batch.get('old_logp', out.logp)),
    sampled=batch.get('sampled_logp'),
    ref=batch.get('ref_logp'),
  )


def trained(batch: Batch, mask_BGL: Array) -> Array:
  """`mask_BGL` as float32, 0 in answers of which no reward is known."""
  mask_BGL = mask_BGL.astype(jnp.float32)
  return mask_BGL * batch['valid'][..., None] if 'valid' in batch else mask_BGL


def ratio(rollout: Rollout, level: Level, log_ratio_clamp: float | None = None) -> Array:
  """How much likelier an answer has become since it was sampled.

  Args:
    rollout: of answers.
    level: 'token': each token by itself, [B, G, L]. 'sequence': the geometric mean over an answer's
      tokens (GSPO, arXiv:2507.18071, eq. 7), [B, G, 1]. 'sequence_sum': the whole answer (RLOO,
      arXiv:2402.14740), [B, G, 1].
    log_ratio_clamp: largest size of its logarithm; beyond it there is no gradient.
  """
  log_ratio = rollout.log_ratio
  if level != 'token':
    log_ratio = log_ratio.sum(-1)
    if level == 'sequence':
      log_ratio = per_token(log_ratio, rollout.target.sum(-1))
    log_ratio = log_ratio[..., None]
  if log_ratio_clamp is not None:
    log_ratio = jnp.clip(log_ratio, -log_ratio_clamp, log_ratio_clamp)
  return jnp.exp(jnp.minimum(log_ratio, MAX_EXPONENT))  # infinity has no gradient, clipped or not


def clip(
  rollout: Rollout,
  *,
  ratio_level: Level = 'token',
  log_ratio_clamp: Positive | None = None,
  clip_low: Share = 0.2,
  clip_high: NotNegative = 0.2,
  clip_dual: Annotated[float, above(1)] | None = None,
) -> Surrogate:
  """The clipped surrogate of PPO (arXiv:1707.06347, eq. 7); see `policy_gradient.loss_fn`."""
  rho, advantage = ratio(rollout, ratio_level, log_ratio_clamp), rollout.advantage
  near = jnp.clip(rho, 1 - clip_low, 1 + clip_high)
  loss = jnp.maximum(-advantage * rho, -advantage * near)
  if clip_dual is not None:
    loss = jnp.where(advantage < 0, jnp.minimum(loss, -advantage * clip_dual), loss)
  return Surrogate(
    loss,
    rho,
    {
      'clip_low': (rho < 1 - clip_low) & (advantage < 0),
      'clip_high': (rho > 1 + clip_high) & (advantage > 0),
    },
  )


def check_clip(
  *, clip_high: float | None = None, clip_dual: float | None = None, **others: Any
) -> None:
  """Raises BadInput if the two upper clips of a kind that has them cross."""
  if clip_high is not None and clip_dual is not None and not clip_dual > 1 + clip_high:
    raise BadInput(
      f'loss: clip_dual {clip_dual} is not above {1 + clip_high:g}, where the upper clip is; '
      '3 is usual'
    )


def importance(rollout: Rollout, cap: float) -> Array:
  """min(p_old / p_sampled, cap) of each token, without a gradient; 1 where nothing trains.

  Corrects for a sampler that is not quite the policy it samples for (truncated importance
  sampling).

  Raises:
    BadInput: the batch does not say what the sampler assigned.
  """
  if rollout.sampled is None:
    raise BadInput(
      'loss: importance_cap needs sampled_logp, and the batch has none; remove importance_cap'
    )
  log_weight = _sampler_gap(rollout, rollout.sampled)
  return jnp.minimum(jnp.exp(jnp.minimum(log_weight, MAX_EXPONENT)), cap)


def kl(log_ratio: Array, estimator: Estimator, clamp: float | None = None) -> Array:
  """Estimates, from samples of p, of the divergence KL(p, q), elementwise.

  >>> [round(float(kl(jnp.array(-0.5), name)), 3) for name in ('k1', 'k2', 'k3', 'abs')]
  [-0.5, 0.125, 0.149, 0.5]

  Args:
    log_ratio: log p - log q of what was sampled.
    estimator: 'k1': log_ratio, unbiased. 'k2': log_ratio^2 / 2, whose gradient is that of the
      divergence. 'k3': exp(-log_ratio) - 1 + log_ratio, unbiased and never negative; its gradient
      is that of KL(q, p). 'abs': |log_ratio|. All as in http://joschu.net/blog/kl-approx.html.
    clamp: largest size of an estimate; beyond it there is no gradient.
  """
  if estimator == 'k1':
    value = log_ratio
  elif estimator == 'k2':
    value = log_ratio**2 / 2
  elif estimator == 'k3':
    value = jnp.expm1(jnp.minimum(-log_ratio, MAX_EXPONENT)) + log_ratio
  else:
    value = jnp.abs(log_ratio)
  return value if clamp is None else jnp.clip(value, -clamp, clamp)


def aggregate(loss_BGL: Array, target_BGL: Array, aggregation: Aggregation, longest: int) -> Mean:
  """The mean of a loss over tokens, or over answers with a target and `longest` places each.

  >>> loss_BGL = jnp.array([[[3.0, 3.0, 3.0], [1.0, 0.0, 0.0]]])  # answers of 3 tokens and of 1
  >>> names = ('token_mean', 'sequence_mean', 'sequence_sum')
  >>> [float(aggregate(loss_BGL, loss_BGL > 0, name, 1).value) for name in names]
  [2.5, 2.0, 5.0]
  >>> float(aggregate(loss_BGL, loss_BGL > 0, 'constant', 4).value)
  1.25
  """
  if aggregation == 'token_mean':
    return Mean.of(loss_BGL, target_BGL)
  sum_BG, length_BG = (loss_BGL * target_BGL).sum(-1), target_BGL.sum(-1)
  if aggregation == 'sequence_mean':
    return Mean.of(per_token(sum_BG, length_BG), length_BG > 0)
  mean = Mean.of(sum_BG, length_BG > 0)
  return Mean(mean.total, mean.count * longest)


def policy_metrics(rollout: Rollout, surrogate: Surrogate) -> Metrics:
  """What every loss over sampled answers logs.

  Those of `answers.token_metrics`; the share of tokens where each clip is active; `ratio_max`;
  `policy_kl` (old - logp: how far the policy has gone since it sampled); with a reference `kl` and
  `kl_k3`; and with `sampled_logp` the `mismatch` |old - sampled| between trainer and sampler.
  """
  target = rollout.target
  metrics = token_metrics(rollout.logp, rollout.entropy, target, rollout.ref)
  for name, active in surrogate.clipped.items():
    metrics[name] = Mean.of(active, target)
  metrics['ratio_max'] = Peak.of(surrogate.ratio, target)
  metrics['policy_kl'] = Mean.of(-rollout.log_ratio, target)
  if rollout.ref is not None:
    apart = jnp.where(target > 0, rollout.logp - rollout.ref, 0)
    metrics['kl_k3'] = Mean.of(kl(apart, 'k3'), target)
  if rollout.sampled is not None:
    metrics['mismatch'] = Mean.of(jnp.abs(_sampler_gap(rollout, rollout.sampled)), target)
  return metrics


def _sampler_gap(rollout: Rollout, sampled: Array) -> Array:
  """log p_old - log p_sampled of each token; 0 where nothing trains."""
  return jnp.where(rollout.target > 0, rollout.old - sampled, 0)

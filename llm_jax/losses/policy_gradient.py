"""Policy gradients over groups of sampled answers: GRPO (arXiv:2402.03300) and its relatives."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.losses import ratios
from llm_jax.losses.answers import field
from llm_jax.losses.ratios import Aggregation, Level, Rollout, Surrogate
from llm_jax.options import Count, NotNegative, Positive, kinds
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Model, Params

Pair = tuple[Positive, Positive]  # for positive advantages, and for negative ones
LOG_WEIGHT = (math.log(1e-8), 20.0)  # the range in which VESPO's authors keep log w


def cispo(
  rollout: Rollout,
  *,
  ratio_level: Level = 'token',
  log_ratio_clamp: Positive | None = None,
  ratio_cap: Positive = 5.0,
) -> Surrogate:
  """CISPO (arXiv:2506.13585, eq. 4): -advantage logp, weighted by min(ratio, ratio_cap).

  The weight has no gradient, so a token whose ratio is capped still trains. The cap is absolute,
  as in TRL; where 1 + eps is asked for, as in verl and open-instruct, give that sum.
  """
  rho = ratios.ratio(rollout, ratio_level, log_ratio_clamp)
  weight = jax.lax.stop_gradient(jnp.minimum(rho, ratio_cap))
  capped = jnp.broadcast_to(rho > ratio_cap, rollout.target.shape)
  return Surrogate(-weight * rollout.advantage * rollout.logp, rho, {'clip_high': capped})


def sapo(
  rollout: Rollout,
  *,
  ratio_level: Level = 'token',
  log_ratio_clamp: Positive | None = None,
  tau: Pair = (1.0, 1.05),
) -> Surrogate:
  """SAPO (arXiv:2511.20347): a sigmoid around ratio 1, as steep there, instead of a clip."""
  rho = ratios.ratio(rollout, ratio_level, log_ratio_clamp)
  sharp = jnp.where(rollout.advantage > 0, tau[0], tau[1])
  gate = jax.nn.sigmoid(sharp * (rho - 1)) * 4 / sharp
  return Surrogate(-gate * rollout.advantage, rho, {})


def vespo(rollout: Rollout, *, power: Pair = (2.0, 3.0), decay: Pair = (3.0, 2.0)) -> Surrogate:
  """VESPO (arXiv:2602.10693): -advantage logp, weighted by w^power exp(decay (1 - w)).

  w is the ratio of the whole answer; the weight is 1 at w = 1 and has no gradient.
  """
  log_w = jnp.clip(rollout.log_ratio.sum(-1, keepdims=True), *LOG_WEIGHT)
  rho, negative = jnp.exp(log_w), rollout.advantage < 0
  k, slope = (jnp.where(negative, x[1], x[0]) for x in (power, decay))
  weight = jax.lax.stop_gradient(jnp.exp(k * log_w + slope * (1 - rho)))
  return Surrogate(-weight * rollout.advantage * rollout.logp, rho, {})


def reinforce(rollout: Rollout) -> Surrogate:
  """REINFORCE (Williams, 1992): -advantage logp, whoever sampled."""
  return Surrogate(-rollout.advantage * rollout.logp, ratios.ratio(rollout, 'token'), {})


KINDS: dict[str, Callable[..., Surrogate]] = {
  kind.__name__: kind for kind in (ratios.clip, cispo, sapo, vespo, reinforce)
}


def _check(*, kind: str, aggregation: str, **o: Any) -> None:
  """Rules between options."""
  ratios.check_clip(**o)
  if o['max_length'] is not None and aggregation != 'constant':
    raise BadInput(
      f'loss: aggregation {aggregation!r} does not use max_length; remove it, or choose constant'
    )
  for name in ('kl_estimator', 'kl_clamp', 'kl_importance'):
    if o[name] and not o['kl_weight']:
      raise BadInput(f'loss: {name} is not used without kl_weight')
  for name, used in (('kl_importance', 'ratio_level' in o), ('importance_cap', kind != 'vespo')):
    if o[name] and not used:
      raise BadInput(f'loss: kind {kind!r} does not use {name}; remove it')


@kinds(KINDS, _check)
def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Model,
  kind: Any = 'clip',
  aggregation: Aggregation = 'token_mean',
  max_length: Count | None = None,
  importance_cap: Positive | None = None,
  kl_weight: NotNegative = 0.0,
  kl_estimator: ratios.Estimator | None = None,
  kl_clamp: Positive | None = None,
  kl_importance: bool = False,
  entropy_weight: NotNegative = 0.0,
  temperature: Positive = 1.0,
) -> tuple[Mean, Metrics]:
  """-advantage times what stands for the log-probability, over the tokens that were sampled.

  Answers without a token in `mask`, and those whose reward is not `valid`, do not count.

  Args:
    params: of the model.
    batch: what `ratios.read` reads.
    rng: unused.
    model: a Transformer.
    kind: what stands for the log-probability; each function says what it is.
    ratio_level: 'token': each token has a ratio to the policy that sampled. 'sequence': an answer
      has one, the geometric mean (GSPO). 'sequence_sum': an answer has their product (RLOO).
    log_ratio_clamp: largest size of a ratio's logarithm; verl and OpenRLHF use 20.
    clip_low: a ratio below 1 - clip_low is not pushed further down.
    clip_high: a ratio above 1 + clip_high is not pushed further up.
    clip_dual: where the advantage is negative, a ratio above it has no gradient (dual clip,
      arXiv:1912.09729, eq. 5; TRL's delta), 3 is usual.
    ratio_cap: largest weight that a ratio becomes.
    tau: how steeply the sigmoid flattens, for positive advantages and for the others.
    power, decay: of the weight w^power exp(decay (1 - w)), for advantages from 0 and for others.
    aggregation: 'token_mean': all tokens weigh the same (DAPO). 'sequence_mean': all answers do,
      each being the mean of its own tokens (GRPO). 'sequence_sum': the mean over answers of sums
      over their tokens. 'constant': these sums divided by `max_length` (Dr. GRPO).
    max_length: of an answer, in tokens; by default the columns that `prompt` leaves in a row.
    importance_cap: weigh each token by min(p_old / p_sampled, importance_cap), without a gradient;
      2 is usual. Not for vespo.
    kl_weight: of the divergence from the reference, added to each token; needs `ref_logp`.
    kl_estimator: of the divergence from one sample, see `ratios.kl`; 'k3' by default, as in GRPO.
    kl_clamp: largest size of an estimate.
    kl_importance: multiply the estimate by the ratio, gradient included, which makes the gradient
      that of the divergence (DeepSeek-V3.2, arXiv:2512.02556, eq. 7). For clip, cispo and sapo.
    entropy_weight: of the entropy, subtracted from each token.
    temperature: logits are divided by it; that of the sampler and of the annotators.

  Raises:
    BadInput: an option is wrong, or the batch lacks a field.
  """
  del rng
  rollout = ratios.read(model, params, batch, temperature)
  surrogate = kind(rollout)
  loss_BGL = surrogate.loss
  if importance_cap is not None:
    loss_BGL *= ratios.importance(rollout, importance_cap)
  if kl_weight:
    apart_BGL = jnp.where(rollout.target > 0, rollout.logp - field(batch, 'ref_logp'), 0)
    kl_BGL = ratios.kl(apart_BGL, kl_estimator or 'k3', kl_clamp)
    loss_BGL += kl_weight * kl_BGL * (surrogate.ratio if kl_importance else 1)
  if entropy_weight:
    loss_BGL -= entropy_weight * rollout.entropy
  longest = max_length or (_columns(batch) if aggregation == 'constant' else 1)
  mean = ratios.aggregate(loss_BGL, rollout.target, aggregation, longest)
  return mean, ratios.policy_metrics(rollout, surrogate)


def _columns(batch: Batch) -> int:
  """How many tokens an answer can have beside its prompt."""
  if 'prompt' not in batch:
    raise BadInput('loss: aggregation constant needs the longest answer; set max_length')
  return batch['tokens'].shape[-1] - batch['prompt'].shape[-1]


READS = lambda o: (
  *('tokens', 'mask', 'advantage', *['ref_logp'] * (o['kl_weight'] > 0)),
  *['prompt'] * (o['aggregation'] == 'constant' and o['max_length'] is None),
  *['sampled_logp'] * (o['importance_cap'] is not None),
)
# The loss of each method; its advantages are made by annotators.
PRESETS: dict[str, dict[str, Any]] = {
  'grpo': dict(aggregation='sequence_mean'),
  'dr_grpo': dict(aggregation='constant'),  # arXiv:2503.20783
  'dapo': dict(aggregation='token_mean', clip_low=0.2, clip_high=0.28),  # arXiv:2503.14476
  'bnpo': dict(aggregation='token_mean'),  # TRL, where the mean belongs to a microbatch
  'gspo': dict(aggregation='sequence_mean', ratio_level='sequence', clip_low=3e-4, clip_high=4e-4),
  'luspo': dict(aggregation='sequence_sum', ratio_level='sequence'),  # arXiv:2602.05261
  'cispo': dict(kind='cispo', aggregation='token_mean', ratio_cap=5.0),
  'sapo': dict(kind='sapo', aggregation='sequence_mean'),
  'vespo': dict(kind='vespo', aggregation='token_mean'),
  'rloo': dict(aggregation='sequence_mean', ratio_level='sequence_sum'),
  'reinforce': dict(kind='reinforce', aggregation='sequence_sum'),
  'reinforce_plus_plus': dict(aggregation='token_mean'),  # arXiv:2501.03262
}

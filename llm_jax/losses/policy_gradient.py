"""Policy gradients over groups of sampled answers: GRPO (arXiv:2402.03300) and its relatives."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.losses import answers, ratios
from llm_jax.losses.answers import between, one_of, per_token, reference
from llm_jax.losses.ratios import Rollout, Surrogate
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Params

AGGREGATIONS = ('token_mean', 'sequence_mean', 'sequence_sum', 'constant')
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
LOG_WEIGHT = (math.log(1e-8), 20.0)  # the range in which VESPO's authors keep log w


def cispo(
  rollout: Rollout,
  *,
  ratio_level: str = 'token',
  log_ratio_clamp: float | None = None,
  ratio_cap: float = 5.0,
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
  ratio_level: str = 'token',
  log_ratio_clamp: float | None = None,
  tau: Sequence[float] = (1.0, 1.05),
) -> Surrogate:
  """SAPO (arXiv:2511.20347): a sigmoid around ratio 1, of the same slope there, instead of a clip.

  `tau` says how steeply it flattens, for positive advantages and for the others.
  """
  rho = ratios.ratio(rollout, ratio_level, log_ratio_clamp)
  sharp = jnp.where(rollout.advantage > 0, tau[0], tau[1])
  gate = jax.nn.sigmoid(sharp * (rho - 1)) * 4 / sharp
  return Surrogate(-gate * rollout.advantage, rho, {})


def vespo(
  rollout: Rollout,
  *,
  power: Sequence[float] = (2.0, 3.0),
  decay: Sequence[float] = (3.0, 2.0),
) -> Surrogate:
  """VESPO (arXiv:2602.10693): -advantage logp, weighted by w^power exp(decay (1 - w)).

  w is the ratio of the whole answer; the weight is 1 at w = 1 and has no gradient. `power` and
  `decay` are for advantages that are not negative, and for negative ones.
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


def check(
  *,
  kind: str = 'clip',
  aggregation: str = 'token_mean',
  max_length: int | None = None,
  ratio_level: str | None = None,
  log_ratio_clamp: float | None = None,
  clip_low: float | None = None,
  clip_high: float | None = None,
  clip_dual: float | None = None,
  ratio_cap: float | None = None,
  tau: Sequence[float] | None = None,
  power: Sequence[float] | None = None,
  decay: Sequence[float] | None = None,
  importance_cap: float | None = None,
  kl_weight: float = 0.0,
  kl_estimator: str | None = None,
  kl_clamp: float | None = None,
  kl_importance: bool = False,
  entropy_weight: float = 0.0,
  temperature: float = 1.0,
) -> dict[str, Any]:
  """The keyword arguments of the kind.

  Raises:
    BadInput: hyperparameters of `loss_fn` out of range, that do not go together, or unused.
  """
  options = answers.settle(
    KINDS,
    kind,
    ratio_level=ratio_level,
    log_ratio_clamp=log_ratio_clamp,
    clip_low=clip_low,
    clip_high=clip_high,
    clip_dual=clip_dual,
    ratio_cap=ratio_cap,
    tau=tau,
    power=power,
    decay=decay,
  )
  one_of('aggregation', aggregation, AGGREGATIONS)
  one_of('ratio_level', ratio_level, ratios.LEVELS)
  one_of('kl_estimator', kl_estimator, ratios.ESTIMATORS)
  ratios.check_clip(clip_low, clip_high, clip_dual, log_ratio_clamp)
  for name, value in dict(
    max_length=max_length,
    ratio_cap=ratio_cap,
    importance_cap=importance_cap,
    kl_clamp=kl_clamp,
    temperature=temperature,
  ).items():
    between(name, value, 0, math.inf, open_ends=True)
  between('kl_weight', kl_weight, 0, math.inf)
  between('entropy_weight', entropy_weight, 0, math.inf)
  for name, pair in dict(tau=tau, power=power, decay=decay).items():
    if pair is not None and not (len(pair) == 2 and min(pair) > 0):
      raise BadInput(
        f'loss: {name} {tuple(pair)}; give two numbers above 0, for positive and for negative '
        'advantages'
      )
  if max_length is not None and aggregation != 'constant':
    raise BadInput(
      f'loss: aggregation {aggregation!r} does not use max_length; remove it, or choose constant'
    )
  for given, name in (
    (kl_estimator is not None, 'kl_estimator'),
    (kl_clamp is not None, 'kl_clamp'),
    (kl_importance, 'kl_importance'),
  ):
    if given and not kl_weight:
      raise BadInput(f'loss: {name} is not used without kl_weight')
  if kl_importance and 'ratio_level' not in options:
    raise BadInput(f'loss: kind {kind!r} does not use kl_importance; remove it')
  if importance_cap is not None and kind == 'vespo':
    raise BadInput("loss: kind 'vespo' does not use importance_cap; remove it")
  return options


def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Any,
  kind: str = 'clip',
  aggregation: str = 'token_mean',
  max_length: int | None = None,
  ratio_level: str | None = None,
  log_ratio_clamp: float | None = None,
  clip_low: float | None = None,
  clip_high: float | None = None,
  clip_dual: float | None = None,
  ratio_cap: float | None = None,
  tau: Sequence[float] | None = None,
  power: Sequence[float] | None = None,
  decay: Sequence[float] | None = None,
  importance_cap: float | None = None,
  kl_weight: float = 0.0,
  kl_estimator: str | None = None,
  kl_clamp: float | None = None,
  kl_importance: bool = False,
  entropy_weight: float = 0.0,
  temperature: float = 1.0,
) -> tuple[Mean, Metrics]:
  """-advantage times what stands for the log-probability, over the tokens that were sampled.

  Options that are None take the default of the kind's function, and what a kind does not name is
  an error. Answers without a token in `mask`, and those whose reward is not `valid`, do not count.

  Args:
    params: of the model.
    batch: `tokens`, `mask`, `advantage` [B, G, L], optionally `segment`, `position`, `old_logp`
      (without it the policy is taken to be the one that sampled), `sampled_logp`, `ref_logp`
      [B, G, L], and `valid` [B, G].
    rng: unused.
    model: a Transformer.
    kind: a name in `KINDS`; each function says what it is.
    aggregation: 'token_mean': all tokens weigh the same (DAPO). 'sequence_mean': all answers do,
      each being the mean of its own tokens (GRPO). 'sequence_sum': the mean over answers of sums
      over their tokens. 'constant': these sums divided by `max_length` (Dr. GRPO).
    max_length: of an answer, in tokens; default: the columns that `prompt` leaves in a row.
    ratio_level: see `ratios.ratio`; 'token' by default (clip, cispo, sapo).
    log_ratio_clamp: see `ratios.ratio`; verl and OpenRLHF use 20 (clip, cispo, sapo).
    clip_low: a ratio below 1 - clip_low is not pushed further down; default 0.2 (clip).
    clip_high: a ratio above 1 + clip_high is not pushed further up; default 0.2 (clip).
    clip_dual: where the advantage is negative, a ratio above it has no gradient (dual clip,
      arXiv:1912.09729, eq. 5; TRL's delta), 3 is usual (clip).
    ratio_cap: see `cispo`.
    tau: see `sapo`.
    power: see `vespo`.
    decay: see `vespo`.
    importance_cap: weigh each token by min(p_old / p_sampled, importance_cap), without a gradient;
      2 is usual. Not for vespo.
    kl_weight: of the divergence from the reference, added to each token; needs `ref_logp`.
    kl_estimator: see `ratios.kl`; default 'k3', as in GRPO.
    kl_clamp: see `ratios.kl`.
    kl_importance: multiply the estimate by the ratio, gradient included, which makes the gradient
      that of the divergence (DeepSeek-V3.2, arXiv:2512.02556, eq. 7) (clip, cispo, sapo).
    entropy_weight: of the entropy, subtracted from each token.
    temperature: logits are divided by it; that of the sampler and of the annotators.

  Raises:
    BadInput: see `check`; or the batch lacks a field.
  """
  del rng
  options = check(
    kind=kind,
    aggregation=aggregation,
    max_length=max_length,
    ratio_level=ratio_level,
    log_ratio_clamp=log_ratio_clamp,
    clip_low=clip_low,
    clip_high=clip_high,
    clip_dual=clip_dual,
    ratio_cap=ratio_cap,
    tau=tau,
    power=power,
    decay=decay,
    importance_cap=importance_cap,
    kl_weight=kl_weight,
    kl_estimator=kl_estimator,
    kl_clamp=kl_clamp,
    kl_importance=kl_importance,
    entropy_weight=entropy_weight,
    temperature=temperature,
  )
  rollout = ratios.read(model, params, batch, temperature)
  surrogate = KINDS[kind](rollout, **options)
  loss_BGL = surrogate.loss
  if importance_cap is not None:
    loss_BGL *= ratios.importance(rollout, importance_cap)
  if kl_weight:
    apart_BGL = jnp.where(rollout.target > 0, rollout.logp - reference(batch), 0)
    kl_BGL = ratios.kl(apart_BGL, kl_estimator or 'k3', kl_clamp)
    loss_BGL += kl_weight * kl_BGL * (surrogate.ratio if kl_importance else 1)
  if entropy_weight:
    loss_BGL -= entropy_weight * rollout.entropy
  longest = 1
  if aggregation == 'constant':
    longest = _columns(batch) if max_length is None else max_length
  return (
    aggregate(loss_BGL, rollout.target, aggregation, longest),
    ratios.policy_metrics(rollout, surrogate),
  )


def aggregate(loss_BGL: Array, target_BGL: Array, aggregation: str, longest: int) -> Mean:
  """The mean of a loss over tokens, or over answers with a target and `longest` places each."""
  if aggregation == 'token_mean':
    return Mean.of(loss_BGL, target_BGL)
  sum_BG, length_BG = (loss_BGL * target_BGL).sum(-1), target_BGL.sum(-1)
  if aggregation == 'sequence_mean':
    return Mean.of(per_token(sum_BG, length_BG), length_BG > 0)
  mean = Mean.of(sum_BG, length_BG > 0)
  return Mean(mean.total, mean.count * longest)


def _columns(batch: Batch) -> int:
  """How many tokens an answer can have beside its prompt."""
  if 'prompt' not in batch:
    raise BadInput(
      "loss: aggregation 'constant' needs the length of the longest answer; set max_length"
    )
  return batch['tokens'].shape[-1] - batch['prompt'].shape[-1]

"""Direct preference optimisation (arXiv:2305.18290, eq. 7) and the losses that grew from it."""

import math
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.losses import answers
from llm_jax.losses.answers import MAX_EXPONENT, Average, Smoothing, field, per_token, smooth
from llm_jax.losses.logprobs import read_blocks, read_scores
from llm_jax.options import NotNegative, Positive, Share, above, at_least, kinds
from llm_jax.types import Array, BadInput, Batch, Mean, Metrics, Model, Params

NotZero = Annotated[float, above(0, up_to=0.5)]
NotHalf = Annotated[float, at_least(0, below=0.5)]
log_sigmoid = jax.nn.log_sigmoid
sigmoid_of = jax.nn.sigmoid


class Pairs(NamedTuple):
  """What a kind may ask of B pairs, float32 [2, B] each: the chosen answers, then the rejected."""

  logp: Array  # log p(answer), a sum over tokens
  ref: Array  # the same under the reference
  f: Array  # logp - ref, or what another divergence makes of it
  length: Array  # in tokens
  real: Array  # bool [B]: which pairs count

  @property
  def ratio(self) -> Array:
    return self.logp - self.ref

  @property
  def h(self) -> Array:
    return self.f[0] - self.f[1]

  @property
  def h_per_token(self) -> Array:
    return per_token(self.f[0], self.length[0]) - per_token(self.f[1], self.length[1])


def sigmoid(p: Pairs, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.0) -> Array:
  """DPO; with label_smoothing, the chance that a label is wrong, conservative DPO (cDPO)."""
  return smooth(beta * p.h, label_smoothing)


def sigmoid_norm(p: Pairs, *, beta: Positive = 5.0) -> Array:
  """DPO on log-ratios per token (Tulu 3, arXiv:2411.15124); beta is larger accordingly."""
  return -log_sigmoid(beta * p.h_per_token)


def hinge(p: Pairs, *, beta: Positive = 0.1) -> Array:
  """The hinge of SLiC (arXiv:2305.10425) on DPO's margin, as in RSO (arXiv:2309.06657)."""
  return jax.nn.relu(1 - beta * p.h)


def ipo(p: Pairs, *, beta: Positive = 0.1, average: Literal['mean', 'sum'] = 'mean') -> Array:
  """IPO (arXiv:2310.12036, eq. 17), on log-ratios per token (its authors, TRL) or their sums."""
  return ((p.h_per_token if average == 'mean' else p.h) - 1 / (2 * beta)) ** 2


def exo_pair(p: Pairs, *, beta: Positive = 0.1, label_smoothing: NotZero = 1e-3) -> Array:
  """EXO on pairs (arXiv:2402.00856, eq. 16): reverse KL to the smoothed label."""
  h = beta * p.h
  right = sigmoid_of(h) * (log_sigmoid(h) - math.log1p(-label_smoothing))
  return right + sigmoid_of(-h) * (log_sigmoid(-h) - math.log(label_smoothing))


def nca_pair(p: Pairs, *, beta: Positive = 0.1) -> Array:
  """Noise contrastive alignment on pairs (arXiv:2402.05369)."""
  chosen, rejected = beta * p.ratio
  return -log_sigmoid(chosen) - 0.5 * (log_sigmoid(-chosen) + log_sigmoid(-rejected))


def robust(p: Pairs, *, beta: Positive = 0.1, label_smoothing: NotHalf = 0.0) -> Array:
  """Robust DPO (arXiv:2403.00409): unbiased when that share of the labels is flipped."""
  h, e = beta * p.h, label_smoothing
  return (-(1 - e) * log_sigmoid(h) + e * log_sigmoid(-h)) / (1 - 2 * e)


def bco_pair(p: Pairs, *, beta: Positive = 0.1, shift: Literal['none', 'mean'] = 'none') -> Array:
  """Binary classifier optimisation (arXiv:2404.04656).

  The paper subtracts a running mean of the rewards. `shift` 'mean' takes the mean of the batch
  instead, which needs no state and belongs to a microbatch, without a gradient; 'none' is TRL's.
  """
  chosen, rejected = beta * p.ratio
  delta = jnp.zeros(())
  if shift == 'mean':
    delta = jax.lax.stop_gradient(Mean.of((chosen + rejected) / 2, p.real).value)
  return -log_sigmoid(chosen - delta) - log_sigmoid(delta - rejected)


def sppo_hard(p: Pairs, *, beta: Positive = 0.1) -> Array:
  """Self-play preference optimisation (arXiv:2405.00675, eq. 4.7), winning with probability 1."""
  return (p.ratio[0] - 0.5 / beta) ** 2 + (p.ratio[1] + 0.5 / beta) ** 2


def aot(p: Pairs, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.0) -> Array:
  """Alignment by optimal transport (arXiv:2406.05882, paired): sorted policy and reference margins.

  The sort is over the rows of a microbatch, so the loss depends on their number.
  """
  policy, reference = p.logp[0] - p.logp[1], p.ref[0] - p.ref[1]
  return smooth(beta * (policy - _of_same_rank(reference, policy, p.real)), label_smoothing)


def aot_unpaired(p: Pairs, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.0) -> Array:
  """AOT with the chosen log-ratios sorted against the rejected ones; see `aot`."""
  h = p.ratio[0] - _of_same_rank(p.ratio[1], p.ratio[0], p.real)
  return smooth(beta * h, label_smoothing)


def apo_zero(p: Pairs, *, beta: Positive = 0.1) -> Array:
  """APO-zero (arXiv:2408.06266, eq. 7), for chosen answers better than the model's own."""
  return sigmoid_of(-beta * p.ratio[0]) + sigmoid_of(beta * p.ratio[1])


def apo_down(p: Pairs, *, beta: Positive = 0.1) -> Array:
  """APO-down (arXiv:2408.06266, eq. 8), for chosen answers worse than the model's own."""
  return sigmoid_of(beta * p.ratio[0]) + sigmoid_of(-beta * (p.ratio[0] - p.ratio[1]))


def discopop(p: Pairs, *, beta: Positive = 0.1, tau: Positive = 0.05) -> Array:
  """DiscoPOP (arXiv:2406.08414, eq. 5): logistic and exponential loss, blended by the margin."""
  h = beta * p.h
  blend = sigmoid_of(h / tau)
  return -log_sigmoid(h) * (1 - blend) + jnp.exp(jnp.minimum(-h, MAX_EXPONENT)) * blend


def sft(p: Pairs) -> Array:
  """-log p of the chosen answer, over which `loss_fn` averages by token."""
  return -p.logp[0]


KINDS = {f.__name__: f for f in (sigmoid, sigmoid_norm, hinge, ipo, exo_pair, nca_pair, robust)}
KINDS |= {f.__name__: f for f in (bco_pair, sppo_hard, aot, aot_unpaired, apo_zero, apo_down)}
KINDS |= {f.__name__: f for f in (discopop, sft)}
# Kinds that see the log-ratios only through h, where an f-divergence may take the place of the KL.
THROUGH_H = ('sigmoid', 'sigmoid_norm', 'hinge', 'ipo', 'exo_pair', 'robust', 'discopop')


def _check(*, kind: str, f_divergence: str | None, alpha: float | None, **o: Any) -> None:
  """Rules between options."""
  answers.check_nll(**o)
  if f_divergence is not None and kind not in THROUGH_H:
    use = ', '.join(THROUGH_H)
    raise BadInput(f'loss: kind {kind!r} does not use f_divergence; these do: {use}')
  if alpha is not None and f_divergence != 'alpha':
    raise BadInput('loss: alpha is not used; set f_divergence to alpha, or remove it')
  if alpha == 1:
    raise BadInput('loss: at alpha 1 the divergence is the reverse KL; set f_divergence to that')
  unused = {'sft': ('reference_free', 'ld_alpha', 'nll_weight', 'wpo')}
  for name in unused.get(kind, ('wpo',) if kind in ('aot', 'aot_unpaired') else ()):
    if o[name] not in (None, False, 0):
      raise BadInput(f'loss: kind {kind!r} does not use {name}; remove it')


@kinds(KINDS, _check)
def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Model,
  kind: Any = 'sigmoid',
  f_divergence: Literal['reverse_kl', 'forward_kl', 'js', 'alpha'] | None = None,
  alpha: NotNegative | None = None,
  reference_free: bool = False,
  ld_alpha: Share | None = None,
  wpo: bool = False,
  nll_weight: NotNegative = 0.0,
  nll_average: Average | None = None,
) -> tuple[Mean, Metrics]:
  """A loss of preference pairs relative to a frozen reference, averaged over pairs.

  Args:
    params: of the model.
    batch: `tokens`, `mask`, `segment`, `position`, `ref_logp` [B, 2, L], the chosen answer first; a
      pair of which an answer has no target does not count.
    rng: unused.
    model: a Transformer.
    kind: how the loss is made of the log-ratios; each function says what it is.
    beta: how dear it is to leave the reference; rewards are beta (logp - ref_logp).
    label_smoothing: the assumed share of wrong labels.
    average: 'mean' or 'sum' of log-ratios over tokens.
    shift: what is subtracted from the rewards; 'mean' is that of the batch.
    tau: temperature of the blend of the logistic and the exponential loss.
    f_divergence: the divergence from the reference (arXiv:2309.16240), whose derivative takes the
      place of the log-ratio; 'reverse_kl' by default.
    alpha: of the alpha divergence; 0.5 by default.
    reference_free: compare with a uniform reference; `ref_logp` is not read.
    ld_alpha: weight of the tokens beyond the length that both answers reach, which takes away what
      is won by length alone (LD-DPO, arXiv:2409.06411); 1 is plain DPO.
    wpo: weigh pairs by how likely the policy is to write them (WPO, arXiv:2406.11827, eq. 2
      with sampled alignment), without a gradient.
    nll_weight: weight of an added -log p per token of the chosen answer (RPO, arXiv:2404.19733).
    nll_average: 'sequence' (default): each answer's mean, so all pairs weigh the same. 'token': one
      mean over the tokens of the (micro)batch, as Hugging Face trainers do.

  Raises:
    BadInput: an option is wrong, or the batch lacks `ref_logp`, or is not pairs.
  """
  del rng
  pair_B, target_BGL = answers.pairs(batch)
  length_BG = target_BGL.sum(-1)
  out = read_blocks(model, params, batch, _read_with_alignment if wpo else read_scores)
  logp_BGL, entropy_BGL = out[0], out[2]
  ref_BGL = None if reference_free else field(batch, 'ref_logp')
  weight_BGL = target_BGL if ld_alpha is None else target_BGL * _shared(target_BGL, ld_alpha)
  logp_BG = (logp_BGL * weight_BGL).sum(-1)
  ref_BG = jnp.zeros_like(logp_BG) if ref_BGL is None else (ref_BGL * weight_BGL).sum(-1)
  f_BG = _derivative(logp_BG - ref_BG, f_divergence, 0.5 if alpha is None else alpha)
  loss_B = kind(Pairs(logp_BG.T, ref_BG.T, f_BG.T, length_BG.T, pair_B))
  if wpo:
    loss_B *= jnp.exp(per_token((out[3] * target_BGL).sum(-1), length_BG).sum(-1))
  if nll_weight:
    nll_B = answers.nll(logp_BGL[:, 0], target_BGL[:, 0], nll_average or 'sequence')
    loss_B += nll_weight * nll_B
  count = length_BG[:, 0] if kind.func is sft else pair_B
  reward_BG = kind.keywords.get('beta', 1.0) * (logp_BG - ref_BG)
  mean = Mean(Mean.of(loss_B, pair_B).total, count.sum().astype(jnp.float32))
  return mean, answers.pair_metrics(logp_BGL, entropy_BGL, reward_BG, pair_B, target_BGL, ref_BGL)


def _of_same_rank(values_B: Array, like_B: Array, real_B: Array) -> Array:
  """For each of `like_B`, the one of `values_B` that has the same rank among the real pairs."""
  last = lambda x_B: jnp.where(real_B, x_B, jnp.inf)
  rank_B = jnp.argsort(jnp.argsort(last(like_B)))
  return jnp.where(real_B, values_B[jnp.argsort(last(values_B))][rank_B], 0)


def _derivative(ratio: Array, f_divergence: str | None, alpha: float) -> Array:
  """f'(u) of u = exp(ratio), with its constants: under lengths, as in ipo, they do not cancel."""
  if f_divergence == 'forward_kl':
    return 1 - jnp.exp(jnp.minimum(-ratio, MAX_EXPONENT))
  if f_divergence == 'js':
    return math.log(2) + log_sigmoid(ratio)
  if f_divergence == 'alpha':
    return (jnp.exp(jnp.minimum((alpha - 1) * ratio, MAX_EXPONENT)) - 1) / (alpha - 1)
  return ratio


def _shared(target_BGL: Array, ld_alpha: float) -> Array:
  """1 on the first tokens of each answer, as many as the shorter has, and `ld_alpha` beyond."""
  shared_B = target_BGL.sum(-1).min(-1)
  return jnp.where(target_BGL.cumsum(-1) <= shared_B[:, None, None], 1, ld_alpha)


def _read_with_alignment(logits_V: Array, target: Array) -> tuple[Array, ...]:
  """Scores, and log p(token) less what a sample of the policy would expect of it."""
  out = read_scores(logits_V, target)
  collision = jax.nn.logsumexp(2 * logits_V, axis=-1) - 2 * out.logsumexp  # log sum_v p_v^2
  return *out, jax.lax.stop_gradient(out.logp - collision)


READS = lambda o: ('tokens', 'mask', *(() if o['reference_free'] else ('ref_logp',)))
# A preset is a library and the kind for which its convention is known.
PRESETS: dict[str, dict[str, Any]] = {
  'trl': dict(kind='sigmoid', beta=0.1),
  'trl_ipo': dict(kind='ipo', beta=0.1, average='mean'),
  'openrlhf': dict(kind='sigmoid', beta=0.1),
  'openrlhf_ipo': dict(kind='ipo', beta=0.1, average='sum'),
  'open_instruct': dict(kind='sigmoid_norm', beta=5.0),
}

"""Next-token (or masked-token) cross-entropy, with the z-loss of PaLM, arXiv:2204.02311, sec. 5."""

from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.losses.answers import token_metrics
from llm_jax.losses.logprobs import scores
from llm_jax.options import NotNegative, checked
from llm_jax.types import Array, Batch, Mean, Metrics, Model, Params

READS = ('tokens', 'mask')


@checked()
def loss_fn(
  params: Params,
  batch: Batch,
  rng: Array,
  *,
  model: Model,
  z_loss: NotNegative = 0.0,
  average: Literal['token', 'sequence'] = 'token',
  dft: bool = False,
  diagnostics: bool = False,
) -> tuple[Mean, Metrics]:
  """-log p(token), in nats, averaged over the tokens whose `mask` is 1.

  Args:
    params: of the model.
    batch: `tokens`, `mask` [..., L], optionally `position`, `segment`, `target`.
    rng: unused.
    model: a Transformer.
    z_loss: weight of logsumexp(logits)^2, which keeps logits from drifting; PaLM used 1e-4.
    average: 'token': all tokens weigh the same. 'sequence': all segments with a target do, each
      being the mean of its own tokens; a document that packing has cut counts for each part.
    dft: weigh each token by its probability, without a gradient (arXiv:2508.05629, eq. 9), so
      that what the model finds absurd does not dominate.
    diagnostics: log `entropy`, `response_length` and `trained_tokens` too. Entropy is one more pass
      over the logits, 2 to 4 % of a step at dim 128 and 4096 words.

  Raises:
    BadInput: an option is wrong.
  """
  del rng
  out, mask = scores(model, params, batch), batch['mask']
  plain = Mean.of(-out.logp, mask)
  metrics: Metrics = {}
  if diagnostics:
    metrics |= token_metrics(out.logp, out.entropy, mask.astype(jnp.float32))
  if not (z_loss or dft or average != 'token'):
    return plain, metrics
  metrics['cross_entropy'] = plain
  weight, count = mask, plain.count
  if average == 'sequence':
    weight, count = _by_segment(mask, batch.get('segment'))
  term = -out.logp
  if dft:
    term *= jnp.exp(jax.lax.stop_gradient(out.logp))
  if z_loss:
    metrics['z_loss'] = Mean(Mean.of(out.logsumexp**2, weight).total, count)
    term += z_loss * out.logsumexp**2
  return Mean(Mean.of(term, weight).total, count), metrics


def _by_segment(mask: Array, segment: Array | None) -> tuple[Array, Array]:
  """Weights [..., L] that add up to 1 in each segment with a target, and how many of those."""
  mask = mask.astype(jnp.float32)
  length = mask.shape[-1]
  mask_BL = mask.reshape(-1, length)
  segment_BL = jnp.ones_like(mask_BL, int) if segment is None else segment.reshape(-1, length)

  def row(mask_L: Array, segment_L: Array) -> tuple[Array, Array]:
    targets = jax.ops.segment_sum(mask_L, segment_L, length + 1)  # of each segment; 0 is padding
    return mask_L / jnp.where(targets > 0, targets, 1)[segment_L], (targets > 0).sum()

  weight_BL, segments_B = jax.vmap(row)(mask_BL, segment_BL)
  return weight_BL.reshape(mask.shape), segments_B.sum().astype(jnp.float32)

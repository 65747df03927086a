"""Next-token (or masked-token) cross-entropy, with the z-loss of PaLM, arXiv:2204.02311, sec. 5."""

from typing import Any

from llm_jax.losses.logprobs import scores
from llm_jax.types import Array, Batch, Mean, Metrics, Params


def loss_fn(
  params: Params, batch: Batch, rng: Array, *, model: Any, z_loss: float = 0.0
) -> tuple[Mean, Metrics]:
  """-log p(token), in nats, averaged over the tokens whose `mask` is 1.

  Args:
    params: of the model.
    batch: `tokens`, `mask` [..., L], optionally `position`, `segment`, `target`.
    rng: unused.
    model: a Transformer.
    z_loss: weight of logsumexp(logits)^2, which keeps logits from drifting; PaLM used 1e-4.
  """
  del rng
  out, mask = scores(model, params, batch), batch['mask']
  loss = Mean.of(-out.logp, mask)
  if not z_loss:
    return loss, {}
  penalty = Mean.of(out.logsumexp**2, mask)
  return Mean(loss.total + z_loss * penalty.total, loss.count), {
    'cross_entropy': loss,
    'z_loss': penalty,
  }

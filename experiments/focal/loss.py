"""Focal loss: turn away from tokens that are already well predicted, arXiv:1708.02002, eq. 4."""

import jax.numpy as jnp

from llm_jax.losses.logprobs import score
from llm_jax.types import Mean


def loss_fn(params, batch, rng, *, model, gamma=1.0):
  """-(1 - p)^gamma log p, in nats, averaged over the tokens whose `mask` is 1."""
  logp_BL = score(model, params, batch)
  focal_BL = -((1 - jnp.exp(logp_BL)) ** gamma) * logp_BL
  return Mean.of(focal_BL, batch['mask']), {'cross_entropy': Mean.of(-logp_BL, batch['mask'])}

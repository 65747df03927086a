"""How to pick the next token from logits: greedy, or sampled with temperature, top-k and top-p."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_jax.types import Array, BadInput

Pick = Callable[[Array, Array], tuple[Array, Array]]


def make(*, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Pick:
  """`pick(logits_BV, rng) -> (token_B, logp_B)`.

  The log-probability is of softmax(logits / temperature) *before* truncation: what a policy at
  this temperature assigns. Greedy reports it at temperature 1.

  Args:
    temperature: 0 is greedy.
    top_k: only the k most likely tokens.
    top_p: only the fewest tokens whose probabilities reach p (arXiv:1904.09751), at least one;
      after top_k.

  Raises:
    BadInput: a value outside its range.
  """
  if temperature < 0:
    raise BadInput(f'sampling: temperature {temperature} is negative; 0 is greedy')
  if top_k is not None and top_k < 1:
    raise BadInput(f'sampling: top_k {top_k}; use at least 1, or None for all tokens')
  if top_p is not None and not 0 < top_p <= 1:
    raise BadInput(f'sampling: top_p {top_p} is not in (0, 1]')

  def pick(logits_BV: Array, rng: Array) -> tuple[Array, Array]:
    logits_BV = logits_BV.astype(jnp.float32) / (temperature or 1.0)
    logp_BV = jax.nn.log_softmax(logits_BV)
    if temperature == 0:
      token_B = logits_BV.argmax(-1)
    else:
      token_B = jax.random.categorical(rng, truncate(logp_BV, top_k, top_p))
    return token_B, jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]

  return pick


def truncate(logp_BV: Array, top_k: int | None, top_p: float | None) -> Array:
  """-inf where top-k and top-p leave a token out; ties at the border stay in."""
  if top_k is not None and top_k < logp_BV.shape[-1]:
    worst_B1 = jax.lax.top_k(logp_BV, top_k)[0][:, -1:]
    logp_BV = jnp.where(logp_BV >= worst_B1, logp_BV, -jnp.inf)
  if top_p is not None and top_p < 1:
    falling_BV = -jnp.sort(-logp_BV, axis=-1)
    prob_BV = jax.nn.softmax(falling_BV)
    # A token stays if the mass before it is below p, so the first always stays.
    stays_BV = jnp.cumsum(prob_BV, axis=-1) - prob_BV < top_p
    worst_B1 = jnp.where(stays_BV, falling_BV, jnp.inf).min(-1, keepdims=True)
    logp_BV = jnp.where(logp_BV >= worst_B1, logp_BV, -jnp.inf)
  return logp_BV

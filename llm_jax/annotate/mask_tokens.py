"""Masked language modelling: hides tokens and asks for them back, arXiv:1810.04805, section 3.1."""

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.options import Share, checked
from llm_jax.types import Annotate, Array, BadInput, Batch, Model, Params, Tokenizer

READS = ('tokens', 'mask')
WRITES = ('tokens', 'mask', 'target')


@checked(where='annotate.mask_tokens')
def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  fraction: Share = 0.15,
  mask_share: Share = 0.8,
  random_share: Share = 0.1,
) -> Annotate:
  """Chooses `fraction` of the targets; of these most become `<|mask|>`, some a random token.

  Writes `tokens` (corrupted), `target` (what stood there) and `mask` (1 on the chosen ones). Which
  are chosen depends on the step, so every epoch hides others.

  Args:
    model: a Transformer with `causal=False`.
    tokenizer: gives the mask token.
    fraction: of the tokens with mask 1 that are chosen.
    mask_share: of the chosen that become `<|mask|>`.
    random_share: of the chosen that become a random token; the rest stay as they are.
  """
  if model.shape.causal:
    raise BadInput('annotate: mask_tokens needs model.causal=False; a causal model sees no mask')
  if mask_share + random_share > 1:
    raise BadInput('annotate: mask_tokens: mask_share + random_share exceed 1')
  mask_id = tokenizer.special('<|mask|>')
  ordinary = jnp.asarray(np.flatnonzero(tokenizer.token_bytes))  # ids that stand for some text

  @jax.jit
  def annotate(params: Params, batch: Batch, rng: Array) -> Batch:
    del params
    tokens, shape = batch['tokens'], batch['tokens'].shape
    pick_rng, how_rng, token_rng = jax.random.split(rng, 3)
    chosen = (jax.random.uniform(pick_rng, shape) < fraction) & (batch['mask'] > 0)
    how = jax.random.uniform(how_rng, shape)
    other = ordinary[jax.random.randint(token_rng, shape, 0, len(ordinary))]
    hidden = jnp.where(
      how < mask_share, mask_id, jnp.where(how < mask_share + random_share, other, tokens)
    )
    return {
      **batch,
      'tokens': jnp.where(chosen, hidden, tokens).astype(tokens.dtype),
      'target': tokens,
      'mask': chosen.astype(jnp.float32),
    }

  return annotate

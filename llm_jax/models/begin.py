"""Heads of the first layer that look at the token before, from the first update on.

To copy what stands further up, a model looks for the token that it is at, and takes the one after
it. This is an induction head, and it needs a head in a layer below that tells each token what stood
before it (Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021). Training finds
the two late, since neither is of any use without the other. So the lower one is given here: its
queries and keys are biases alone, turned by rotary positions so that their product is largest one
token back. Training is free to change it.
"""

from typing import Any

import jax.numpy as jnp

from llm_jax.models.layers import rotary, rotate
from llm_jax.models.shape import Shape
from llm_jax.types import Array

MARGIN = 8.0  # of the token before over its neighbours, in logits: e^8, so all of the weight


def previous_token_heads(blocks: Any, shape: Shape) -> Any:
  """Stacked parameters of fresh layers, the first of which has `shape.looking_back` such heads."""
  kind, count = shape.blocks[0], shape.looking_back

  def turned(x_E: Array, by: int) -> Array:
    angles = rotary(jnp.array([[by]]), shape.rope_dim, kind.rope_theta)
    return rotate(x_E[None, None, None], *angles)[0, 0, 0]

  # Each pair of numbers is one complex number, and starts as 1.
  ones_E = (jnp.arange(shape.head_dim) < shape.rope_dim // 2).astype(jnp.float32)
  gap = ones_E @ ones_E - ones_E @ turned(ones_E, 1)
  scale = shape.query_scale or shape.head_dim**-0.5
  key_E = ones_E * jnp.sqrt(MARGIN / (scale * gap))
  query_E = turned(key_E, -1)
  queries = count * shape.num_heads // shape.num_kv_heads  # those that read these keys
  attention = dict(blocks['attention'])
  for name, bias_E, heads in (('q', query_E, queries), ('k', key_E, count)):
    attention[name] = attention[name].at[0, :, :heads].set(0.0)
    attention[f'{name}_bias'] = attention[f'{name}_bias'].at[0, :heads].set(bias_E)
  return {**blocks, 'attention': attention}

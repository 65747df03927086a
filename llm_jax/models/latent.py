"""Latent attention (arXiv:2405.04434, sec. 2.1): keys and values of all heads from one vector.

A cache holds that vector and the turned part of the key, which all heads share, and no key or
value: queries are taken into its space instead, where they see one key head (sec. 2.1.2).
"""

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.models.attend import Attend
from llm_jax.models.attention import Angles, over_heads
from llm_jax.models.cache import Layer, Slots, read, write
from llm_jax.models.layers import Norm, fan_in, product, rotate, transposed
from llm_jax.models.weights import dense, parameter
from llm_jax.options import Count, at_least
from llm_jax.types import Array

EPS = 1e-6  # of the norms of latents, whatever that of the blocks


@dataclasses.dataclass(frozen=True)
class Latent:
  """Fields of `config.model.latent`; a head has `head_dim` numbers, of which the last are turned.

  Attributes:
    kv_rank: C, numbers from which keys and values are made.
    q_rank: numbers from which queries are made; 0: these are made from the residual stream.
    value_dim: U, numbers of a value of a head; default those of a key that are not turned.
  """

  kv_rank: Count
  q_rank: Annotated[int, at_least(0)] = 0
  value_dim: Annotated[int, at_least(0)] = 0


class LatentAttention(nn.Module):
  """Parameters q_a [D, Q], q_b [Q, H, E], kv_a [D, C + R], kv_b [C, H, E - R + U], o [H, U, D].

  R is `rope_dim`. Without a rank of queries there is one q [D, H, E].
  """

  num_heads: int
  head_dim: int
  rope_dim: int
  latent: Latent
  out_scale: float
  query_scale: float | None = None  # of scores; None: 1 / sqrt(E)
  product_dtype: str | None = None

  @nn.compact
  def __call__(
    self,
    x_BLD: Array,
    attend: Attend,
    angles: Angles | None,
    layer: Layer | None,
    slots: Slots | None,
  ) -> tuple[Array, Layer | None]:
    """As `Attention`; a layer of the cache has `k` [B, 1, S, C + R] alone."""
    dim, heads, size, turned = x_BLD.shape[-1], self.num_heads, self.head_dim, self.rope_dim
    rank, own = self.latent.kv_rank, size - turned  # numbers of a key that are its head's own
    multiply = lambda x, weight, axes=1: product(x, weight, axes, product_dtype=self.product_dtype)
    if short := self.latent.q_rank:
      x_BLQ = multiply(x_BLD, parameter(self, 'q_a', fan_in(dim), (dim, short)))
      x_BLQ = Norm('rms', EPS, name='q_a_norm')(x_BLQ)
      q_BLHE = multiply(x_BLQ, parameter(self, 'q_b', fan_in(short), (short, heads, size)))
    else:
      q_BLHE = multiply(x_BLD, parameter(self, 'q', fan_in(dim), (dim, heads, size)))
    both_BLC = multiply(x_BLD, parameter(self, 'kv_a', fan_in(dim), (dim, rank + turned)))
    latent_BLC = Norm('rms', EPS, name='kv_a_norm')(both_BLC[..., :rank])
    own_BLHE, q_BLHR, k_BL1R = q_BLHE[..., :own], q_BLHE[..., own:], both_BLC[:, :, None, rank:]
    if angles is not None:
      q_BLHR, k_BL1R = rotate(q_BLHR, *angles.new), rotate(k_BL1R, *angles.new)
    values = self.latent.value_dim or own
    kv_b_CHE = parameter(self, 'kv_b', fan_in(rank), (rank, heads, own + values))
    scale = size**-0.5 if self.query_scale is None else self.query_scale
    swap = lambda x: transposed(x, (0, 2, 1, 3), self.product_dtype)

    if layer is None or slots is None:
      kv_BLHE = multiply(latent_BLC, kv_b_CHE)
      k_BLHR = jnp.broadcast_to(k_BL1R, (*kv_BLHE.shape[:3], turned))
      k_BLHE = jnp.concatenate([kv_BLHE[..., :own], k_BLHR], axis=-1)
      q_BLHE = jnp.concatenate([own_BLHE, q_BLHR], axis=-1)
      # Backends know one size of heads, and divide by its root.
      wide = max(size, values)
      pad = lambda x: jnp.pad(x, ((0, 0),) * 3 + ((0, wide - x.shape[-1]),))
      parts = (q_BLHE * (scale * wide**0.5), k_BLHE, kv_BLHE[..., own:])
      out_BHLU = over_heads(attend, *(swap(pad(x)) for x in parts))[..., :values]
    else:
      kv_b_CHE = dense(kv_b_CHE, x_BLD.dtype)
      new_B1LC = jnp.concatenate([latent_BLC, k_BL1R[:, :, 0]], axis=-1)[:, None]
      layer = write(layer, new_B1LC, None, slots)
      k_B1SC, _ = read(layer, x_BLD.dtype)
      q_BLHC = jnp.einsum('BLHE,CHE->BLHC', own_BLHE, kv_b_CHE[..., :own])
      q_BLHC = jnp.concatenate([q_BLHC, q_BLHR], axis=-1)
      seen_BHLC = attend(swap(q_BLHC * (scale * (rank + turned) ** 0.5)), k_B1SC, k_B1SC)
      out_BHLU = jnp.einsum('BHLC,CHE->BHLE', seen_BHLC[..., :rank], kv_b_CHE[..., own:])
    init = fan_in(heads * values, self.out_scale)
    o_HUD = parameter(self, 'o', init, (heads, values, dim))
    return multiply(swap(out_BHLU), o_HUD, 2), layer


def weights_per_token(dim: int, heads: int, head_dim: int, rope_dim: int, latent: Latent) -> int:
  """How many weights a token is multiplied with."""
  own, short = head_dim - rope_dim, latent.q_rank
  values = latent.value_dim or own
  queries = short * (dim + heads * head_dim) if short else dim * heads * head_dim
  keys = dim * (latent.kv_rank + rope_dim) + latent.kv_rank * heads * (own + values)
  return queries + keys + heads * values * dim

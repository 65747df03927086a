"""The two ends of a Transformer: what makes vectors of tokens, and what reads the last of them."""

import flax.linen as nn
import jax.numpy as jnp

from llm_jax.models.begin import room
from llm_jax.models.layers import fan_in, product
from llm_jax.models.shape import EMBEDDING_STD, Shape
from llm_jax.models.weights import Table, parameter
from llm_jax.parallel.apart import apart
from llm_jax.parallel.mesh import constrain
from llm_jax.types import Array


class Embedding(nn.Module):
  """Token table [V, D] and, for learned positions, `position` [max_length, D]."""

  shape: Shape
  dtype: str

  def setup(self) -> None:
    s = self.shape
    plain = nn.initializers.normal(s.embedding_std)
    filled = jnp.arange(s.dim) < s.dim - room(s)  # the rest is for the token before
    init = lambda *args: jnp.where(filled, plain(*args), 0.0) if room(s) else plain(*args)
    self.table = parameter(self, 'table', init, (s.vocab_size, s.dim))
    if s.position == 'learned':
      of_position = nn.initializers.normal(EMBEDDING_STD)
      self.position = self.param('position', of_position, (s.max_length, s.dim))

  def __call__(self, tokens_BL: Array, position_BL: Array) -> Array:
    dtype = self.dtype
    # Whole rows on every device that looks them up: of a table cut along D, each would find a part
    # of all tokens, and have to exchange it.
    if isinstance(self.table, Table):
      x_BLD = self.table.take(tokens_BL, dtype)
    else:
      whole = lambda table, ids_BL: constrain(table['table'].astype(dtype), 'tensor', None)[ids_BL]
      table = {'table': jnp.asarray(self.table)}
      x_BLD = apart(whole, table, tokens_BL, under='embedding/', ahead=dtype)
    if (scale := self.shape.embedding_scale) is not None:
      x_BLD *= jnp.asarray(scale, dtype)
    if self.shape.position == 'learned':
      x_BLD += jnp.asarray(self.position)[position_BL].astype(dtype)
    return x_BLD


class Head(nn.Module):
  """What reads the last hidden state when it is not the embedding.

  `kernel` [D, V] of an untied head; `scalar` [D] and `bias` [] of a scalar one, which starts as
  N(0, 1/(D+1)) and 0 (arXiv:2009.01325, appendix); `classes` [D, C] of a classifier, which starts
  as N(0, 0.02^2) (arXiv:1810.04805) and has no bias, like those of Hugging Face.
  """

  shape: Shape
  product_dtype: str | None

  @nn.compact
  def __call__(self, hidden_BLD: Array) -> Array:
    s = self.shape
    if s.head == 'scalar':
      scalar_D = self.param('scalar', nn.initializers.normal((s.dim + 1) ** -0.5), (s.dim,))
      bias = self.param('bias', nn.initializers.zeros, ())
      return hidden_BLD.astype(jnp.float32) @ scalar_D + bias
    if s.head == 'classes':
      classes_DC = self.param('classes', nn.initializers.normal(0.02), (s.dim, s.outputs))
      return hidden_BLD.astype(jnp.float32) @ classes_DC
    kernel_DV = parameter(self, 'kernel', fan_in(s.dim), (s.dim, s.vocab_size))
    return product(hidden_BLD, kernel_DV, dtype=jnp.float32, product_dtype=self.product_dtype)

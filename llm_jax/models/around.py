"""A model around another one, whose shape, cache and cost it has, with parameters of its own."""

import abc
from typing import Any

from llm_jax.models.cache import Cache
from llm_jax.models.compute import Compute
from llm_jax.models.transformer import Transformer


class Around(abc.ABC):
  """It is used like the Transformer `inner`; a subclass says what differs.

  Every subclass has `init`, `apply`, `for_decoding` and `published` of its own, since these know
  its parameters.
  """

  frozen: tuple[str, ...] = ()

  @property
  @abc.abstractmethod
  def inner(self) -> Transformer:
    """The model that it is around."""

  @property
  def shape(self) -> Any:
    """That of the inner model."""
    return self.inner.shape

  @property
  def compute(self) -> Compute:
    """That of the inner model."""
    return self.inner.compute

  def backend(self, length: int) -> str:
    """That of the inner model."""
    return self.inner.backend(length)

  def make_cache(self, batch: int, slots: int) -> Cache:
    """As the inner model."""
    return self.inner.make_cache(batch, slots)

  def num_params(self) -> int:
    """As the inner model."""
    return self.inner.num_params()

  def flops_per_token(self, length: int) -> float:
    """As the inner model."""
    return self.inner.flops_per_token(length)

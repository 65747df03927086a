"""Rotary frequencies stretched for longer contexts: each kind by its public rule.

`config.model.rope_scaling` holds the fields of one kind, and its name as `kind`; without a name,
`factor` alone is 'linear', and with Llama 3.1's fields beside it 'llama3'.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from llm_jax.options import Count, Positive, check, suggest
from llm_jax.types import Array, BadInput


@dataclasses.dataclass(frozen=True)
class Linear:
  """All frequencies divided by `factor` (arXiv:2306.15595)."""

  factor: Positive
  moves: ClassVar[bool] = False  # whether the longest row of a batch decides
  rereads: ClassVar[bool] = False  # whether it does so with each token

  def stretch(self, frequency: Array, theta: float, length: Any) -> tuple[Array, Any]:
    """Frequencies [E/2], and what cosines and sines are multiplied by.

    Args:
      frequency: theta ** -(0, 2/E, 4/E, ...).
      theta: their base.
      length: of the longest row so far, for kinds that move with it.
    """
    del theta, length
    return frequency / self.factor, None


@dataclasses.dataclass(frozen=True)
class Llama3:
  """The rule of Llama 3.1's release, by wavelengths.

  Those above the training length are stretched by `factor`, short ones are kept, and those between
  are interpolated.
  """

  factor: Positive
  low_freq_factor: Positive
  high_freq_factor: Positive
  original_length: Positive
  moves: ClassVar[bool] = False
  rereads: ClassVar[bool] = False

  def stretch(self, frequency: Array, theta: float, length: Any) -> tuple[Array, Any]:
    """See `Linear.stretch`."""
    del theta, length
    turns = self.original_length * frequency / (2 * math.pi)
    low, high = self.low_freq_factor, self.high_freq_factor
    keep = jnp.clip((turns - low) / (high - low), 0, 1)
    return frequency * (keep + (1 - keep) / self.factor), None


@dataclasses.dataclass(frozen=True)
class Dynamic:
  """A base that grows with the longest row of a batch beyond `original_length` (NTK-aware).

  As in transformers, the rows of one batch share their length, so they change each other. Every
  token changes all keys of all layers: a cache holds the tokens, and a row is read again for each.
  """

  factor: Positive
  original_length: Count
  moves: ClassVar[bool] = True
  rereads: ClassVar[bool] = True

  def stretch(self, frequency: Array, theta: float, length: Any) -> tuple[Array, Any]:
    """See `Linear.stretch`."""
    del theta
    dim = 2 * len(frequency)
    longer = jnp.maximum(length, self.original_length) / self.original_length
    growth = (self.factor * longer - (self.factor - 1)) ** (dim / (dim - 2))
    return frequency * growth ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim), None


@dataclasses.dataclass(frozen=True)
class Yarn:
  """Stretched where a frequency turns rarely within `original_length` (arXiv:2309.00071).

  Attributes:
    factor: of the stretch.
    original_length: that it was trained with.
    beta_fast, beta_slow: turns from which on a frequency is kept, and up to which it is stretched.
    attention_factor: of cosines and sines; default 0.1 ln(factor) + 1, or by the next two.
    mscale, mscale_all_dim: both: the factor is the first one's 0.1 m ln(factor) + 1 over the
      second one's (DeepSeek).
    truncate: whether the bounds are rounded to whole frequencies.
  """

  factor: Positive
  original_length: Count
  beta_fast: Positive = 32.0
  beta_slow: Positive = 1.0
  attention_factor: Positive | None = None
  mscale: float | None = None
  mscale_all_dim: float | None = None
  truncate: bool = True
  moves: ClassVar[bool] = False
  rereads: ClassVar[bool] = False

  def stretch(self, frequency: Array, theta: float, length: Any) -> tuple[Array, Any]:
    """See `Linear.stretch`."""
    del length
    size = len(frequency)
    # The number of the frequency that turns so often.
    at = lambda turns: (
      size * math.log(self.original_length / (turns * 2 * math.pi)) / math.log(theta)
    )
    low, high = at(self.beta_fast), at(self.beta_slow)
    if self.truncate:
      low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * size - 1)
    far = jnp.clip((jnp.arange(size) - low) / max(high - low, 1e-3), 0, 1)
    return frequency * (1 - far + far / self.factor), self.magnitude()

  def magnitude(self) -> float:
    """Of cosines and sines."""
    if self.attention_factor is not None:
      return self.attention_factor
    if self.mscale and self.mscale_all_dim:
      return self.scale(self.mscale) / self.scale(self.mscale_all_dim)
    return self.scale(1)

  def scale(self, m: float) -> float:
    """0.1 m ln(factor) + 1."""
    return 0.1 * m * math.log(self.factor) + 1 if self.factor > 1 else 1.0


@dataclasses.dataclass(frozen=True)
class LongRope:
  """Each frequency divided by a number of its own (arXiv:2402.13753).

  As in transformers, one row of a batch beyond `original_length` puts all of them under
  `long_factor`.

  Attributes:
    short_factor, long_factor: E/2 numbers each, for batches up to `original_length` and beyond.
    original_length: that it was trained with.
    attention_factor: of cosines and sines.
  """

  short_factor: Sequence[float]
  long_factor: Sequence[float]
  original_length: Count
  attention_factor: Positive = 1.0
  moves: ClassVar[bool] = True
  rereads: ClassVar[bool] = False

  def stretch(self, frequency: Array, theta: float, length: Any) -> tuple[Array, Any]:
    """See `Linear.stretch`."""
    del theta
    short, long = (jnp.asarray(x, jnp.float32) for x in (self.short_factor, self.long_factor))
    return frequency / jnp.where(length > self.original_length, long, short), self.attention_factor


KINDS = {
  'linear': Linear,
  'llama3': Llama3,
  'dynamic': Dynamic,
  'yarn': Yarn,
  'longrope': LongRope,
}
Scaling = Linear | Llama3 | Dynamic | Yarn | LongRope


def scaling_of(group: Mapping[str, Any], where: str = 'model.rope_scaling') -> Scaling:
  """The scaling that a config group describes.

  >>> scaling_of({'factor': 8.0})
  Linear(factor=8.0)

  Raises:
    BadInput: no such kind, or a field that it does not have.
  """
  fields = dict(group)
  kind = fields.pop('kind', 'llama3' if 'low_freq_factor' in fields else 'linear')
  if kind not in KINDS:
    raise BadInput(f'{where}: no kind {kind!r}; {suggest(str(kind), [*KINDS])}')
  check(KINDS[kind], fields, where=where)
  fixed = lambda value: tuple(value) if isinstance(value, (list, tuple)) else value
  return KINDS[kind](**{name: fixed(value) for name, value in fields.items()})

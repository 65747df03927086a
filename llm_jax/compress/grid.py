"""Weights as whole numbers of a few bits, and a scale for each group of them.

Weights are [O, I] here, as a torch Linear has them, perhaps behind an axis of experts, and groups
lie along the inputs. The order of
the float32 operations is that of compressed-tensors and GPTQ, whose codes are the same.
"""

from typing import Annotated, Literal, NamedTuple

import numpy as np

from llm_jax.models.weights import group_size
from llm_jax.options import within

Kind = Literal['full', 'narrow', 'asymmetric']
Bits = Annotated[int, within(2, 8)]


class Grid(NamedTuple):
  """Which numbers a weight may become.

  Attributes:
    bits: of a code.
    group: neighbouring inputs that share a scale; 0: all of an output.
    kind: 'full' has codes from -2^(b-1) to 2^(b-1) - 1 around 0, 'narrow' leaves out the first, and
      'asymmetric' has those from 0 to 2^b - 1 around a zero point.
  """

  bits: int = 8
  group: int = 0
  kind: Kind = 'full'

  @property
  def limits(self) -> tuple[int, int]:
    """The smallest and the largest code."""
    if self.kind == 'asymmetric':
      return 0, 2**self.bits - 1
    half = 2 ** (self.bits - 1)
    return -half if self.kind == 'full' else 1 - half, half - 1

  def grouped(self, weight_OI: np.ndarray) -> np.ndarray:
    """The weights as [O, groups, inputs of a group]; the last group may be filled with 0."""
    return grouped(weight_OI, self.group)

  def scales(self, weight_OI: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Scales [O, G], float32, and with 'asymmetric' zero points [O, G], uint8; 1 for groups of 0.

    >>> Grid(4).scales(np.array([[3.0, -7.5]]))[0].tolist()
    [[1.0]]
    """
    weight_OGI = self.grouped(weight_OI).astype(np.float32, copy=False)
    low, high = self.limits
    if self.kind != 'asymmetric':
      most = np.abs(weight_OGI).max(-1)
      scale_OG = most / np.float32(high + (0.5 if self.kind == 'full' else 0))
      return np.where(scale_OG == 0, np.float32(1), scale_OG), None
    least, most = np.minimum(weight_OGI.min(-1), 0), np.maximum(weight_OGI.max(-1), 0)
    scale_OG = (most - least) / np.float32(high)
    scale_OG = np.where(scale_OG == 0, np.float32(1), scale_OG)
    return scale_OG, np.clip(np.rint(-least / scale_OG), low, high).astype(np.uint8)

  def codes(
    self, weight_OI: np.ndarray, scale_OG: np.ndarray, zero_OG: np.ndarray | None
  ) -> np.ndarray:
    """The nearest codes [O, I], ties to even; uint8 with zero points, else int8."""
    weight_OGI = self.grouped(weight_OI)
    near_OGI = np.rint(weight_OGI / scale_OG[..., None])
    if zero_OG is not None:
      near_OGI += zero_OG[..., None]
    kind = np.int8 if zero_OG is None else np.uint8
    return joined(np.clip(near_OGI, *self.limits).astype(kind), weight_OI.shape[-1])

  def round(self, weight_OI: np.ndarray) -> 'Rounded':
    """Each weight as its nearest code.

    >>> Grid(4, kind='asymmetric').round(np.array([[0.0, 1.0, 7.4, 15.0]])).codes.tolist()
    [[0, 1, 7, 15]]
    """
    scale_OG, zero_OG = self.scales(weight_OI)
    return Rounded(self.codes(weight_OI, scale_OG, zero_OG), scale_OG, zero_OG, self.group)


class Rounded(NamedTuple):
  """Weights as whole numbers.

  Attributes:
    codes: [O, I].
    scale: [O, G].
    zero: [O, G], where codes have a zero point.
    group: inputs that share a scale, the last ones perhaps fewer; 0: all of an output.
  """

  codes: np.ndarray
  scale: np.ndarray
  zero: np.ndarray | None = None
  group: int = 0

  @property
  def dense(self) -> np.ndarray:
    """The weights that they stand for, float32 [O, I]."""
    codes_OGI = grouped(self.codes.astype(np.float32), self.group)
    if self.zero is not None:
      codes_OGI = codes_OGI - self.zero[..., None]
    return joined(codes_OGI * self.scale[..., None], self.codes.shape[-1])


def grouped(array: np.ndarray, group: int) -> np.ndarray:
  """An array [..., I] as [..., groups, inputs of a group], the last one filled with 0.

  >>> grouped(np.arange(1, 6), 3).tolist()
  [[1, 2, 3], [4, 5, 0]]
  """
  size = group_size(group, array.shape[-1])
  more = -array.shape[-1] % size
  if more:
    array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)])
  return array.reshape(*array.shape[:-1], -1, size)


def joined(array: np.ndarray, inputs: int) -> np.ndarray:
  """The inverse of `grouped`."""
  return array.reshape(*array.shape[:-2], -1)[..., :inputs]

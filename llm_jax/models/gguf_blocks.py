"""Blocks of 32 weights as GGUF has them: a scale of 16 bits and a code each, byte for byte.

The formulas are those of the package gguf and of llama.cpp's reference code: codes use the inverse
of the scale before that is rounded to 16 bits.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SIZE = 32  # weights of a block


class Blocks(NamedTuple):
  """A type of blocks.

  Attributes:
    bytes: of a block.
    file_type: what `general.file_type` calls a file of them.
    write: from weights [..., I], float32, to bytes [..., I / 32 * bytes].
  """

  bytes: int
  file_type: int
  write: Callable[[np.ndarray], np.ndarray]


def q8_0(weight: np.ndarray) -> np.ndarray:
  """Codes of 8 bits, the nearest multiples of a 127th of the largest magnitude."""
  blocks = weight.reshape(-1, SIZE)
  scale, inverse = _scales(np.abs(blocks).max(-1, keepdims=True) / np.float32(127))
  size = np.abs(blocks * inverse)
  near = np.floor(size) + np.floor(2 * (size - np.floor(size)))  # halves away from 0
  codes = (np.sign(blocks) * near).astype(np.int8)
  return _joined(weight, scale, codes.view(np.uint8))


def q4_0(weight: np.ndarray) -> np.ndarray:
  """Codes of 4 bits; the weight of largest magnitude has the code 0, which stands for -8."""
  blocks = weight.reshape(-1, SIZE)
  largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[:, None], axis=-1)
  scale, inverse = _scales(largest / np.float32(-8))
  codes = np.trunc(blocks.astype(np.float64) * inverse + 8.5).clip(0, 15).astype(np.uint8)
  return _joined(weight, scale, codes[:, : SIZE // 2] | codes[:, SIZE // 2 :] << 4)


BLOCKS = {'q8_0': Blocks(34, 7, q8_0), 'q4_0': Blocks(18, 2, q4_0)}


def _scales(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The scales, and their inverses; both 0 where the inverse would overflow."""
  with np.errstate(divide='ignore', over='ignore'):
    inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
  held = np.isfinite(inverse)
  return np.where(held, scale, np.float32(0)), np.where(held, inverse, np.float32(0))


def _joined(weight: np.ndarray, scale: np.ndarray, codes: np.ndarray) -> np.ndarray:
  with np.errstate(over='ignore'):
    bits = scale.astype('<f2').view(np.uint8)
  return np.concatenate([bits, codes], axis=-1).reshape(*weight.shape[:-1], -1)

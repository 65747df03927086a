"""Ranks in which equals share the mean of their places: what Spearman and AUROC are made of."""

from typing import Any

import numpy as np


def ranks(x_B: Any) -> np.ndarray:
  """The place of each number in ascending order, from 1; equal numbers share the mean of theirs.

  >>> ranks([30, 10, 20, 20]).tolist()
  [4.0, 1.0, 2.5, 2.5]
  """
  _, place_B, count = np.unique(
    np.asarray(x_B, np.float64), return_inverse=True, return_counts=True
  )
  return (np.cumsum(count) - (count - 1) / 2)[place_B]

"""The bootstrap as lm-eval does it, draw for draw: `bootstrap_stderr` of lm_eval/api/metrics.py."""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def resamples(n: int, iterations: int) -> Iterator[np.ndarray]:
  """Indices of items drawn with replacement, [R, n], in chunks of R = min(1000, iterations).

  Chunk i holds the draws of Python's `random.Random(i).choices`, one resample after another. What
  is left of `iterations` after whole chunks is not drawn: 1500 are 1000, as in lm-eval.

  >>> next(resamples(4, 2)).tolist()
  [[3, 3, 1, 1], [2, 1, 3, 1]]
  >>> generator = random.Random(0)
  >>> [generator.choices(range(4), k=4) for _ in range(2)]
  [[3, 3, 1, 1], [2, 1, 3, 1]]
  """
  chunk = min(1000, iterations)
  for seed in range(iterations // chunk if chunk else 0):
    # NumPy makes the same 53-bit fractions of a Mersenne twister, and many at a time.
    _, (*key, position), _ = random.Random(seed).getstate()
    generator = np.random.RandomState()
    generator.set_state(('MT19937', np.asarray(key, np.uint32), position, 0, 0.0))
    yield np.floor(generator.random_sample((chunk, n)) * n).astype(np.intp)


def bootstrap_error(
  compute: Callable[[np.ndarray], float], items_B: Any, iterations: int = 1000
) -> float:
  """The standard deviation (n - 1) of a number over resamples of the items it is computed from.

  Nan for fewer than two iterations, or without items.

  >>> round(bootstrap_error(np.mean, [1, 0, 1, 0, 1], 2000), 2)  # the root of 0.6 * 0.4 / 5
  0.22

  Args:
    compute: of an array of items, [n, ...], to a number.
    items_B: [n, ...], what is drawn from, along the first axis.
    iterations: resamples, by chunks of 1000.
  """
  items_B = np.asarray(items_B)
  if not len(items_B):
    return math.nan
  found = [
    float(compute(items_B[index]))
    for index_RB in resamples(len(items_B), iterations)
    for index in index_RB
  ]
  return float(np.std(found, ddof=1)) if len(found) > 1 else math.nan

"""Variants of a run over seeds: whether they differ, and how many seeds it would take to say so.

A seed decides the first parameters and the order of the data, and it does so for every variant. So
runs are compared seed by seed, as answers are question by question (`differences.paired`), and what
is left is what the variants make of the same start.
"""

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from llm_jax.evals.differences import Difference
from llm_jax.evals.statistics import t_quantile, t_test
from llm_jax.types import BadInput

MOST = 1000  # seeds; beyond it nobody is told a number
POWER = 0.8  # how often a difference that is there should be found


def p_value(found: Difference) -> float:
  """The p-value of no difference, by Student's t of the paired differences.

  It is 1 where nothing differs, and nan where nothing can be said: of a single seed, or where the
  same difference came out of all of them.

  >>> from llm_jax.evals.differences import paired
  >>> round(p_value(paired([1.0, 2.0, 3.0], [0.5, 1.9, 2.6])), 4)
  0.1091
  >>> p_value(paired([1.0, 2.0], [1.0, 2.0]))
  1.0
  """
  if found.n > 1 and found.error == 0 and found.mean == 0:
    return 1.0
  if found.n < 2 or not found.error > 0:
    return math.nan
  return t_test(found.mean / found.error, found.n - 1)


def holm(p_V: Sequence[float]) -> list[float]:
  """p-values corrected for their number, by Holm's step-down (www.jstor.org/stable/4615733).

  If those below `alpha` are called differences, the probability of one false call or more is at
  most `alpha`, however the tests depend on each other. One that is nan counts among them, and stays
  nan.

  >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
  [0.03, 0.06, 0.06, 0.02]
  """
  order = sorted(range(len(p_V)), key=lambda i: (math.isnan(p_V[i]), p_V[i]))
  found, least = [math.nan] * len(p_V), 0.0
  for place, i in enumerate(order):
    if not math.isnan(p_V[i]):
      least = max(least, min(1.0, (len(p_V) - place) * p_V[i]))
      found[i] = least
  return found


@functools.lru_cache(maxsize=4096)
def power(effect: float, n: int, alpha: float = 0.05) -> float:
  """How often a paired t test of n seeds finds an effect, two-sided.

  The tail of the noncentral t, as a mean of normal tails over the deviation that n - 1 degrees of
  freedom estimate (a chi distribution, by the trapezoidal rule).

  >>> round(power(0.5, 34), 4), round(power(0.8, 15), 4), round(power(0.0, 5), 4)
  (0.8078, 0.8213, 0.05)

  Args:
    effect: the mean of the differences over their standard deviation.
    n: seeds, from 2.
    alpha: how often a difference is found where there is none.
  """
  if n < 2:
    raise BadInput(f'power: {n} seeds; give 2 or more')
  freedom = n - 1
  # Of s/sigma: chi / root(freedom), whose density is concentrated around 1.
  wide = 12 / (2 * freedom) ** 0.5
  points = 201 if freedom > 9 else 8001  # with few degrees the tails are steep near 0
  s_X = np.linspace(max(1 - wide, 1e-9), 1 + wide, points)
  log_X = (freedom - 1) * np.log(s_X) - freedom * s_X**2 / 2
  weight_X = np.exp(log_X - log_X.max())
  weight_X[[0, -1]] /= 2
  least_X = t_quantile(1 - alpha / 2, freedom) * s_X
  shift = effect * n**0.5
  above = NormalDist().cdf
  tails_X = np.array([above(shift - x) + above(-shift - x) for x in least_X])
  return float(weight_X @ tails_X / weight_X.sum())


def needed(found: Difference, alpha: float = 0.05) -> int | None:
  """Seeds with which a difference as large as this one would be found in four of five comparisons.

  It takes the difference and its spread for the true ones, which a few seeds know badly: it is the
  order of magnitude. None for more than a thousand, or where there is no difference or no spread.

  >>> needed(Difference(mean=0.5, error=0.5, low=-1.0, high=2.0, n=4))  # an effect of 0.5
  34

  Args:
    found: the paired differences.
    alpha: how often a difference is found where there is none.
  """
  if not found.error > 0 or not found.mean:
    return None
  effect = abs(found.mean) / (found.error * found.n**0.5)
  if power(effect, MOST, alpha) < POWER:
    return None
  low, high = 1, MOST  # the power grows with n
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if power(effect, middle, alpha) >= POWER else (middle, high)
  return high

"""How sure a score is: standard errors and intervals of the mean of n answers.

A question is the unit. Where answers share something, such as a passage, or are samples of one
question, they are a cluster, and the cluster is the unit (arXiv:2411.00640). What cannot be known
is nan, as the error of a single answer is, and never 0.
"""

import functools
import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from llm_jax.types import BadInput


class Interval(NamedTuple):
  """A mean and where the true one may be.

  Attributes:
    mean: of n scores.
    error: the standard error, nan where it is not known.
    low: the end below.
    high: the end above.
    n: scores; not clusters.
    method: 't' or 'wilson', which `interval` explains, or 'none' where nothing can be said.
  """

  mean: float
  error: float
  low: float
  high: float
  n: int
  method: str


def standard_error(scores_B: Any) -> float:
  """Sample standard deviation (n - 1) over the root of n; nan for fewer than two scores.

  >>> round(standard_error([1, 0, 1, 0, 1]), 6)
  0.244949
  """
  scores_B = np.asarray(scores_B, np.float64)
  if len(scores_B) < 2:
    return math.nan
  return _beyond_rounding(float(scores_B.std(ddof=1)) / len(scores_B) ** 0.5, scores_B)


def error_of_sums(count: float, total: float, squares: float) -> float:
  """`standard_error` from n, the sum and the sum of squares, which add up over parts.

  >>> round(error_of_sums(5, 3, 3), 6)
  0.244949
  """
  if count < 2:
    return math.nan
  return (max(squares - total * total / count, 0.0) / (count - 1) / count) ** 0.5


def clustered_error(scores_B: Any, clusters_B: Sequence[Hashable]) -> float:
  """The standard error where scores of one cluster go together, arXiv:2411.00640, section 2.2.

  The root of the sum, over clusters, of (sum of residuals)^2, divided by n. There is no factor for
  few clusters. With every score a cluster it is the root of (n - 1)/n times `standard_error`. It is
  nan for fewer than two clusters, which say nothing about how clusters differ.

  Four samples of each of three questions: the question is the cluster.

  >>> right = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]])
  >>> round(clustered_error(right.ravel(), np.repeat([0, 1, 2], 4)), 4)
  0.2041
  >>> round(standard_error(right.ravel()), 4)  # too small: it takes them for twelve questions
  0.1508
  """
  scores_B = np.asarray(scores_B, np.float64)
  place_B, clusters = _numbered(clusters_B)
  if len(place_B) != len(scores_B):
    raise BadInput(f'clustered_error: {len(scores_B)} scores but {len(place_B)} clusters')
  if clusters < 2:
    return math.nan
  residuals_C = np.bincount(place_B, scores_B - scores_B.mean(), clusters)
  return _beyond_rounding(float(residuals_C @ residuals_C) ** 0.5 / len(scores_B), scores_B)


def wilson(right: float, n: int, level: float = 0.95) -> tuple[float, float]:
  """The interval of a share, doi:10.1080/01621459.1927.10502953: inside [0, 1], and never a point.

  With n = 0 it is (0, 1): nothing is known.

  >>> [round(end, 3) for end in wilson(0, 20)]
  [0.0, 0.161]
  """
  if not 0 <= right <= n:
    raise BadInput(f'wilson: {right} right of {n}; give 0 to {n}')
  if n == 0:
    return 0.0, 1.0
  z, share = NormalDist().inv_cdf((1 + level) / 2), right / n
  middle = (share + z * z / (2 * n)) / (1 + z * z / n)
  half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
  low = 0.0 if right == 0 else max(middle - half, 0.0)
  high = 1.0 if right == n else min(middle + half, 1.0)
  return low, high


def interval(
  scores_B: Any, clusters_B: Sequence[Hashable] | None = None, level: float = 0.95
) -> Interval:
  """The mean of scores with its interval: mean -+ t error, or Wilson's where that cannot be true.

  Student's t, with units - 1 degrees of freedom, since the deviation is estimated as well: with 12
  questions 2.20 errors and not 1.96. From 200 on the two agree within one per cent.

  Scores from 0 to 1 whose t interval would leave [0, 1] or be a point (all right, all wrong, one
  question) have Wilson's instead, of their mean and as many trials as there are units. For scores
  that are shares and not 0 or 1 it is too wide and never too narrow, because 0 and 1 vary most.

  >>> half_right = interval([1, 0] * 100)
  >>> half_right.method, round(half_right.low, 3), round(half_right.high, 3)
  ('t', 0.43, 0.57)
  >>> all_right = interval([1] * 20)  # not 1 -+ 0
  >>> all_right.method, round(all_right.low, 3), all_right.high
  ('wilson', 0.839, 1.0)

  Args:
    scores_B: one an answer.
    clusters_B: what each belongs to; by default every answer is a unit of its own.
    level: how often such intervals hold the true mean.
  """
  scores_B = np.asarray(scores_B, np.float64)
  n = len(scores_B)
  if n == 0:
    return Interval(math.nan, math.nan, math.nan, math.nan, 0, 'none')
  mean = float(scores_B.mean())
  if clusters_B is None:
    error, units = standard_error(scores_B), n
  else:
    error, units = clustered_error(scores_B, clusters_B), _numbered(clusters_B)[1]
  half = error * t_quantile((1 + level) / 2, units - 1) if units > 1 else math.nan
  shares = scores_B.min() >= 0 and scores_B.max() <= 1
  if half > 0 and not (shares and (mean - half < 0 or mean + half > 1)):
    return Interval(mean, error, mean - half, mean + half, n, 't')
  if shares:
    return Interval(mean, error, *wilson(min(mean * units, units), units, level), n, 'wilson')
  return Interval(mean, error, math.nan, math.nan, n, 'none')


@functools.lru_cache(maxsize=1024)
def t_quantile(p: float, freedom: int) -> float:
  """The p-quantile of Student's t.

  Up to 400 degrees of freedom from the finite series of its distribution (Abramowitz and Stegun,
  26.7.3 and 26.7.4), by bisection; above from the expansion around the normal quantile (26.7.5).

  >>> round(t_quantile(0.975, 11), 6), round(t_quantile(0.975, 10**6), 6)
  (2.200985, 1.959966)

  Args:
    p: between 0 and 1.
    freedom: degrees of freedom, from 1.
  """
  if not 0 < p < 1 or freedom < 1:
    raise BadInput(f't_quantile: p {p}, freedom {freedom}; give 0 < p < 1 and freedom from 1')
  if p < 0.5:
    return -t_quantile(1 - p, freedom)
  if freedom > 400:
    z = NormalDist().inv_cdf(p)
    terms = (
      (z**3 + z) / 4,
      (5 * z**5 + 16 * z**3 + 3 * z) / 96,
      (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
      (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))
  low, high = 0.0, math.pi / 2
  while low < (middle := (low + high) / 2) < high:
    low, high = (middle, high) if _inside(middle, freedom) < 2 * p - 1 else (low, middle)
  return math.tan(low) * freedom**0.5


def t_test(t: float, freedom: int) -> float:
  """The two-sided p-value of a Student's t: how often |T| is t or more where there is no effect.

  Where p is below 1e-12 its digits are those of rounding.

  >>> round(t_test(2.776445, 4), 6), round(t_test(12.706205, 1), 6), t_test(0.0, 3)
  (0.05, 0.05, 1.0)

  Args:
    t: a mean over its standard error.
    freedom: degrees of freedom, from 1.
  """
  if freedom < 1:
    raise BadInput(f't_test: freedom {freedom}; give 1 or more')
  return min(max(1 - _inside(math.atan(abs(t) / freedom**0.5), freedom), 0.0), 1.0)


def _inside(angle: float, freedom: int) -> float:
  """The probability of |T| < tan(angle) root(freedom), by its finite series."""
  odd = freedom % 2
  factors, powers = _series(freedom)
  series = float(factors @ math.cos(angle) ** powers) * math.sin(angle)
  if odd:
    return 2 / math.pi * (angle + (series if freedom > 1 else 0.0))
  return series


@functools.lru_cache(maxsize=64)
def _series(freedom: int) -> tuple[np.ndarray, np.ndarray]:
  """Factors and powers of the cosine."""
  odd = freedom % 2
  steps = np.arange(2 + odd, freedom - 1, 2)  # the factors between neighbouring terms
  factors = np.cumprod(np.concatenate([[1.0], (steps - 1) / steps]))
  return factors, np.arange(len(factors)) * 2 + odd


def binomial_test(k: int, n: int) -> float:
  """The two-sided p-value of k of n under a fair coin, exact; 1 where n is 0.

  >>> binomial_test(1, 6)  # twice (1 + 6) / 64
  0.21875
  """
  if not 0 <= k <= n:
    raise BadInput(f'binomial_test: {k} of {n}; give 0 to {n}')
  total = term = 1
  for i in range(min(k, n - k)):
    term = term * (n - i) // (i + 1)
    total += term
  return min(1.0, 2 * total / (1 << n))


def _beyond_rounding(error: float, scores_B: np.ndarray) -> float:
  """The error, and 0 where it is what rounding leaves of scores that do not differ."""
  return error if error > 1e-14 * np.abs(scores_B).max() else 0.0


def _numbered(clusters_B: Sequence[Hashable]) -> tuple[np.ndarray, int]:
  """The number of the cluster of each, and how many there are."""
  numbers: dict[Hashable, int] = {}
  place = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters_B]
  return np.asarray(place, np.intp), len(numbers)

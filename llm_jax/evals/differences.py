"""Two models on the same questions: the difference of their scores, and how sure it is.

Most of what a score varies by is which questions were drawn, and that is the same for both. So the
error of the difference is smaller than those of the scores say, and it is the paired one that
counts (arXiv:2411.00640). A difference whose interval holds 0 is none.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_jax.evals.statistics import binomial_test, clustered_error, standard_error, t_quantile
from llm_jax.types import BadInput


class Difference(NamedTuple):
  """The mean of first - second over n questions, its standard error, and its interval."""

  mean: float
  error: float
  low: float
  high: float
  n: int


def paired(
  first_B: Any,
  second_B: Any,
  clusters_B: Sequence[Hashable] | None = None,
  level: float = 0.95,
) -> Difference:
  """First minus second on the same questions, with the standard error of the differences.

  The interval is Student's t with units - 1 degrees of freedom, as in `statistics.interval`. It is
  nan where all differences are the same, which says nothing about others; see `mcnemar`.

  >>> first, second = [1, 1, 0, 1, 0, 1], [1, 0, 0, 1, 0, 0]
  >>> found = paired(first, second)
  >>> round(found.mean, 3), round(found.error, 3), round(unpaired(first, second).error, 3)
  (0.333, 0.211, 0.298)

  Args:
    first_B: the score of the first model on each question.
    second_B: of the second, in the same order.
    clusters_B: what each question belongs to.
    level: of the interval.
  """
  first_B, second_B = np.asarray(first_B, np.float64), np.asarray(second_B, np.float64)
  if first_B.shape != second_B.shape:
    raise BadInput(f'paired: {first_B.size} and {second_B.size} scores; give both on each question')
  difference_B = first_B - second_B
  if clusters_B is None:
    error, units = standard_error(difference_B), len(difference_B)
  else:
    error, units = clustered_error(difference_B, clusters_B), len(set(clusters_B))
  return _difference(difference_B, error, len(difference_B), units - 1, level)


def unpaired(first_B: Any, second_B: Any, level: float = 0.95) -> Difference:
  """First minus second on questions of their own: errors are added as squares.

  The degrees of freedom are Welch's (doi:10.1093/biomet/34.1-2.28), rounded down. On the same
  questions use `paired`. `n` is that of both together.
  """
  first_B, second_B = np.asarray(first_B, np.float64), np.asarray(second_B, np.float64)
  errors = standard_error(first_B), standard_error(second_B)
  squares = np.square(errors)
  below = (squares**2 / np.maximum([len(first_B) - 1, len(second_B) - 1], 1)).sum()
  freedom = int(squares.sum() ** 2 / below) if below > 0 else 0
  n = len(first_B) + len(second_B)
  means = [scores.mean() if len(scores) else np.nan for scores in (first_B, second_B)]
  return _difference(means[0] - means[1], float(squares.sum() ** 0.5), n, freedom, level)


class McNemar(NamedTuple):
  """Questions that only one of two had right, and the p-value of no difference."""

  only_first: int
  only_second: int
  p: float


def mcnemar(first_B: Any, second_B: Any) -> McNemar:
  """McNemar's test of two accuracies on the same questions (doi:10.1007/BF02295996), exact.

  Only questions where the two differ count; with no difference between the models these would fall
  either way as a fair coin does. Without any, p is 1.

  >>> mcnemar([1, 1, 1, 1, 0], [0, 0, 0, 1, 0])
  McNemar(only_first=3, only_second=0, p=0.25)

  Args:
    first_B: 1 or True where the first model is right, else 0.
    second_B: of the second, in the same order.
  """
  first_B, second_B = np.asarray(first_B), np.asarray(second_B)
  if first_B.shape != second_B.shape:
    raise BadInput(
      f'mcnemar: {first_B.size} and {second_B.size} answers; give both on each question'
    )
  if not np.isin(np.concatenate([first_B, second_B]), (0, 1)).all():
    raise BadInput('mcnemar: scores that are not 0 or 1; use paired')
  only = int(np.sum(first_B > second_B)), int(np.sum(second_B > first_B))
  return McNemar(*only, binomial_test(only[0], sum(only)))


def _difference(scores: Any, error: float, n: int, freedom: int, level: float) -> Difference:
  mean = float(np.mean(scores)) if n else np.nan
  half = error * t_quantile((1 + level) / 2, freedom) if error > 0 and freedom > 0 else np.nan
  return Difference(mean, error, mean - half, mean + half, n)

"""The win rate if both answers were equally long, after arXiv:2404.04475, section 3.

P(a wins) = sigmoid(a + b tanh(d / sd)), where d is the length of answer a minus that of b and sd
its sample standard deviation. At d = 0 that is sigmoid(a), the controlled win rate. Theirs has a
term for the difficulty of each instruction as well, which takes the matches of many models to fit.
"""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from llm_jax.evals.newton import maximise
from llm_jax.evals.statistics import Interval, interval, wilson
from llm_jax.types import BadInput


class LengthControlled(NamedTuple):
  """Both win rates of n pairs.

  Attributes:
    plain: the mean of points, a tie half, with its interval.
    controlled: sigmoid(a).
    low: the end of its 95 % interval below.
    high: and above.
    slope: b; positive where the longer answer wins.
    length_difference: the mean of d.
    n: pairs.
  """

  plain: Interval
  controlled: float
  low: float
  high: float
  slope: float
  length_difference: float
  n: int


def length_controlled(
  points_B: Any, length_differences_B: Any, ridge: float = 1.0
) -> LengthControlled:
  """Fits a and b by maximum likelihood less ridge b^2 / 2, which keeps b finite.

  The interval is that of a, by the sandwich, seen through the sigmoid. Where all points are the
  same, such as all won, the controlled rate is the plain one and the interval Wilson's. Where all d
  are the same, b is 0: length cannot be told from the model. Without pairs all is nan.

  >>> longer_wins = length_controlled([1, 1, 1, 1, 0, 0], [90, 80, 90, 70, -80, -90])
  >>> round(longer_wins.plain.mean, 2), round(longer_wins.controlled, 2)
  (0.67, 0.62)

  Args:
    points_B: of answer a: 1 won, 0.5 tie, 0 lost.
    length_differences_B: the length of answer a minus that of b, in characters or any other unit.
    ridge: above 0; a pair weighs at most 1/4 on the same scale.
  """
  points_B = np.asarray(points_B, np.float64)
  d_B = np.asarray(length_differences_B, np.float64)
  if points_B.shape != d_B.shape:
    raise BadInput(f'length_controlled: {points_B.size} points for {d_B.size} length differences')
  if not ((points_B >= 0) & (points_B <= 1)).all():
    raise BadInput('length_controlled: points outside [0, 1]; give 1, 0.5 or 0')
  if ridge <= 0:
    raise BadInput(f'length_controlled: ridge {ridge}; give a number above 0')
  n, plain = len(points_B), interval(points_B)
  if not n:
    return LengthControlled(plain, math.nan, math.nan, math.nan, math.nan, math.nan, n)
  mean = float(d_B.mean())
  if points_B.min() == points_B.max():
    return LengthControlled(plain, plain.mean, *wilson(plain.mean * n, n), 0.0, mean, n)
  deviation = d_B.std(ddof=1)
  x_B2 = np.stack([np.ones(n), np.tanh(d_B / deviation) if deviation > 0 else np.zeros(n)], 1)
  penalty_22 = np.diag([0.0, ridge])

  def derivatives(ab_R2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z_B = x_B2 @ ab_R2[0]
    chance_B = _sigmoid(z_B)
    value = (points_B * z_B - np.logaddexp(0, z_B)).sum() - ridge * ab_R2[0, 1] ** 2 / 2
    gradient_2 = x_B2.T @ (points_B - chance_B) - penalty_22 @ ab_R2[0]
    curvature_22 = x_B2.T @ (x_B2 * (chance_B * (1 - chance_B))[:, None]) + penalty_22
    return np.array([value]), gradient_2[None], curvature_22[None]

  ab_12 = maximise(derivatives, np.zeros((1, 2)))
  a, b = ab_12[0].tolist()
  inverse_22 = np.linalg.inv(derivatives(ab_12)[2][0])
  score_B2 = x_B2 * (points_B - _sigmoid(x_B2 @ ab_12[0]))[:, None]
  error = (inverse_22 @ score_B2.T @ score_B2 @ inverse_22)[0, 0] ** 0.5
  half = error * NormalDist().inv_cdf(0.975)
  middle, low, high = (float(_sigmoid(end)) for end in (a, a - half, a + half))
  return LengthControlled(plain, middle, low, high, b, mean, n)


def _sigmoid(x: Any) -> Any:
  return (1 + np.tanh(x / 2)) / 2

"""The win rate at equal length."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from llm_jax.evals.length_control import length_controlled
from llm_jax.evals.matches import win_rate
from llm_jax.types import BadInput

DRAW = np.random.default_rng(0)


def pairs(a, b, n=200):
  """Points and length differences of a model whose answers are longer by 50 on the mean."""
  d = DRAW.normal(50, 100, n)
  chance = 1 / (1 + np.exp(-(a + b * np.tanh(d / d.std(ddof=1)))))
  return (DRAW.random(n) < chance).astype(float), d


def test_the_fit_is_that_of_a_general_optimiser():
  points, d = pairs(0.3, 1.0, 80)
  points[::7] = 0.5
  x = np.tanh(d / d.std(ddof=1))

  def loss(ab):
    z = ab[0] + ab[1] * x
    return -(points * z - np.logaddexp(0, z)).sum() + 2.5 * ab[1] ** 2 / 2

  a, b = scipy.optimize.minimize(loss, [0, 0], method='BFGS', options={'gtol': 1e-9}).x
  found = length_controlled(points, d, ridge=2.5)
  assert found.controlled == pytest.approx(1 / (1 + math.exp(-a)), abs=1e-7)
  assert found.slope == pytest.approx(b, abs=1e-6)
  assert found.plain.mean == points.mean() and found.n == 80
  assert found.length_difference == pytest.approx(d.mean())


def test_a_win_by_length_is_seen_through():
  found = length_controlled(*pairs(0.0, 2.0, 4000))
  assert found.plain.low > 0.55  # longer on the mean, and judged by length
  assert found.low < 0.5 < found.high and found.slope == pytest.approx(2, abs=0.3)


def test_intervals_hold_the_truth_as_often_as_they_say():
  truth = 1 / (1 + math.exp(-0.5))
  found = [length_controlled(*pairs(0.5, 1.0)) for _ in range(200)]
  assert np.mean([one.low < truth < one.high for one in found]) == pytest.approx(0.95, abs=0.04)


def test_swapping_the_models_mirrors_everything():
  points, d = pairs(0.3, 1.0, 60)
  one, other = length_controlled(points, d), length_controlled(1 - points, -d)
  assert one.controlled == pytest.approx(1 - other.controlled, abs=1e-9)
  assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)
  assert one.slope == pytest.approx(other.slope, abs=1e-9)
  order = DRAW.permutation(60)
  assert length_controlled(points[order], d[order] * 4)[1:5] == pytest.approx(one[1:5], abs=1e-9)


def test_lengths_that_tell_nothing_change_nothing():
  points = [1, 1, 0.5, 0]
  for d in ([0] * 4, [30] * 4, [0.1] * 4):
    found = length_controlled(points, d)
    assert found.controlled == pytest.approx(found.plain.mean, abs=1e-9)
    assert found.slope == pytest.approx(0, abs=1e-9)


def test_ties_make_it_surer():
  for points in ([1, 0] * 50, [1, 0, 0.5, 0.5] * 25):
    found = length_controlled(points, [0] * 100)
    half = math.log(found.high / (1 - found.high)) / scipy.stats.norm.ppf(0.975)
    assert half / 4 == pytest.approx(np.std(points) / 10, rel=1e-9)


def test_edges():
  for won in (0, 0.5, 1):
    found = length_controlled([won] * 10, DRAW.normal(size=10))
    assert found.controlled == won and 0 <= found.low < found.high <= 1 and found.slope == 0
  # Length decides all: the slope is finite, and neither model is the better.
  decided = length_controlled([1, 1, 0, 0], [90, 100, -90, -100])
  assert decided.controlled == pytest.approx(0.5, abs=0.01) and 0 < decided.slope < 10
  one = length_controlled([0.5], [30])
  assert one.controlled == 0.5 and one.low < 0.2 and one.high > 0.8
  nothing = length_controlled([], [])
  assert nothing.n == 0 and math.isnan(nothing.controlled) and math.isnan(nothing.low)
  matches = [('x', 'y', 'a'), ('x', 'y', 'b'), ('x', 'y', 'tie')]
  assert length_controlled([1, 0, 0.5], [3, 1, 2]).plain == win_rate(matches, 'x', 'y')


@pytest.mark.parametrize(
  ('points', 'd', 'ridge', 'says'),
  [
    ([1, 0], [3], 1, '2 points for 1'),
    ([2], [3], 1, 'outside'),
    ([1], [3], 0, 'ridge 0'),
  ],
)
def test_bad_input(points, d, ridge, says):
  with pytest.raises(BadInput, match=says):
    length_controlled(points, d, ridge)

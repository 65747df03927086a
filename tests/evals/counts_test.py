"""Counts of halves add up to those of the whole, and their values are those of NumPy or by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.evals.counts import confusion, f1, matthews, moments, pearson
from llm_jax.types import Counts

DRAW = np.random.default_rng(0)
GOLD, SAID = DRAW.integers(0, 2, (2, 200))
X = DRAW.normal(3, 1, 200)
Y = 0.5 * X + DRAW.normal(0, 1, 200)
METRICS = [
  (f1, confusion, SAID, GOLD),
  (matthews, confusion, SAID, GOLD),
  (pearson, moments, X, Y),
]


@pytest.mark.parametrize('compute, count, x, y', METRICS)
@pytest.mark.parametrize('cut', [0, 1, 77, 200])
def test_halves_add_up_to_the_whole(compute, count, x, y, cut):
  whole = Counts(count(x, y), compute)
  parts = Counts(count(x[:cut], y[:cut]), compute) + Counts(count(x[cut:], y[cut:]), compute)
  assert parts.value == pytest.approx(whole.value, rel=1e-12)
  assert dict(parts.sums) == pytest.approx(dict(whole.sums), rel=1e-12)


def test_what_a_mean_of_halves_gets_wrong():
  halves = [f1(confusion(SAID[part], GOLD[part])) for part in (slice(0, 20), slice(20, 200))]
  assert np.mean(halves) != pytest.approx(f1(confusion(SAID, GOLD)), rel=1e-3)


def test_by_hand():
  # 3 found, 1 of them wrongly, and 2 of the 4 that are there are missed; 4 rightly left.
  sums = confusion([1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0, 0, 0, 0])
  precision, recall = 2 / 3, 2 / 4
  assert f1(sums) == pytest.approx(2 * precision * recall / (precision + recall))
  assert matthews(sums) == pytest.approx((2 * 4 - 1 * 2) / math.sqrt(3 * 4 * 5 * 6))


def test_correlations_are_those_of_numpy():
  assert pearson(moments(X, Y)) == pytest.approx(np.corrcoef(X, Y)[0, 1], rel=1e-10)
  # Matthews' correlation is Pearson's of the classes.
  assert matthews(confusion(SAID, GOLD)) == pytest.approx(np.corrcoef(SAID, GOLD)[0, 1], rel=1e-10)


@pytest.mark.parametrize(
  'compute, count', [(f1, confusion), (matthews, confusion), (pearson, moments)]
)
def test_what_is_not_defined_is_zero(compute, count):
  assert compute(count([], [])) == compute(count([0, 0], [0, 0])) == 0


@pytest.mark.parametrize('compute, count, x, y', METRICS)
def test_under_jit_a_row_of_no_weight_does_not_count(compute, count, x, y):
  weight = np.arange(200) < 150
  found = jax.jit(count)(jnp.asarray(x), jnp.asarray(y), jnp.asarray(weight))
  assert compute(found) == pytest.approx(compute(count(x[:150], y[:150])), rel=1e-4)

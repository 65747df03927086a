"""Errors and intervals: equal to known values, the same in any order, and never a point."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from llm_jax.evals.statistics import (
  binomial_test,
  clustered_error,
  error_of_sums,
  interval,
  standard_error,
  t_quantile,
  wilson,
)
from llm_jax.types import BadInput

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())
DRAW = np.random.default_rng(0)


def test_known_errors():
  known = KNOWN['stderr']
  scores = known['scores']
  assert np.mean(scores) == pytest.approx(known['mean'], abs=1e-12)
  assert standard_error(scores) == pytest.approx(known['stderr'], abs=1e-12)
  clusters = np.arange(len(scores)) // 5
  assert clustered_error(scores, clusters) == pytest.approx(known['clustered_by_5'], abs=1e-12)
  assert wilson(sum(scores), len(scores)) == pytest.approx(known['wilson_95'], abs=1e-12)
  assert wilson(0, 20) == pytest.approx(known['wilson_95_of_0_in_20'], abs=1e-12)


def test_sums_of_parts_give_the_error_of_the_whole():
  scores = DRAW.normal(2, 1, 50)
  first, second = (np.array([len(x), x.sum(), x @ x]) for x in (scores[:13], scores[13:]))
  assert error_of_sums(*(first + second)) == pytest.approx(standard_error(scores), rel=1e-12)


def test_the_order_of_answers_and_the_names_of_clusters_do_not_matter():
  scores, clusters = DRAW.random(40), DRAW.integers(0, 9, 40)
  order = DRAW.permutation(40)
  names = [f'passage {clusters[i]}' for i in order]
  assert standard_error(scores[order]) == pytest.approx(standard_error(scores), rel=1e-12)
  whole = clustered_error(scores, clusters)
  assert clustered_error(scores[order], names) == pytest.approx(whole, rel=1e-12)


def test_clusters_of_one_are_no_clusters_but_for_the_small_factor():
  scores = DRAW.random(30)
  plain = standard_error(scores)
  assert clustered_error(scores, range(30)) == pytest.approx(plain * (29 / 30) ** 0.5, rel=1e-12)


def test_copies_of_a_question_add_nothing():
  scores = DRAW.random(30)
  copied = clustered_error(np.repeat(scores, 8), np.repeat(np.arange(30), 8))
  assert copied == pytest.approx(clustered_error(scores, range(30)), rel=1e-12)


def test_what_cannot_be_known_is_nan():
  assert math.isnan(standard_error([])) and math.isnan(standard_error([0.5]))
  assert math.isnan(error_of_sums(1, 1, 1))
  assert math.isnan(clustered_error([1, 0, 1], 'aaa')) and math.isnan(clustered_error([], []))
  nothing = interval([])
  assert nothing.n == 0 and nothing.method == 'none' and math.isnan(nothing.mean)
  assert interval([7.0, 7.0]).method == 'none' and math.isnan(interval([7.0, 7.0]).low)


@pytest.mark.parametrize('n', [1, 2, 7, 50])
@pytest.mark.parametrize('level', [0.5, 0.95, 0.999])
def test_wilson_lies_inside_and_holds_the_share(n, level):
  for right in range(n + 1):
    low, high = wilson(right, n, level)
    assert 0 <= low <= right / n <= high <= 1 and high - low > 0
    assert wilson(n - right, n, level) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_holds_the_shares_that_the_score_test_allows():
  low, high = wilson(7, 31)
  z = stats.norm.ppf(0.975)
  for end in (low, high):  # Wilson's definition, solved for the share
    assert abs(7 / 31 - end) == pytest.approx(z * (end * (1 - end) / 31) ** 0.5, rel=1e-9)
  assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(
  'scores', [[0], [1], [1] * 30, [0] * 30, [0] * 29 + [1], [0.5] * 10, [0.1] * 3]
)
def test_an_interval_of_shares_is_no_point_and_stays_inside(scores):
  found = interval(scores)
  assert found.method == 'wilson' and 0 <= found.low < found.high <= 1
  assert found.low <= found.mean <= found.high


def test_an_interval_is_students():
  scores = DRAW.normal(5, 2, 12)
  found = interval(scores, level=0.9)
  half = stats.t.ppf(0.95, 11) * stats.sem(scores)
  assert found.method == 't' and found.n == 12
  assert (found.low, found.high) == pytest.approx((scores.mean() - half, scores.mean() + half))
  published = interval([1] * 60 + [0] * 140)
  assert published.high - published.mean == pytest.approx(0.064, abs=5e-4)


def test_an_interval_of_clusters_counts_clusters():
  scores, clusters = DRAW.integers(0, 2, 40), np.arange(40) // 4
  found = interval(scores, clusters)
  assert found.error == clustered_error(scores, clusters)
  assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 9) * found.error)
  # Each question is right in half of its samples: the clusters do not differ.
  alike = interval([1, 0] * 20, np.arange(40) // 2)
  assert alike.error == 0 and alike.method == 'wilson'
  assert (alike.low, alike.high) == wilson(10, 20)


@pytest.mark.parametrize('freedom', [1, 2, 3, 4, 11, 30, 399, 400, 401, 1000, 10**6])
def test_quantiles_are_those_of_scipy(freedom):
  for p in (0.025, 0.5, 0.9, 0.975, 0.9995):
    wanted = stats.t.ppf(p, freedom)
    assert t_quantile(p, freedom) == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def test_the_binomial_test_is_that_of_scipy():
  for k, n in [(0, 1), (3, 10), (5, 10), (74, 120), (450, 1000)]:
    assert binomial_test(k, n) == pytest.approx(stats.binomtest(k, n).pvalue, rel=1e-10)
  assert binomial_test(0, 0) == 1
  assert binomial_test(0, 3000) == 0.0  # 2^-2999 is no float


@pytest.mark.parametrize(
  ('call', 'says'),
  [
    (lambda: wilson(3, 2), '3 right of 2'),
    (lambda: binomial_test(-1, 2), '-1 of 2'),
    (lambda: t_quantile(1.0, 3), 'give 0 < p < 1'),
    (lambda: clustered_error([1, 0], [1]), '2 scores but 1 clusters'),
  ],
)
def test_bad_input(call, says):
  with pytest.raises(BadInput, match=says):
    call()

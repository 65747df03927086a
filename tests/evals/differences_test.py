"""Two models on the same questions."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from llm_jax.evals.differences import mcnemar, paired, unpaired
from llm_jax.types import BadInput

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())
DRAW = np.random.default_rng(0)


def test_known_differences():
  known = KNOWN['paired']
  first, second = known['first'], known['second']
  both, apart, test = paired(first, second), unpaired(first, second), mcnemar(first, second)
  assert both.mean == pytest.approx(known['difference'], abs=1e-12)
  assert both.error == pytest.approx(known['paired_stderr'], abs=1e-12)
  assert apart.mean == pytest.approx(known['difference'], abs=1e-12)
  assert apart.error == pytest.approx(known['unpaired_stderr'], abs=1e-12)
  assert test[:2] == (known['only_first'], known['only_second'])
  assert test.p == pytest.approx(known['mcnemar_exact_p'], abs=1e-12)


def test_swapping_the_models_turns_the_sign():
  first, second = DRAW.integers(0, 2, (2, 50))
  for compare in (paired, unpaired):
    one, other = compare(first, second), compare(second, first)
    assert (-one.mean, one.error) == pytest.approx((other.mean, other.error))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
  assert mcnemar(first, second).p == mcnemar(second, first).p
  assert mcnemar(first, second)[:2] == mcnemar(second, first)[1::-1]


def test_errors_are_equal_where_scores_have_nothing_in_common():
  found = [(paired(*x).error, unpaired(*x).error) for x in DRAW.normal(size=(400, 2, 30))]
  one, other = np.square(found).mean(0)
  assert one == pytest.approx(other, rel=0.05)


def test_intervals_are_those_of_scipy():
  first, second = DRAW.normal(size=(2, 25)) + [[0.3], [0.0]]
  found, wanted = paired(first, second, level=0.9), stats.ttest_rel(first, second)
  assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.9)))
  assert paired(first, second, range(25)).error == pytest.approx(found.error * (24 / 25) ** 0.5)
  wide = unpaired(first, second[:10])
  wanted = stats.ttest_ind(first, second[:10], equal_var=False)
  half = stats.t.ppf(0.975, int(wanted.df)) * wide.error
  assert (wide.low, wide.high) == pytest.approx((wide.mean - half, wide.mean + half))


def test_edges():
  same = paired([1, 0, 1], [1, 0, 1])
  assert same.mean == same.error == 0 and math.isnan(same.low)  # and not 0 -+ 0
  assert math.isnan(paired([1], [0]).error) and paired([1], [0]).mean == 1
  assert math.isnan(paired([], []).mean) and math.isnan(unpaired([], [1]).mean)
  assert mcnemar([1, 0], [1, 0]) == (0, 0, 1.0) and mcnemar([], []).p == 1
  assert mcnemar(np.array([True, False]), np.array([False, False])).only_first == 1


@pytest.mark.parametrize(
  ('call', 'says'),
  [
    (lambda: paired([1, 0], [1]), '2 and 1 scores'),
    (lambda: mcnemar([1, 0], [1]), '2 and 1 answers'),
    (lambda: mcnemar([1, 0.5], [1, 0]), 'use paired'),
  ],
)
def test_bad_input(call, says):
  with pytest.raises(BadInput, match=says):
    call()

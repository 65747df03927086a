"""Confidence against answers: known values, any order, ties."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from llm_jax.evals import calibration
from llm_jax.types import BadInput

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())
ALL = [
  calibration.auroc,
  calibration.risk_coverage_area,
  calibration.accuracy_of_most_confident,
  calibration.expected_calibration_error,
  calibration.brier,
]


def test_known_values():
  known = KNOWN['calibration']
  found = [compute(known['confidence'], known['right']) for compute in ALL]
  names = ('auroc', 'risk_coverage_area', 'accuracy_of_most_confident_half', 'ece_10_bins', 'brier')
  assert found == pytest.approx([known[name] for name in names], abs=1e-12)


@pytest.mark.parametrize('compute', ALL)
def test_the_order_of_answers_does_not_matter(compute):
  draw = np.random.default_rng(0)
  confidence, right = draw.integers(0, 8, 50) / 7, draw.integers(0, 2, 50)
  order = draw.permutation(50)
  wanted = compute(confidence, right)
  assert compute(confidence[order], right[order]) == pytest.approx(wanted, rel=1e-12)


def test_auroc_counts_pairs():
  draw = np.random.default_rng(1)
  confidence, right = draw.integers(0, 8, 50) / 7, draw.integers(0, 2, 50)
  pairs = itertools.product(confidence[right == 1], confidence[right == 0])
  points = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]
  assert calibration.auroc(confidence, right) == pytest.approx(np.mean(points), rel=1e-12)
  turned = calibration.auroc(1 - confidence, right)
  assert calibration.auroc(confidence, right) == pytest.approx(1 - turned, rel=1e-12)


def test_risks_of_equals_are_the_mean_over_their_orders():
  confidence, right = np.array([0.9, 0.5, 0.5, 0.5, 0.2]), np.array([0, 1, 0, 1, 0])
  wanted = []
  for middle in itertools.permutations([1, 2, 3]):
    wrong = 1 - right[[0, *middle, 4]]
    wanted.append(np.cumsum(wrong) / np.arange(1, 6))
  np.testing.assert_allclose(calibration.risks(confidence, right), np.mean(wanted, 0), rtol=1e-12)


@pytest.mark.parametrize('compute', ALL)
def test_nothing_is_nan(compute):
  assert math.isnan(compute([], []))


@pytest.mark.parametrize('right', [0, 1])
def test_one_class(right):
  confidence = [0.1, 0.5, 0.9]
  assert math.isnan(calibration.auroc(confidence, [right] * 3))
  assert calibration.risk_coverage_area(confidence, [right] * 3) == 1 - right
  assert calibration.accuracy_of_most_confident(confidence, [right] * 3) == right


def test_a_bin_holds_its_upper_end():
  # 0.1, 0.2, ... each end a bin of their own, whose confidence it is.
  ends = [i / 10 for i in range(1, 11)]
  found = calibration.expected_calibration_error(ends, [0] * 10)
  assert found == pytest.approx(np.mean(ends))
  # (0.1, 0.2] holds both: the mean confidence is 0.175 and half are right.
  assert calibration.expected_calibration_error([0.15, 0.2], [1, 0]) == pytest.approx(0.325)
  assert calibration.expected_calibration_error([0.1, 0.2], [1, 0]) == pytest.approx(0.55)
  # 0 is in the first.
  assert calibration.expected_calibration_error([0.0, 0.1], [1, 0]) == pytest.approx(0.45)
  one = calibration.expected_calibration_error([0.3, 0.9], [1, 0], bins=1)
  assert one == pytest.approx(0.1)


def test_a_share_is_rounded_up():
  half = calibration.accuracy_of_most_confident
  assert half([0.9, 0.5, 0.1], [0, 1, 1]) == 0.5
  assert half([0.9], [1]) == 1
  right = [1, 1, 1, 0] + [0] * 26
  assert half(np.arange(30)[::-1] / 30, right, share=0.1) == 1


@pytest.mark.parametrize(
  ('confidence', 'right', 'says'),
  [
    ([0.5], [1, 0], '1 confidences for 2 answers'),
    ([1.5], [1], 'outside'),
    ([math.nan], [1], 'outside'),
    ([0.5], [0.5], 'neither right nor wrong'),
  ],
)
@pytest.mark.parametrize('compute', ALL)
def test_bad_input(compute, confidence, right, says):
  with pytest.raises(BadInput, match=says):
    compute(confidence, right)

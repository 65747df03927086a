"""Coefficients of agreement: known ones, any order and any names, and what has none."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from llm_jax.evals.agreement import cohen, fleiss, krippendorff, percent
from llm_jax.types import BadInput

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())
KNOWN = KNOWN['agreement']
RATINGS = KNOWN['annotators']
PAIRS = [(0, 1), (0, 2), (1, 2)]
OF_ALL = [fleiss, *(partial(krippendorff, level=x) for x in ('nominal', 'ordinal', 'interval'))]
OF_TWO = [percent, *(partial(cohen, weights=x) for x in (None, 'linear', 'quadratic'))]


@pytest.mark.parametrize('pair', PAIRS)
def test_known_agreement_of_two(pair):
  first, second = (RATINGS[i] for i in pair)
  name = '-'.join(map(str, pair))
  assert percent(first, second).value == pytest.approx(KNOWN['percent'][name], abs=1e-12)
  for weights in (None, 'linear', 'quadratic'):
    known = KNOWN['cohen_kappa'][name][str(weights)]
    assert cohen(first, second, weights).value == pytest.approx(known, abs=1e-12)
    assert cohen(second, first, weights).value == pytest.approx(known, abs=1e-12)
    assert cohen(first, second, weights, order=range(4)).value == pytest.approx(known, abs=1e-12)


def test_known_agreement_of_all():
  assert fleiss(RATINGS).value == pytest.approx(KNOWN['fleiss_kappa'], abs=1e-12)
  for ratings, name in ((RATINGS, 'complete'), (KNOWN['with_missing'], 'missing')):
    for level, known in KNOWN['krippendorff_alpha'][name].items():
      assert krippendorff(ratings, level).value == pytest.approx(known, abs=1e-12)
  gaps = np.array(KNOWN['with_missing'], float)  # None becomes nan
  known = KNOWN['krippendorff_alpha']['missing']['ordinal']
  assert krippendorff(gaps, 'ordinal').value == pytest.approx(known, abs=1e-12)


@pytest.mark.parametrize('compute', OF_ALL)
def test_order_does_not_matter(compute):
  draw = np.random.default_rng(0)
  turned = np.array(RATINGS)[draw.permutation(3)][:, draw.permutation(50)]
  assert compute(turned.tolist()).value == pytest.approx(compute(RATINGS).value, rel=1e-12)


def test_names_are_as_good_as_numbers():
  names = ('poor', 'fair', 'good', 'best')
  called = [[names[label] for label in ratings] for ratings in RATINGS]
  assert fleiss(called).value == pytest.approx(fleiss(RATINGS).value, rel=1e-12)
  found = krippendorff(called, 'ordinal', order=names).value
  assert found == pytest.approx(krippendorff(RATINGS, 'ordinal').value, rel=1e-12)
  found = cohen(called[0], called[1], 'linear', order=names).value
  assert found == pytest.approx(cohen(RATINGS[0], RATINGS[1], 'linear').value, rel=1e-12)


def test_numbers_are_as_far_apart_as_they_are():
  # Nobody says 2, and 1 and 3 are two apart all the same.
  first, second = [0, 0, 1, 3, 3, 1], [0, 1, 1, 3, 1, 0]
  wide = cohen(first, second, 'linear').value
  assert wide == pytest.approx(cohen(first, second, 'linear', order=range(4)).value, rel=1e-12)
  assert wide != pytest.approx(cohen(first, second, 'linear', order=[0, 1, 3]).value, rel=0.01)


@pytest.mark.parametrize('compute', OF_ALL)
def test_perfect_agreement_is_one(compute):
  found = compute([RATINGS[0]] * 3)
  assert found.value == pytest.approx(1) and found.items == 50 and not found.why


def test_chance_is_near_zero():
  draw = np.random.default_rng(0).integers(0, 3, (3, 3000)).tolist()
  for compute in OF_ALL:
    assert abs(compute(draw).value) < 0.04
  for compute in OF_TWO[1:]:
    assert abs(compute(draw[0], draw[1]).value) < 0.04


@pytest.mark.parametrize('compute', OF_ALL)
def test_one_label_is_nan_and_says_why(compute):
  found = compute([[1, 1, 1]] * 2)
  assert math.isnan(found.value) and 'every rating is 1' in found.why


@pytest.mark.parametrize('compute', OF_ALL)
def test_nothing_is_nan_and_says_why(compute):
  for ratings in ([], [[]], [[], []], [[1, 2]], [[None], [None]]):
    found = compute(ratings)
    assert math.isnan(found.value) and found.why


def test_a_rater_with_one_label():
  found = cohen([1, 1, 1, 1], [1, 2, 1, 1])
  assert found.value == pytest.approx(0, abs=1e-12) and 'one label only' in found.why
  both = cohen([1, 1], [1, 1])
  assert math.isnan(both.value) and 'both give one label only' in both.why
  for compute in OF_TWO:
    assert math.isnan(compute([], []).value) and math.isnan(compute([None], [1]).value)


def test_an_item_that_one_did_not_rate_is_left_out():
  for compute in OF_TWO:
    wanted = compute([1, 2, 2, 1], [1, 2, 1, 1])
    assert compute([1, 2, None, 2, 1], [1, 2, 2, 1, 1]) == wanted and wanted.items == 4


@pytest.mark.parametrize(
  ('call', 'says'),
  [
    (lambda: percent([1], [1, 2]), '1 and 2 ratings'),
    (lambda: fleiss(KNOWN['with_missing']), 'use krippendorff'),
    (lambda: krippendorff([[1, 2], [1]]), 'give None for a gap'),
    (lambda: cohen(['a', 'b'], ['a', 'a'], 'linear'), 'give their order'),
    (lambda: krippendorff([['a', 'b']] * 2, 'interval'), 'no distance'),
    (lambda: cohen([1, 2], [1, 3], 'linear', order=[1, 2]), 'label 3 is not in the order'),
    (lambda: cohen([1], [1], 'cubic'), "weights 'cubic'"),
    (lambda: krippendorff([[1], [1]], 'ratio'), "level 'ratio'"),
  ],
)
def test_bad_input(call, says):
  with pytest.raises(BadInput, match=says):
    call()

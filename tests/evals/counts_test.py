"""Counts of halves add up to those of the whole, and their values are those of NumPy or by hand."""

import json
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from llm_jax.evals.counts import (
  accuracy,
  confusion,
  f1,
  listed,
  macro_f1,
  matthews,
  matthews_of_classes,
  moments,
  pearson,
  spearman,
  table,
)
from llm_jax.types import BadInput, Counts

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())
KNOWN = KNOWN['classification']
DRAW = np.random.default_rng(0)
GOLD, SAID = DRAW.integers(0, 2, (2, 200))
X = DRAW.normal(3, 1, 200)
Y = 0.5 * X + DRAW.normal(0, 1, 200)
of_four = partial(table, classes=4)
GOLD_4, SAID_4 = DRAW.integers(0, 4, (2, 200))
SAID_4[::3] = GOLD_4[::3]
METRICS = [
  (f1, confusion, SAID, GOLD),
  (matthews, confusion, SAID, GOLD),
  (pearson, moments, X, Y),
  (accuracy, of_four, SAID_4, GOLD_4),
  (macro_f1, of_four, SAID_4, GOLD_4),
  (matthews_of_classes, of_four, SAID_4, GOLD_4),
]


@pytest.mark.parametrize('compute, count, x, y', METRICS)
@pytest.mark.parametrize('cut', [0, 1, 77, 200])
def test_halves_add_up_to_the_whole(compute, count, x, y, cut):
  whole = Counts(count(x, y), compute)
  parts = Counts(count(x[:cut], y[:cut]), compute) + Counts(count(x[cut:], y[cut:]), compute)
  assert parts.value == pytest.approx(whole.value, rel=1e-12)
  for name, value in whole.sums.items():
    np.testing.assert_allclose(parts.sums[name], value, rtol=1e-12)


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
  'compute, count',
  [
    (f1, confusion),
    (matthews, confusion),
    (pearson, moments),
    (spearman, listed),
    (matthews_of_classes, of_four),
  ],
)
def test_what_is_not_defined_is_zero(compute, count):
  assert compute(count([], [])) == compute(count([0, 0], [0, 0])) == 0


@pytest.mark.parametrize('compute, count, x, y', METRICS)
def test_under_jit_a_row_of_no_weight_does_not_count(compute, count, x, y):
  weight = np.arange(200) < 150
  found = jax.jit(count)(jnp.asarray(x), jnp.asarray(y), jnp.asarray(weight))
  assert compute(found) == pytest.approx(compute(count(x[:150], y[:150])), rel=1e-4)


def test_known_values():
  for name in ('binary', 'constant_answer'):
    known = KNOWN[name]
    sums = confusion(known['pred'], known['gold'])
    assert matthews(sums) == pytest.approx(known['mcc'], abs=1e-12)
    assert f1(sums) == pytest.approx(known['f1_of_1'], abs=1e-12)
  known = KNOWN['binary']
  turned = confusion(1 - np.array(known['pred']), 1 - np.array(known['gold']))
  assert f1(turned) == pytest.approx(known['f1_of_0'], abs=1e-12)
  known = KNOWN['three_classes']
  sums = table(known['pred'], known['gold'], classes=3)
  found = [compute(sums) for compute in (accuracy, macro_f1, matthews_of_classes)]
  wanted = [known[name] for name in ('accuracy', 'macro_f1', 'mcc')]
  assert found == pytest.approx(wanted, abs=1e-12)
  known = KNOWN['regression']
  found = pearson(moments(known['pred'], known['gold']))
  assert found == pytest.approx(known['pearson'], abs=1e-12)
  found = spearman(listed(known['pred'], known['gold']))
  assert found == pytest.approx(known['spearman'], abs=1e-12)


def test_two_classes_are_two_classes():
  sums, both = table(SAID, GOLD, classes=2), confusion(SAID, GOLD)
  assert matthews_of_classes(sums) == pytest.approx(matthews(both), rel=1e-12)
  assert accuracy(sums) == np.mean(SAID == GOLD)
  turned = confusion(1 - SAID, 1 - GOLD)
  assert macro_f1(sums) == pytest.approx((f1(both) + f1(turned)) / 2, rel=1e-12)


def test_classes_that_are_not_there():
  sums = table([0, 1, 1], [0, 1, 0], classes=5)
  assert macro_f1(sums) == pytest.approx(2 / 3)  # both of 0 and of 1
  # Class 1 is said and never gold: its F1 is 0.
  assert macro_f1(table([0, 1], [0, 0], classes=2)) == pytest.approx((2 / 3 + 0) / 2)
  assert matthews_of_classes(table([2, 2, 2], [0, 1, 2], classes=3)) == 0
  # An answer that is no class is wrong, and a class of its own to R_K.
  lost = table([0, -1, 7, 1], [0, 1, 1, 1], classes=2)
  assert accuracy(lost) == 0.5 and macro_f1(lost) == pytest.approx((1 + 0.5) / 2)
  wanted = matthews_of_classes(table([0, 2, 2, 1], [0, 1, 1, 1], classes=3))
  assert matthews_of_classes(lost) == wanted
  assert table([0, 0], [1, -1], np.array([1, 0]), classes=2)['table'].sum() == 1
  with pytest.raises(BadInput, match='gold 3 is no class; give 0 to 1'):
    table([0, 0], [1, 3], classes=2)


@pytest.mark.parametrize('cut', [0, 77, 200])
def test_ranks_of_all_are_taken_when_halves_are_joined(cut):
  x, y = X.round(1), Y.round(1)
  parts = Counts(listed(x[:cut], y[:cut]), spearman) + Counts(listed(x[cut:], y[cut:]), spearman)
  assert parts.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic, rel=1e-12)
  assert spearman(listed(np.exp(x), y)) == pytest.approx(parts.value, rel=1e-12)


@pytest.mark.parametrize('constant', [0.1, 1e6 / 3, 2.7])
def test_a_constant_does_not_correlate_by_its_rounding(constant):
  for n in (3, 10, 1000):
    assert pearson(moments(np.full(n, constant), DRAW.normal(size=n))) == 0
  sums = jax.jit(moments)(jnp.full(200, constant), jnp.asarray(Y))
  assert pearson(sums) == 0


def test_a_small_spread_around_a_large_mean_does_correlate():
  assert pearson(moments(X + 1e4, Y)) == pytest.approx(pearson(moments(X, Y)), rel=1e-6)

"""How sure a metric is, and whether two models differ: against numbers made another way."""

import numpy as np
import pytest

from llm_jax.evals import differences
from llm_jax.evals.estimates import (
  PerQuestion,
  by_subject,
  difference,
  difference_of,
  estimate,
  mean_of,
)
from llm_jax.evals.statistics import interval

DRAW = np.random.default_rng(0)
RIGHT, OTHER = (DRAW.random((2, 120)) < [[0.6], [0.5]]).astype(float)
KEYS = [str(i) for i in range(120)]


def total(scores):
  return lambda index: float(scores[index].mean())


def test_a_mean_has_the_interval_of_its_scores_and_of_its_clusters():
  clusters = [str(i // 4) for i in range(120)]
  assert estimate(PerQuestion(keys=KEYS, scores=RIGHT)) == interval(RIGHT)
  clustered = estimate(PerQuestion(keys=KEYS, scores=RIGHT, clusters=clusters))
  assert clustered == interval(RIGHT, clusters) != interval(RIGHT)


def test_what_is_no_mean_has_the_interval_of_the_bootstrap():
  """A mean in disguise, whose error is known."""
  found, exact = estimate(PerQuestion(keys=KEYS, compute=total(RIGHT))), interval(RIGHT)
  assert found.method == 'bootstrap' and found.mean == exact.mean and found.n == 120
  assert found.error == pytest.approx(exact.error, rel=0.1)
  assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.02)
  pairs = [str(i // 2) for i in range(120)]
  twice = np.repeat(RIGHT[:60], 2)  # each question asked twice says nothing new
  found = estimate(PerQuestion(keys=KEYS, compute=total(twice), clusters=pairs))
  assert found.error == pytest.approx(interval(RIGHT[:60]).error, rel=0.1)


def test_two_models_are_compared_on_the_questions_that_both_answered():
  first = PerQuestion(keys=KEYS[10:], scores=RIGHT[10:])
  second = PerQuestion(keys=KEYS[::-1], scores=OTHER[::-1])
  found, test = difference(first, second)
  assert found == differences.paired(RIGHT[10:], OTHER[10:])
  assert test == differences.mcnemar(RIGHT[10:], OTHER[10:]) and found.n == 110
  loose, none = difference(
    PerQuestion(keys=KEYS[10:], compute=total(RIGHT[10:])),
    PerQuestion(keys=KEYS, compute=total(OTHER)),
  )
  assert none is None and loose.mean == pytest.approx(found.mean)
  assert loose.error == pytest.approx(found.error, rel=0.1)


def test_means_of_parts_weigh_them_alike():
  subjects = ['b'] * 100 + ['a'] * 20
  first, second = (
    PerQuestion(keys=KEYS, scores=scores, subjects=subjects, chance=0.25)
    for scores in (RIGHT, OTHER)
  )
  found = mean_of(by_subject(first))
  parts = [interval(RIGHT[:100]), interval(RIGHT[100:])]
  assert found.n == 120 and found.mean == pytest.approx(np.mean([part.mean for part in parts]))
  error = np.hypot(parts[0].error, parts[1].error) / 2
  assert found.error == pytest.approx(error) and found.high == pytest.approx(
    found.mean + 1.959964 * error
  )
  centred = mean_of(by_subject(first), centred=True)
  assert centred.mean == pytest.approx((found.mean - 0.25) / 0.75)
  assert centred.error == pytest.approx(error / 0.75)
  apart = [differences.paired(RIGHT[part], OTHER[part]) for part in np.split(np.arange(120), [100])]
  both = difference_of(by_subject(first), by_subject(second))
  assert both.mean == pytest.approx(np.mean([one.mean for one in apart]))
  assert both.error == pytest.approx(np.hypot(apart[0].error, apart[1].error) / 2)
  assert by_subject(PerQuestion(keys=KEYS, scores=RIGHT, subjects=[''] * 120)) == []


def test_of_nothing_nothing_is_said():
  none = PerQuestion(keys=(), compute=total(RIGHT))
  assert estimate(none).method == 'none' and difference(none, none)[0].n == 0
  assert estimate(PerQuestion(keys=(), scores=np.array([]))).n == 0

"""Two means of groups, and which error belongs to which."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from llm_jax.evals import groups
from llm_jax.evals.statistics import standard_error
from llm_jax.types import BadInput

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())


def test_known_groups():
  known = KNOWN['stderr']['groups']
  means, errors, sizes = known['accuracies'], known['stderrs'], known['sizes']
  found = {
    'mean_by_size': groups.mean_by_size(means, sizes),
    'mean_of_groups': groups.mean_of_groups(means),
    'pooled_lm_eval': groups.pooled_error(errors, sizes),
    'stratified_by_size': groups.stratified_error(errors, sizes),
    'stderr_of_mean_of_groups': groups.error_of_mean_of_groups(errors),
  }
  assert found == pytest.approx({name: known[name] for name in found}, abs=1e-12)


def test_known_tasks_against_chance():
  tasks = KNOWN['centred']['tasks']
  accuracies = [task['accuracy'] for task in tasks]
  chances = [task['chance_percent'] / 100 for task in tasks]
  found = [groups.centred(*pair) for pair in zip(accuracies, chances)]
  assert found == pytest.approx([task['centred'] for task in tasks], abs=1e-12)
  assert groups.mean_centred(accuracies, chances) == pytest.approx(KNOWN['centred']['mean'])
  with pytest.raises(BadInput, match='chance 62'):
    groups.centred(0.5, 62)


@pytest.mark.parametrize('by_size', [True, False])
def test_errors_are_the_spread_of_the_means_over_draws(by_size):
  draw, sizes, chances = np.random.default_rng(0), [5, 20, 75], [0.9, 0.5, 0.2]
  trials = 20_000
  means = np.stack([draw.binomial(n, p, trials) / n for n, p in zip(sizes, chances)], 1)
  errors = [(p * (1 - p) / n) ** 0.5 for n, p in zip(sizes, chances)]
  if by_size:
    spread, error = (means @ sizes / 100).std(), groups.stratified_error(errors, sizes)
  else:
    spread, error = means.mean(1).std(), groups.error_of_mean_of_groups(errors)
  assert spread == pytest.approx(error, rel=0.02)


def test_equal_groups_have_one_mean_and_one_error():
  scores = np.random.default_rng(0).random((4, 25))
  sizes, errors = [25] * 4, [standard_error(group) for group in scores]
  assert groups.mean_by_size(scores.mean(1), sizes) == pytest.approx(scores.mean())
  one = groups.error_of_mean_of_groups(errors)
  assert groups.stratified_error(errors, sizes) == pytest.approx(one, rel=1e-12)
  assert groups.pooled_error(errors, sizes) == pytest.approx(one, rel=1e-12)


def test_edges():
  assert math.isnan(groups.mean_of_groups([])) and math.isnan(groups.mean_by_size([], []))
  assert math.isnan(groups.stratified_error([], []))
  assert math.isnan(groups.error_of_mean_of_groups([]))
  assert math.isnan(groups.pooled_error([math.nan, math.nan], [1, 1]))
  with_one = groups.pooled_error([0.1, math.nan], [30, 1])  # 29 * 30 * 0.01 / 29 / 31
  assert with_one == pytest.approx((0.3 / 31) ** 0.5)
  assert math.isnan(groups.stratified_error([0.1, math.nan], [30, 1]))
  with pytest.raises(BadInput, match='2 numbers and 1'):
    groups.mean_by_size([1, 2], [3])

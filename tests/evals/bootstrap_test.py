"""The bootstrap draws what lm-eval draws."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from llm_jax.evals.bootstrap import bootstrap_error, resamples
from llm_jax.evals.counts import confusion, matthews
from llm_jax.evals.statistics import standard_error

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())


@pytest.mark.parametrize(('n', 'iterations'), [(7, 5), (60, 1000), (3, 2500)])
def test_draws_are_those_of_choices(n, iterations):
  chunk = min(iterations, 1000)
  wanted = []
  for i in range(iterations // chunk):
    generator = random.Random(i)
    wanted += [generator.choices(range(n), k=n) for _ in range(chunk)]
  np.testing.assert_array_equal(np.concatenate([*resamples(n, iterations)]), wanted)


def test_the_known_error_of_a_correlation():
  known = KNOWN['stderr']
  compute = lambda items: matthews(confusion(items[:, 1], items[:, 0]))
  assert compute(np.array(known['mcc_items'])) == pytest.approx(known['mcc'], abs=1e-12)
  found = bootstrap_error(compute, known['mcc_items'], 2000)
  assert found == pytest.approx(known['mcc_bootstrap_2000'], abs=1e-12)
  assert found == bootstrap_error(compute, known['mcc_items'], 2000)


def test_the_error_of_a_mean_is_the_one_in_closed_form():
  scores = np.random.default_rng(0).random(100)
  assert bootstrap_error(np.mean, scores, 3000) == pytest.approx(standard_error(scores), rel=0.05)


def test_edges():
  assert math.isnan(bootstrap_error(np.mean, [], 100))
  assert math.isnan(bootstrap_error(np.mean, [1, 2], 0))
  assert math.isnan(bootstrap_error(np.mean, [1, 2], 1))
  assert bootstrap_error(np.mean, [2.0], 100) == 0

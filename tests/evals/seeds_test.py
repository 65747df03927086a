"""What seeds can say: published values, error rates, and nothing that depends on an order."""

import math

import numpy as np
import pytest

from llm_jax.evals.differences import Difference, paired
from llm_jax.evals.seeds import holm, needed, p_value, power
from llm_jax.evals.statistics import t_quantile, t_test
from llm_jax.types import BadInput


@pytest.mark.parametrize('freedom', [1, 2, 3, 4, 9, 30, 399, 1000])
@pytest.mark.parametrize('p', [0.5, 0.05, 0.001])
def test_the_test_is_the_inverse_of_the_quantile(p, freedom):
  assert t_test(t_quantile(1 - p / 2, freedom), freedom) == pytest.approx(p, rel=1e-6)
  assert t_test(-t_quantile(1 - p / 2, freedom), freedom) == pytest.approx(p, rel=1e-6)


def test_two_degrees_of_freedom_have_a_closed_form():
  for t in (0.1, 1.0, 4.3, 50.0):
    assert t_test(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)


def test_without_an_effect_p_is_uniform():
  draws = np.random.default_rng(0).normal(size=(2000, 4))
  found = np.array([p_value(paired(row, np.zeros(4))) for row in draws])
  for level in (0.01, 0.05, 0.2, 0.5):
    assert (found < level).mean() == pytest.approx(level, abs=3 * (level / 2000) ** 0.5)


def test_of_nothing_there_is_no_p_value():
  assert math.isnan(p_value(paired([1.0], [2.0])))
  assert math.isnan(p_value(paired([1.0, 2.0], [0.5, 1.5])))  # the same difference twice
  assert p_value(paired([1.0, 2.0], [1.0, 2.0])) == 1.0


def test_holm_never_lowers_a_p_value_and_keeps_their_order():
  for seed in range(50):
    plain = np.random.default_rng(seed).uniform(size=6)
    found = np.array(holm(plain))
    assert (found >= plain).all() and found.max() <= 1
    assert (found[np.argsort(plain)] == np.sort(found)).all()
    shuffled = np.random.default_rng(seed).permutation(6)
    assert holm(plain[shuffled]) == found[shuffled].tolist()
  assert holm([0.03]) == [0.03] and holm([]) == []


def test_holm_counts_what_it_cannot_say_anything_about():
  found = holm([0.01, math.nan])
  assert found[0] == 0.02 and math.isnan(found[1])


def test_power_is_what_a_simulation_finds():
  draws = np.random.default_rng(1).normal(size=(4000, 5)) + 1.2
  found = np.mean([p_value(paired(row, np.zeros(5))) < 0.05 for row in draws])
  assert power(1.2, 5) == pytest.approx(found, abs=0.025)


@pytest.mark.parametrize('n', [2, 3, 5, 20, 200])
@pytest.mark.parametrize('alpha', [0.05, 0.0125])
def test_without_an_effect_power_is_alpha_and_it_grows_with_the_effect(n, alpha):
  assert power(0.0, n, alpha) == pytest.approx(alpha, rel=5e-3)
  found = [power(effect, n, alpha) for effect in (0.0, 0.5, 1.0, 2.0, 8.0)]
  assert found == sorted(found)


def test_the_seeds_that_are_needed_are_the_fewest_that_are_enough():
  for mean in (0.3, 1.0, 3.0):
    found = Difference(mean=mean, error=1 / 5**0.5, low=0.0, high=0.0, n=5)
    n = needed(found)
    assert n is not None and power(mean, n) >= 0.8
    assert n == 2 or power(mean, n - 1) < 0.8
  assert needed(found._replace(mean=1e-3)) is None
  assert needed(found._replace(mean=0.0)) is None and needed(found._replace(error=0.0)) is None


def test_one_seed_has_no_power():
  with pytest.raises(BadInput, match='power: 1 seeds'):
    power(1.0, 1)

"""How far the best of n is from the policy: the known bound, ties, and a simulation."""

import math

import numpy as np
import pytest

from llm_jax.evals import best_of_n


@pytest.mark.parametrize('n', [2, 4, 8, 64])
def test_distinct_scores_come_near_the_bound_and_never_above(n):
  found = best_of_n.kl([str(i) for i in range(n)], list(range(n)))
  assert 0 < found <= best_of_n.bound(n)
  assert best_of_n.bound(n) - found < 0.07  # n answers instead of a continuum


def test_no_choice_is_no_divergence():
  assert best_of_n.kl(['a', 'b', 'c'], [1.0, 1.0, 1.0]) == 0
  assert best_of_n.bound(1) == 0


def test_ties_bring_it_down():
  two = best_of_n.kl(list('abcdefgh'), [0, 0, 0, 0, 1, 1, 1, 1])
  assert two == pytest.approx(
    (1 - 0.5**8) * math.log((1 - 0.5**8) / 0.5) + 0.5**8 * math.log(0.5**7)
  )
  assert two < best_of_n.kl(list('abcdefgh'), [0, 1, 2, 3, 4, 5, 6, 7])


def test_it_is_the_divergence_of_what_drawing_n_and_keeping_the_best_gives():
  scores, n, draws = [0.1, 0.5, 0.5, 0.9], 4, 200_000
  draw = np.random.default_rng(0)
  drawn = draw.integers(0, n, (draws, n))
  value = np.asarray(scores)[drawn]
  best = np.argmax(value + 1e-6 * draw.random(value.shape), axis=1)  # of equals any
  found = np.bincount(drawn[np.arange(draws), best], minlength=n) / draws
  simulated = (found * np.log(found * n)).sum()
  assert best_of_n.kl(list('abcd'), scores) == pytest.approx(simulated, abs=0.01)


def test_the_best_is_the_first_of_equals_and_an_unknown_score_is_no_score():
  assert best_of_n.best([0.0, None, 1.0, 1.0]) == (2, 0)
  assert best_of_n.best([None, -2.0, None]) == (1, 1)
  assert best_of_n.best([0.5, 0.5]) == (0, 0)
  assert best_of_n.best([None, None]) is None

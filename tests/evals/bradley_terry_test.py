"""Ratings: known ones, planted ones, any order, and those that do not exist."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from llm_jax.evals.bradley_terry import bradley_terry, elo_intervals, online_elo
from llm_jax.types import BadInput

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())
MATCHES = KNOWN['matches']['matches']


def test_known_ratings():
  known, found = KNOWN['matches']['bradley_terry'], bradley_terry(MATCHES)
  assert found.logit == pytest.approx(known['logit'], abs=1e-9)
  assert found.elo == pytest.approx(known['elo_scale'], abs=1e-6)
  assert found.error == pytest.approx(known['stderr_logit'], abs=1e-9)
  assert found.robust_error == pytest.approx(known['robust_stderr_logit'], abs=1e-9)
  assert found.matches == len(MATCHES)


def test_known_intervals():
  known, found = KNOWN['matches']['bradley_terry'], elo_intervals(MATCHES)
  for i, name in enumerate(('bootstrap_1000_percent_2_5', 'bootstrap_1000_percent_97_5')):
    ends = {model: interval[i] for model, interval in found.items()}
    assert ends == pytest.approx(known[name], abs=1e-6)  # the same draws


def test_intervals_are_the_same_twice_and_alike_for_another_seed():
  found = elo_intervals(MATCHES, iterations=400, seed=3)
  assert found == elo_intervals(MATCHES, iterations=400, seed=3)
  for model, ends in elo_intervals(MATCHES, iterations=400, seed=4).items():
    assert ends != found[model] and ends == pytest.approx(found[model], abs=12)


def test_known_elo_depends_on_the_order():
  known = KNOWN['matches']['elo_k4']
  found = online_elo(MATCHES)
  assert found == pytest.approx(known, abs=1e-9)
  assert sum(found.values()) == pytest.approx(1000 * len(known))
  assert online_elo(MATCHES[::-1]) != pytest.approx(known, abs=1)


def test_neither_order_nor_sides_nor_copies_change_ratings():
  whole = bradley_terry(MATCHES)
  order = np.random.default_rng(0).permutation(len(MATCHES))
  mirrored = [(b, a, {'a': 'b', 'b': 'a'}.get(result, result)) for a, b, result in MATCHES]
  for others in ([MATCHES[i] for i in order], mirrored):
    for one, other in zip(bradley_terry(others), whole):
      assert one == pytest.approx(other, abs=1e-9)
  twice = bradley_terry(MATCHES * 2)
  assert twice.logit == pytest.approx(whole.logit, abs=1e-9)
  for name in ('error', 'robust_error'):
    halved = {model: error / 2**0.5 for model, error in getattr(whole, name).items()}
    assert getattr(twice, name) == pytest.approx(halved, abs=1e-9)


def test_a_fit_expects_the_points_that_were_made():
  found = bradley_terry(MATCHES).logit
  for model in found:
    made = expected = 0.0
    for a, b, result in MATCHES:
      if model in (a, b):
        point = {'a': 1, 'b': 0, 'tie': 0.5}[result]
        other = b if model == a else a
        made += point if model == a else 1 - point
        expected += 1 / (1 + math.exp(found[other] - found[model]))
    assert expected == pytest.approx(made, abs=1e-9)


def test_planted_ratings_are_recovered():
  draw, planted = np.random.default_rng(0), {'a': 1.5, 'b': 0.5, 'c': -0.5, 'd': -1.5}
  matches = []
  for first, second in itertools.combinations(planted, 2):
    chance = 1 / (1 + math.exp(planted[second] - planted[first]))
    matches += [(first, second, 'a' if won else 'b') for won in draw.random(3000) < chance]
  found = bradley_terry(matches)
  for model, rating in planted.items():
    assert abs(found.logit[model] - rating) < 3 * found.error[model] < 0.15
    # The model is true here, so both errors are.
    assert found.robust_error[model] == pytest.approx(found.error[model], rel=0.05)


def test_ties_tell_less_than_the_model_thinks():
  alike = bradley_terry([('x', 'y', 'tie')] * 10)
  assert alike.logit == pytest.approx({'x': 0, 'y': 0}, abs=1e-12)
  assert alike.robust_error['x'] == 0 < alike.error['x']


def test_lopsided_matches_have_a_fit():
  matches = []
  for better, worse in ('ab', 'bc', 'cd'):
    matches += [(better, worse, 'a')] * 9999 + [(better, worse, 'b')]
  found = bradley_terry(matches).logit
  for better, worse in ('ab', 'bc', 'cd'):
    assert found[better] - found[worse] == pytest.approx(math.log(9999), abs=1e-6)


def test_a_model_that_never_lost_is_refused_or_given_half_a_win():
  known = KNOWN['matches_separated']
  with pytest.raises(BadInput, match=r'x never lost to y, .* prior=0.5 for half a win'):
    bradley_terry(known['matches'])
  found = bradley_terry(known['matches'], prior=0.5)
  assert found.logit == pytest.approx(known['with_half_a_win_each_way'], abs=1e-9)
  ends = elo_intervals(known['matches'], prior=0.5, iterations=20)
  assert all(math.isfinite(end) for both in ends.values() for end in both)


@pytest.mark.parametrize(
  ('matches', 'says'),
  [
    ([], 'no matches'),
    ([('a', 'b', 'tie'), ('c', 'd', 'tie')], 'no match joins a, b and c, d'),
    ([('z', 'a', 'b'), ('z', 'b', 'b'), ('a', 'b', 'a'), ('b', 'a', 'a')], 'a, b never lost to z'),
    # Each of two circles is level in itself, and one only ever beat the other.
    (
      [('a', 'b', 'tie'), ('c', 'd', 'tie'), ('c', 'a', 'a'), ('d', 'b', 'a')],
      'c, d never lost to a, b',
    ),
  ],
)
def test_what_has_no_ratings_is_refused(matches, says):
  for rate in (bradley_terry, elo_intervals):
    with pytest.raises(BadInput, match=says):
      rate(matches)


def test_groups_that_never_met_are_refused_with_a_prior_too():
  with pytest.raises(BadInput, match='no match joins'):
    bradley_terry([('a', 'b', 'tie'), ('c', 'd', 'tie')], prior=0.5)


def test_draws_without_ratings_are_not_hidden():
  matches = [('x', 'y', 'a')] * 20 + [('x', 'y', 'b')]  # a third of the draws has no loss
  with pytest.raises(BadInput, match=r'\d+ of 200 draws have no finite ratings'):
    elo_intervals(matches, iterations=200)

"""Games whose result is known beforehand."""

import json
import math

import numpy as np
import pytest

from llm_jax.evals import win_rates
from llm_jax.evals.win_rates import Game

MIRROR = {'first': 'second', 'second': 'first', 'tie': 'tie', None: None}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def drawn(seed=0, n=1500, **strengths):
  """Games between all models, in both orders, of a judge who favours no place."""
  draw, names, games = np.random.default_rng(seed), [*strengths], []
  for i, a in enumerate(names):
    for b in names[i + 1 :]:
      won = draw.random(n) < sigmoid(strengths[a] - strengths[b])
      games += [
        Game(a, b, (c, MIRROR[c]), (9, 9)) for c in np.where(won, 'first', 'second').tolist()
      ]
  return games


def test_planted_strengths_are_recovered():
  planted = dict(base=-0.6, sft=0.1, dpo=0.5)
  found = win_rates.standings(drawn(**planted))
  for name, logit in planted.items():
    assert found.ratings.logit[name] == pytest.approx(logit, abs=0.12)
    elo = 1000 + 400 / math.log(10) * logit
    low, high = found.elo[name]
    assert low < elo < high and 10 < high - low < 40
  one = found.pairs[0]
  assert (one.a, one.b, one.rate.n, one.errors, one.flips) == ('base', 'sft', 1500, 0, 0)
  assert one.rate.low < sigmoid(-0.7) < one.rate.high
  assert one.won + one.tied + one.lost == 1500


def test_the_order_in_which_models_and_answers_are_named_changes_nothing():
  games = drawn(n=200, x=0.0, y=0.4)
  turned = [Game(g.b, g.a, g.choices[::-1], g.lengths[::-1]) for g in games]
  ours, theirs = win_rates.standings(games), win_rates.standings(turned)
  assert theirs.pairs[0].rate.mean == pytest.approx(1 - ours.pairs[0].rate.mean, abs=1e-12)
  for name in 'xy':
    assert theirs.ratings.elo[name] == pytest.approx(ours.ratings.elo[name])
    assert theirs.elo[name] == pytest.approx(ours.elo[name])
  one_order = [g._replace(choices=g.choices[:1]) for g in games]
  assert win_rates.standings(one_order).pairs[0].rate == ours.pairs[0].rate


def test_a_judge_who_always_takes_the_first_place_says_nothing():
  found = win_rates.standings([Game('x', 'y', ('first', 'first'), (5, 7))] * 30)
  (one,) = found.pairs
  assert (one.rate.mean, one.tied, one.flip_rate, found.first.share) == (0.5, 30, 1.0, 1.0)
  low, high = found.elo['x']
  assert low < 1000 < high and high - low > 50  # all ties are not certain


def test_the_favour_for_long_answers_is_taken_out():
  draw = np.random.default_rng(1)
  d = draw.normal(60, 60, 3000).astype(int)
  won = draw.random(3000) < sigmoid(2.5 * np.tanh(d / d.std()))
  choices = [('first', 'second') if w else ('second', 'first') for w in won]
  games = [Game('long', 'short', c, (500 + int(x), 500)) for c, x in zip(choices, d, strict=True)]
  (one,) = win_rates.standings(games).pairs
  assert one.rate.low > 0.7 and one.controlled.low < 0.5 < one.controlled.high
  assert one.controlled.length_difference == pytest.approx(60, abs=4)


def test_errors_and_equal_texts():
  games = [
    Game('x', 'y', ('first', 'second'), (1, 1)),
    Game('x', 'y', ('first', None), (1, 1)),
    Game('x', 'y', (None,), (1, 1)),
    Game('x', 'y', (), (1, 1)),
  ]
  one = win_rates.versus(games)
  assert (one.rate.n, one.rate.mean, one.errors, one.same, one.ordered) == (2, 0.75, 2, 1, 1)
  nothing = win_rates.standings(games[1:3])
  assert nothing.pairs[0].rate.n == 0 and nothing.ratings is None
  assert 'NaN' not in json.dumps(win_rates.facts(nothing))


def test_who_never_lost_has_no_rating_but_with_a_prior():
  games = [Game('x', 'y', ('first', 'second'), (1, 1))] * 5
  found = win_rates.standings(games)
  assert found.ratings is None and 'x never lost to y' in found.refused and found.pairs[0].won == 5
  assert win_rates.standings(games, prior=0.5).ratings.elo['x'] > 1100
  apart = [*drawn(n=9, a=0, b=0), *drawn(n=9, c=0, d=0)]
  assert 'no match joins a, b and c, d' in win_rates.standings(apart).refused

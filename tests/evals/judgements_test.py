"""A judge that is asked in both orders."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from llm_jax.evals.judgements import first_position, verdicts
from llm_jax.evals.statistics import interval
from llm_jax.types import BadInput

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())


def test_known_favour():
  known = KNOWN['position']
  found = first_position(['first' if won else 'second' for won in known['first_won']])
  assert found.share == pytest.approx(known['share'], abs=1e-12)
  assert (found.low, found.high) == pytest.approx(known['wilson_95'], abs=1e-12)
  assert found.p == pytest.approx(known['two_sided_binomial_p'], abs=1e-12)
  assert found.n == len(known['first_won'])


@pytest.mark.parametrize(
  ('a_first', 'b_first', 'points'),
  [
    ('first', 'second', 1),
    ('second', 'first', 0),
    ('tie', 'tie', 0.5),
    ('first', 'first', 0.5),
    ('second', 'second', 0.5),
    ('first', 'tie', 0.5),
    ('tie', 'first', 0.5),
    (None, 'first', None),
    ('tie', None, None),
  ],
)
def test_a_pair_is_won_where_both_orders_agree(a_first, b_first, points):
  found = verdicts([a_first], [b_first])
  assert found.points == [points]
  agree = points in (0, 1) or (a_first, b_first) == ('tie', 'tie')
  assert (found.n, found.errors, found.flips) == (
    (0, 1, 0) if points is None else (1, 0, 0 if agree else 1)
  )


def test_swapping_the_answers_mirrors_the_verdicts():
  draw = np.random.default_rng(0)
  a_first, b_first = draw.choice(['first', 'second', 'tie'], (2, 60)).tolist()
  one, other = verdicts(a_first, b_first), verdicts(b_first, a_first)
  assert [1 - point for point in one.points] == other.points
  assert one[1:] == other[1:]


def test_a_judge_that_only_sees_places_decides_nothing():
  found = verdicts(['first'] * 30, ['first'] * 30)
  assert found.position_flip_rate == 1 and set(found.points) == {0.5}
  assert first_position(['first'] * 60).low > 0.9
  assert interval(found.points).mean == 0.5


def test_errors_are_in_no_denominator():
  found = verdicts(['first', None, 'first'], ['second', None, 'first'])
  assert found.position_flip_rate == 0.5
  assert (found.n, found.errors) == (2, 1)
  assert first_position(['first', None, 'tie', 'second']).n == 2


def test_nothing():
  assert math.isnan(verdicts([], []).position_flip_rate)
  nothing = first_position(['tie', None])
  assert math.isnan(nothing.share) and nothing[1:] == (0, 1, 1, 0)


def test_bad_input():
  with pytest.raises(BadInput, match="chose 'A'"):
    verdicts(['A'], ['first'])
  with pytest.raises(BadInput, match='2 and 1 choices'):
    verdicts(['first', 'tie'], ['first'])

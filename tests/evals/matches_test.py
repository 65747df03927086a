"""Win rates count a tie as half, and are the same seen from either side."""

import json
from pathlib import Path

import numpy as np
import pytest

from llm_jax.evals.matches import played, points, win_rate
from llm_jax.types import BadInput

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())
MATCHES = KNOWN['matches']['matches']


def test_known_win_rate():
  known = KNOWN['matches']['dpo_against_sft']
  found = win_rate(MATCHES, 'dpo', 'sft')
  assert sum(points(MATCHES, 'dpo', 'sft')) == known['points'] and found.n == known['games']
  assert found.mean == pytest.approx(known['win_rate'], abs=1e-12)


def test_the_other_side_sees_the_rest():
  one, other = win_rate(MATCHES, 'dpo', 'sft'), win_rate(MATCHES, 'sft', 'dpo')
  assert one.mean + other.mean == pytest.approx(1)
  assert one.error == pytest.approx(other.error)
  assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
  mirrored = [(b, a, {'a': 'b', 'b': 'a'}.get(result, result)) for a, b, result in MATCHES]
  assert win_rate(mirrored, 'dpo', 'sft') == one


def test_against_all():
  others = [name for name in KNOWN['matches']['models'] if name != 'dpo']
  apart = [points(MATCHES, 'dpo', other) for other in others]
  assert sum(map(len, apart)) == win_rate(MATCHES, 'dpo').n
  assert sum(map(sum, apart)) == sum(points(MATCHES, 'dpo'))


def test_no_matches_are_no_win_rate():
  assert win_rate([], 'dpo').n == 0 and np.isnan(win_rate([], 'dpo').mean)
  all_won = win_rate([('dpo', 'sft', 'a')] * 8, 'dpo')
  assert all_won.mean == 1 and all_won.low < 0.7


def test_sums_by_model():
  table = played([('x', 'y', 'a'), ('y', 'x', 'a'), ('x', 'y', 'tie'), ('z', 'x', 'b')])
  assert table.models == ('x', 'y', 'z')
  wins = table.sums(table.points_B, 1 - table.points_B)
  np.testing.assert_array_equal(wins, [[0, 1.5, 1], [1.5, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
  ('match', 'says'),
  [(('x', 'y', 'A'), "match 0: result 'A'"), (('x', 'x', 'a'), 'match 0: x meets itself')],
)
def test_bad_input(match, says):
  with pytest.raises(BadInput, match=says):
    played([match])

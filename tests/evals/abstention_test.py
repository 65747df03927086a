"""Right, wrong, refused, failed."""

import json
import math
from functools import partial
from pathlib import Path

import pytest

from llm_jax.evals import abstention
from llm_jax.evals.abstention import outcomes
from llm_jax.types import BadInput, Counts

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())
KNOWN = KNOWN['abstention']
NAMES = (
  *('answered_right', 'invention_rate', 'refusal_rate', 'accuracy_given_attempted', 'simpleqa_f'),
  *('over_refusal_on_known', 'invention_on_unknown', 'refusal_precision', 'refusal_recall'),
)


def test_known_values():
  sums = outcomes(KNOWN['outcome'], KNOWN['known'])
  assert {name: sums[name] for name in KNOWN['counts']} == KNOWN['counts']
  found = {name: getattr(abstention, name)(sums) for name in NAMES}
  assert found == pytest.approx({name: KNOWN[name] for name in NAMES}, abs=1e-12)
  for cost, wanted in KNOWN['score_wrong_costs'].items():
    assert abstention.score_wrong_costs(sums, float(cost)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('cut', [0, 30, 90])
def test_parts_add_up(name, cut):
  outcome, known, compute = KNOWN['outcome'], KNOWN['known'], getattr(abstention, name)
  parts = [outcomes(outcome[rows], known[rows]) for rows in (slice(cut), slice(cut, None))]
  found = (Counts(parts[0], compute) + Counts(parts[1], compute)).value
  assert found == pytest.approx(KNOWN[name], abs=1e-12)


@pytest.mark.parametrize('name', NAMES)
def test_what_failed_is_in_no_denominator(name):
  outcome, known = [*KNOWN['outcome'], 'failed', 'failed'], [*KNOWN['known'], 0, 1]
  sums = outcomes(outcome, known)
  assert getattr(abstention, name)(sums) == pytest.approx(KNOWN[name], abs=1e-12)
  assert abstention.failure_rate(sums) == 2 / 92


def test_shares_of_nothing_are_nan():
  nothing, refused = outcomes([]), outcomes(['refused'], [1])
  assert all(math.isnan(getattr(abstention, name)(nothing)) for name in NAMES)
  assert math.isnan(abstention.accuracy_given_attempted(refused))
  assert math.isnan(abstention.invention_on_unknown(refused))
  assert abstention.simpleqa_f(refused) == 0 == abstention.refusal_precision(refused)
  unasked = outcomes(KNOWN['outcome'])
  assert math.isnan(abstention.refusal_precision(unasked))
  assert abstention.refusal_rate(unasked) == pytest.approx(KNOWN['refusal_rate'])


@pytest.mark.parametrize('cost', [1, 3, 9])
def test_guessing_pays_above_the_odds(cost):
  score = partial(abstention.score_wrong_costs, cost=cost)
  assert score(outcomes(['refused'] * 4)) == 0
  even = outcomes(['right'] * cost + ['wrong'])  # right with probability cost / (1 + cost)
  assert score(even) == 0
  assert score(outcomes(['right'] * (cost + 1) + ['wrong'])) > 0


def test_bad_input():
  with pytest.raises(BadInput, match=r"'rihgt' is none.*right"):
    outcomes(['rihgt'])
  with pytest.raises(BadInput, match='2 outcomes, and known of 1'):
    outcomes(['right', 'wrong'], [1])

"""Answers that may be refused: right, wrong, refused, or failed, which is none of the three.

A wrong answer and an honest "I do not know" are not the same, and accuracy cannot tell them apart.
What failed (no answer came, or its judge did not answer) is counted and in no denominator.
`Counts(outcomes(...), simpleqa_f)` is a metric, and so is every function here. A share of nothing
is nan.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from llm_jax.options import suggest
from llm_jax.types import BadInput

Sums = Mapping[str, Any]
Outcome = Literal['right', 'wrong', 'refused', 'failed']
OUTCOMES = ('right', 'wrong', 'refused', 'failed')


def outcomes(outcome_B: Sequence[Outcome], known_B: Sequence[Any] | None = None) -> Sums:
  """How often each outcome came, and of those how often the model knew the answer or did not.

  >>> sums = outcomes(['right', 'wrong', 'refused', 'failed'], known_B=[1, 0, 0, 1])
  >>> sums['wrong'], sums['wrong_unknown'], sums['failed_known'], sums['right_unknown']
  (1, 1, 1, 0)

  Args:
    outcome_B: one an answer.
    known_B: whether the model knows what was asked, by a test of its own; without it the numbers
      about known and unknown questions are nan.
  """
  sums = dict.fromkeys(
    (*OUTCOMES, *(f'{outcome}_{known}' for outcome in OUTCOMES for known in ('known', 'unknown'))),
    0,
  )
  if known_B is not None and len(known_B) != len(outcome_B):
    raise BadInput(f'outcomes: {len(outcome_B)} outcomes, and known of {len(known_B)}')
  for i, outcome in enumerate(outcome_B):
    if outcome not in OUTCOMES:
      raise BadInput(f'outcomes: {outcome!r} is none; {suggest(str(outcome), OUTCOMES)}')
    sums[outcome] += 1
    if known_B is not None:
      sums[f'{outcome}_{"known" if known_B[i] else "unknown"}'] += 1
  return sums


def answered_right(sums: Sums) -> float:
  """Right among all, which are right, wrong and refused.

  >>> sums = outcomes(['right', 'right', 'wrong', 'refused', 'failed'])
  >>> answered_right(sums), invention_rate(sums), refusal_rate(sums)
  (0.5, 0.25, 0.25)
  """
  return _share(sums['right'], _all(sums))


def invention_rate(sums: Sums) -> float:
  """Wrong among all: how often something untrue was said."""
  return _share(sums['wrong'], _all(sums))


def refusal_rate(sums: Sums) -> float:
  """Refused among all."""
  return _share(sums['refused'], _all(sums))


def failure_rate(sums: Sums) -> float:
  """Failed among all and failed."""
  return _share(sums['failed'], _all(sums) + sums['failed'])


def accuracy_given_attempted(sums: Sums) -> float:
  """Right among right and wrong."""
  return _share(sums['right'], sums['right'] + sums['wrong'])


def simpleqa_f(sums: Sums) -> float:
  """SimpleQA's F (arXiv:2411.04368): the harmonic mean of right/all and right/attempted.

  It is 0 where nothing is right.

  >>> simpleqa_f(outcomes(['right', 'right', 'wrong', 'refused']))  # of 1/2 and 2/3
  0.5714285714285714
  """
  return _share(2 * sums['right'], _all(sums) + sums['right'] + sums['wrong'])


def over_refusal_on_known(sums: Sums) -> float:
  """Refused among questions that the model knows."""
  return _share(sums['refused_known'], _all(sums, '_known'))


def invention_on_unknown(sums: Sums) -> float:
  """Wrong among questions that the model does not know."""
  return _share(sums['wrong_unknown'], _all(sums, '_unknown'))


def refusal_precision(sums: Sums) -> float:
  """Not known among refused."""
  return _share(sums['refused_unknown'], sums['refused_known'] + sums['refused_unknown'])


def refusal_recall(sums: Sums) -> float:
  """Refused among questions that the model does not know."""
  return _share(sums['refused_unknown'], _all(sums, '_unknown'))


def score_wrong_costs(sums: Sums, cost: float) -> float:
  """The mean of 1 for right, 0 for refused and -cost for wrong, arXiv:2509.04664.

  Who is right with probability above cost / (1 + cost) gains by answering.

  >>> score_wrong_costs(outcomes(['right', 'right', 'wrong', 'refused']), cost=3)
  -0.25
  """
  return _share(sums['right'] - cost * sums['wrong'], _all(sums))


def _all(sums: Sums, which: str = '') -> int:
  return sum(sums[outcome + which] for outcome in OUTCOMES if outcome != 'failed')


def _share(part: float, whole: float) -> float:
  return part / whole if whole else math.nan

"""What a judge says of two answers that it saw in both orders, arXiv:2306.05685, section 3.4.

Judges favour a place: many prefer what they are shown first. So a pair is won only where both
orders agree, else it is a tie, and the places are counted.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from llm_jax.evals.statistics import binomial_test, wilson
from llm_jax.types import BadInput

Choice = Literal['first', 'second', 'tie']


class Verdicts(NamedTuple):
  """The pairs that were judged.

  Attributes:
    points: of answer a of each pair: 1 won, 0 lost, 0.5 tie, None where the judge failed.
    n: pairs that were judged in both orders.
    flips: pairs among them that were decided differently in the two orders; they are ties.
    errors: pairs that were not judged in both orders; they are in no denominator.
  """

  points: list[float | None]
  n: int
  flips: int
  errors: int

  @property
  def position_flip_rate(self) -> float:
    """flips / n; nan where nothing was judged."""
    return self.flips / self.n if self.n else math.nan


def verdicts(a_first: Sequence[Choice | None], b_first: Sequence[Choice | None]) -> Verdicts:
  """One verdict for each pair, of what the judge chose in either order.

  >>> found = verdicts(['first', 'first', 'tie', None], ['second', 'first', 'tie', 'first'])
  >>> found.points, found.errors, round(found.position_flip_rate, 3)
  ([1.0, 0.5, 0.5, None], 1, 0.333)

  Args:
    a_first: which answer was better where answer a was shown first; None where the judge failed.
    b_first: the same pairs with answer b shown first.
  """
  if len(a_first) != len(b_first):
    raise BadInput(f'verdicts: {len(a_first)} and {len(b_first)} choices; give both of each pair')
  points: list[float | None] = []
  flips = 0
  for straight, turned in zip(a_first, b_first):
    of_a = _points(straight), _points(turned)
    if of_a[0] is None or of_a[1] is None:
      points.append(None)
      continue
    agree = of_a[0] == 1 - of_a[1]
    flips += not agree
    points.append(of_a[0] if agree else 0.5)
  errors = sum(point is None for point in points)
  return Verdicts(points, len(points) - errors, flips, errors)


class FirstPosition(NamedTuple):
  """How often what was shown first won, Wilson's 95 % interval, and the p-value of no favour."""

  share: float
  low: float
  high: float
  p: float
  n: int


def first_position(choices: Sequence[Choice | None]) -> FirstPosition:
  """The share of decisions for what was shown first; ties and failures are no decisions.

  Where the two answers are in random order, or each pair in both, it is 0.5 for a judge without
  favour. The p-value is that of a fair coin, two-sided and exact.

  >>> found = first_position(['first'] * 8 + ['second'] * 2 + ['tie'])
  >>> found.share, found.n, round(found.p, 4)
  (0.8, 10, 0.1094)
  """
  decided = [point for point in map(_points, choices) if point in (0, 1)]
  won, n = sum(point == 1 for point in decided), len(decided)
  return FirstPosition(won / n if n else math.nan, *wilson(won, n), binomial_test(won, n), n)


def _points(choice: Choice | None) -> float | None:
  """Of what was shown first."""
  if choice is not None and choice not in ('first', 'second', 'tie'):
    raise BadInput(f"a judge chose {choice!r}; give 'first', 'second', 'tie', or None if it failed")
  return None if choice is None else {'first': 1.0, 'tie': 0.5, 'second': 0.0}[choice]

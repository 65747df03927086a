"""Win rates of models from pairs of answers: orders, ties, lengths, errors, ratings; pure NumPy."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

from llm_jax.evals.bradley_terry import Ratings, bradley_terry
from llm_jax.evals.judgements import Choice, FirstPosition, first_position, verdicts
from llm_jax.evals.length_control import LengthControlled, length_controlled
from llm_jax.evals.matches import Match, win_rate
from llm_jax.evals.statistics import Interval
from llm_jax.types import BadInput


class Game(NamedTuple):
  """Two answers to one question, and what the judge chose.

  Attributes:
    a: the name of a model.
    b: of the other.
    choices: of 'first', 'second', 'tie' and None (no verdict): with answer a shown first and, of a
      judge that has an order, also with answer b shown first. Empty where both answers are the same
      text, which is a tie that nobody was asked about.
    lengths: of both answers, in any unit.
  """

  a: str
  b: str
  choices: tuple[Choice | None, ...]
  lengths: tuple[int, int]

  @property
  def points(self) -> float | None:
    """Of a: 1 won, 0.5 tie, 0 lost, None where a verdict is missing.

    >>> Game('x', 'y', ('first', 'second'), (3, 4)).points  # x wins in both places
    1.0
    >>> Game('x', 'y', ('first', 'first'), (3, 4)).points  # the place wins
    0.5
    """
    if not self.choices:
      return 0.5
    return verdicts(self.choices[:1], [self._turned]).points[0]

  @property
  def flips(self) -> bool:
    """Whether the two orders were decided differently."""
    return len(self.choices) == 2 and bool(verdicts(self.choices[:1], self.choices[1:]).flips)

  @property
  def _turned(self) -> Choice | None:
    """The second choice; for a judge without an order, what it would be."""
    if len(self.choices) == 2:
      return self.choices[1]
    mirror: dict[Choice, Choice] = {'first': 'second', 'second': 'first', 'tie': 'tie'}
    return None if self.choices[0] is None else mirror[self.choices[0]]


class Versus(NamedTuple):
  """How model a did against model b.

  Attributes:
    a: its name.
    b: the other's.
    rate: points of a game, a tie half, with the interval; games are the units.
    controlled: what the rate would be if all answers were equally long.
    won: games.
    tied: games, those of equal texts included.
    lost: games.
    same: games whose texts are equal.
    ordered: games that were judged in both orders.
    flips: those among them that were decided differently; they are ties.
    errors: games without a verdict, which are in none of the other numbers.
  """

  a: str
  b: str
  rate: Interval
  controlled: LengthControlled
  won: int
  tied: int
  lost: int
  same: int
  ordered: int
  flips: int
  errors: int

  @property
  def flip_rate(self) -> float:
    """flips / ordered; nan for a judge without an order."""
    return self.flips / self.ordered if self.ordered else math.nan


class Standings(NamedTuple):
  """All of it.

  Attributes:
    pairs: each pair of models that met.
    rates: of each model, its points of a game against all others.
    ratings: of Bradley and Terry, or None.
    elo: their 95 % intervals on Elo's scale, from the sandwich; empty without ratings.
    refused: why there are no ratings.
    first: how often what was shown first won, over all that a judge with an order said.
  """

  pairs: list[Versus]
  rates: dict[str, Interval]
  ratings: Ratings | None
  elo: dict[str, tuple[float, float]]
  refused: str
  first: FirstPosition


def standings(games: Sequence[Game], prior: float = 0.0) -> Standings:
  """Win rates and ratings from games.

  Ratings stand for all models together, and intervals of theirs take games for independent, though
  those of one question go together.

  Args:
    games: of any pairs of models, each pair always named in the same order.
    prior: wins each way that are added for the ratings, see `bradley_terry`.
  """
  names = dict.fromkeys((game.a, game.b) for game in games)
  pairs = [versus([game for game in games if (game.a, game.b) == both]) for both in names]
  matches = _matches(games)
  models = dict.fromkeys(name for match in matches for name in match[:2])
  shown: list[Choice | None] = []
  for game in games:
    shown += game.choices if len(game.choices) == 2 else ()
  ratings, refused = None, ''
  try:
    ratings = bradley_terry(matches, prior)
  except BadInput as error:
    refused = str(error)
  return Standings(
    pairs,
    {name: win_rate(matches, name) for name in models},
    ratings,
    _intervals(ratings) if ratings else {},
    refused,
    first_position(shown),
  )


def versus(games: Sequence[Game]) -> Versus:
  """The numbers of one pair of models, from its games."""
  judged = [(game, points) for game in games if (points := game.points) is not None]
  points = [points for _, points in judged]
  both = [game for game, _ in judged if len(game.choices) == 2]
  a, b = games[0].a, games[0].b
  return Versus(
    a,
    b,
    win_rate(_matches(games), a, b),
    length_controlled(points, [game.lengths[0] - game.lengths[1] for game, _ in judged]),
    points.count(1.0),
    points.count(0.5),
    points.count(0.0),
    sum(not game.choices for game in games),
    len(both),
    sum(game.flips for game in both),
    len(games) - len(judged),
  )


def row(found: Versus) -> dict[str, Any]:
  """A pair as plain numbers for a table or a log; None for what is not known.

  >>> found = row(versus([Game('x', 'y', ('first', 'second'), (30, 40))] * 3))
  >>> found['win_rate'], found['n'], found['flip_rate'], found['length_difference']
  (1.0, 3, 0.0, -10.0)
  """
  even = found.controlled
  numbers = {
    'win_rate': found.rate.mean,
    'low': found.rate.low,
    'high': found.rate.high,
    'controlled': even.controlled,
    'controlled_low': even.low,
    'controlled_high': even.high,
    'length_difference': even.length_difference,
    'n': found.rate.n,
    **{name: getattr(found, name) for name in ('won', 'tied', 'lost', 'same')},
    **{name: getattr(found, name) for name in ('ordered', 'flips', 'flip_rate', 'errors')},
  }
  return {name: _known(value) for name, value in numbers.items()}


def facts(found: Standings) -> dict[str, Any]:
  """All of it as JSON has it."""
  first = {name: _known(value) for name, value in found.first._asdict().items()}
  rated = found.ratings
  return {
    'pairs': [{'a': one.a, 'b': one.b, **row(one)} for one in found.pairs],
    'models': {
      name: {
        'win_rate': _known(rate.mean),
        'low': _known(rate.low),
        'high': _known(rate.high),
        'n': rate.n,
        'elo': rated.elo[name] if rated else None,
        'elo_low': found.elo[name][0] if rated else None,
        'elo_high': found.elo[name][1] if rated else None,
      }
      for name, rate in found.rates.items()
    },
    'refused': found.refused,
    'first_position': first,
  }


def _matches(games: Sequence[Game]) -> list[Match]:
  names: dict[float, Any] = {1.0: 'a', 0.5: 'tie', 0.0: 'b'}
  return [(game.a, game.b, names[points]) for game in games if (points := game.points) is not None]


def _intervals(ratings: Ratings) -> dict[str, tuple[float, float]]:
  scale = NormalDist().inv_cdf(0.975) * 400 / math.log(10)  # points of Elo of an error
  found = {}
  for name, elo in ratings.elo.items():
    # Where every game is a tie the sandwich is 0, which says too much.
    robust, plain = ratings.robust_error[name], ratings.error[name]
    half = scale * (robust if robust > 1e-6 * plain else plain)
    found[name] = (elo - half, elo + half)
  return found


def _known(value: float) -> float | int | None:
  return value if isinstance(value, int) or not math.isnan(value) else None

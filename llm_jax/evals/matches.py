"""Answers of two models to one prompt, and which is better: win rates with ties as half.

A match is (a, b, result): the names of two models, and 'a', 'b' or 'tie'.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from llm_jax.evals.statistics import Interval, interval
from llm_jax.types import BadInput

Match = tuple[str, str, Literal['a', 'b', 'tie']]
POINTS = {'a': 1.0, 'tie': 0.5, 'b': 0.0}


class Played(NamedTuple):
  """Matches as arrays.

  Attributes:
    models: M names, in the order in which they first played.
    first_B: the number of model a.
    second_B: of model b.
    points_B: of model a: 1, 0.5 or 0.
  """

  models: tuple[str, ...]
  first_B: np.ndarray
  second_B: np.ndarray
  points_B: np.ndarray

  def sums(self, values_B: np.ndarray, mirrored_B: np.ndarray) -> np.ndarray:
    """[M, M]: `values_B` added up where model a is the row, `mirrored_B` where b is."""
    M = len(self.models)
    cells = np.concatenate([self.first_B * M + self.second_B, self.second_B * M + self.first_B])
    return np.bincount(cells, np.concatenate([values_B, mirrored_B]), M * M).reshape(M, M)


def played(matches: Sequence[Match]) -> Played:
  """The matches as arrays.

  >>> played([('dpo', 'sft', 'a'), ('sft', 'dpo', 'tie')]).points_B.tolist()
  [1.0, 0.5]

  Raises:
    BadInput: a result that is none, or a model that meets itself.
  """
  number: dict[str, int] = {}
  for i, (a, b, result) in enumerate(matches):
    if result not in POINTS:
      raise BadInput(f"match {i}: result {result!r}; give 'a', 'b' or 'tie'")
    if a == b:
      raise BadInput(f'match {i}: {a} meets itself; give two models')
    for name in (a, b):
      number.setdefault(name, len(number))
  first_B, second_B = (np.array([number[m[side]] for m in matches], np.intp) for side in (0, 1))
  points_B = np.array([POINTS[result] for _, _, result in matches], np.float64)
  return Played(tuple(number), first_B, second_B, points_B)


def points(matches: Sequence[Match], model: str, other: str | None = None) -> list[float]:
  """What the model got in each of its matches against the other, or against all: 1, 0.5 or 0.

  >>> points([('dpo', 'sft', 'a'), ('sft', 'dpo', 'a'), ('dpo', 'base', 'tie')], 'dpo')
  [1.0, 0.0, 0.5]
  """
  found = []
  for a, b, result in matches:
    if model in (a, b) and other in (None, a, b):
      found.append(POINTS[result] if a == model else 1 - POINTS[result])
  return found


def win_rate(matches: Sequence[Match], model: str, other: str | None = None) -> Interval:
  """The mean of `points` with its interval; a match is the unit, however often it was judged.

  A judge that is asked twice about a pair, in both orders, makes one match: see `judgements.py`.

  >>> found = win_rate([('dpo', 'sft', 'a'), ('sft', 'dpo', 'tie')] * 10, 'dpo', 'sft')
  >>> found.mean, found.n, round(found.low, 3), round(found.high, 3)
  (0.75, 20, 0.63, 0.87)
  """
  return interval(points(matches, model, other))

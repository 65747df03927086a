"""Ratings from matches: Bradley and Terry's model by maximum likelihood, arXiv:2403.04132.

P(a beats b) = sigmoid(rating of a - rating of b), and a tie is half a win. Ratings in logits have
mean 0. On Elo's scale, 400 points make odds of ten to one, and the mean is 1000.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_jax.evals.matches import Match, Played, played
from llm_jax.evals.newton import maximise
from llm_jax.types import BadInput

_ELO = 400 / math.log(10)  # points of a logit


class Ratings(NamedTuple):
  """Ratings of models, each a number by name.

  Attributes:
    logit: ratings whose differences are log odds; their mean is 0.
    elo: the same as 1000 + 400 log10 of odds.
    error: standard errors of `logit`, from the second derivatives, if the model holds.
    robust_error: the same from the sandwich, which also holds where it does not, or with ties.
    matches: how many there are.
  """

  logit: dict[str, float]
  elo: dict[str, float]
  error: dict[str, float]
  robust_error: dict[str, float]
  matches: int


def bradley_terry(matches: Sequence[Match], prior: float = 0.0) -> Ratings:
  """The ratings that make the matches most likely.

  >>> found = bradley_terry([('dpo', 'sft', 'a')] * 3 + [('sft', 'dpo', 'a')])  # odds of 3 to 1
  >>> round(found.elo['dpo'] - found.elo['sft'], 1), round(400 * math.log10(3), 1)
  (190.8, 190.8)

  Args:
    matches: (a, b, 'a', 'b' or 'tie').
    prior: wins each way that are added to every pair that met. 0.5 gives finite ratings to a model
      that never lost, and draws all ratings together a little.

  Raises:
    BadInput: no finite ratings fit, or no match joins two groups of models; it names them.
  """
  table = played(matches)
  if not len(table.points_B):
    raise BadInput('bradley_terry: no matches; give at least one')
  _joined(table)
  wins_MM = table.sums(table.points_B, 1 - table.points_B)
  wins_MM += prior * (wins_MM + wins_MM.T > 0)
  _finite(wins_MM, table.models)
  logit_M = _fit(wins_MM[None])[0]
  chance_MM = _sigmoid(logit_M[:, None] - logit_M)
  inverse_MM = np.linalg.pinv(_laplacian((wins_MM + wins_MM.T) * chance_MM * (1 - chance_MM)))
  squares_B = (table.points_B - chance_MM[table.first_B, table.second_B]) ** 2
  robust_MM = inverse_MM @ _laplacian(table.sums(squares_B, squares_B)) @ inverse_MM
  named = lambda values_M: dict(zip(table.models, values_M.tolist()))
  return Ratings(
    named(logit_M),
    named(1000 + _ELO * logit_M),
    named(np.diag(inverse_MM) ** 0.5),
    named(np.diag(robust_MM) ** 0.5),
    len(matches),
  )


def elo_intervals(
  matches: Sequence[Match],
  prior: float = 0.0,
  iterations: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> dict[str, tuple[float, float]]:
  """Percentile intervals of Elo ratings by the bootstrap: n matches drawn of n, fitted again.

  The draws are those of NumPy's `default_rng(seed).integers(0, n, n)`, once an iteration. Draws
  without a finite fit are left out where they are 1 % or fewer.

  Args:
    matches: (a, b, 'a', 'b' or 'tie').
    prior: as in `bradley_terry`.
    iterations: how many draws.
    seed: of the generator.
    level: share of draws inside.

  Raises:
    BadInput: as in `bradley_terry`, or for more than 1 % of the draws.
  """
  bradley_terry(matches, prior)
  table, generator = played(matches), np.random.default_rng(seed)
  n, M = len(matches), len(table.models)
  wins_MM = table.sums(table.points_B, 1 - table.points_B)
  extra_MM = prior * (wins_MM + wins_MM.T > 0)
  found, chunk = [], max(1, 2_000_000 // (M * M))
  for start in range(0, iterations, chunk):
    wins_RMM = np.empty((min(chunk, iterations - start), M, M))
    for i in range(len(wins_RMM)):
      times_B = np.bincount(generator.integers(0, n, n), minlength=n)
      wins_RMM[i] = extra_MM + table.sums(times_B * table.points_B, times_B * (1 - table.points_B))
    finite_R = _reach(wins_RMM > 0).all((1, 2))
    found.append(1000 + _ELO * _fit(wins_RMM[finite_R]))
  elo_RM = np.concatenate(found)
  if len(elo_RM) < 0.99 * iterations:
    raise BadInput(
      f'elo_intervals: {iterations - len(elo_RM)} of {iterations} draws have no finite ratings, '
      'for a model hardly ever loses or wins; give more matches, or prior=0.5'
    )
  low_M, high_M = np.quantile(elo_RM, [(1 - level) / 2, (1 + level) / 2], axis=0)
  return dict(zip(table.models, zip(low_M.tolist(), high_M.tolist())))


def online_elo(matches: Sequence[Match], k: float = 4.0) -> dict[str, float]:
  """Elo's update after every match, from 1000 each. The same matches in another order give others.

  It is here to compare with published tables. Report `bradley_terry`, which has no order.

  >>> lost_last = online_elo([('dpo', 'sft', 'a'), ('dpo', 'sft', 'b')], k=32)
  >>> won_last = online_elo([('dpo', 'sft', 'b'), ('dpo', 'sft', 'a')], k=32)
  >>> round(lost_last['dpo'], 2), round(won_last['dpo'], 2)
  (998.53, 1001.47)

  Args:
    matches: in the order they were played in.
    k: points that a rating can move by.
  """
  table = played(matches)
  elo = [1000.0] * len(table.models)
  for a, b, point in zip(table.first_B, table.second_B, table.points_B):
    gain = k * (float(point) - 1 / (1 + 10 ** ((elo[b] - elo[a]) / 400)))
    elo[a], elo[b] = elo[a] + gain, elo[b] - gain
  return dict(zip(table.models, elo))


def _fit(wins_RMM: np.ndarray) -> np.ndarray:
  """Ratings in logits, [R, M], of mean 0, from points of the row against the column."""
  games_RMM = wins_RMM + wins_RMM.swapaxes(1, 2)
  R, M, _ = wins_RMM.shape

  def derivatives(logit_RM: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gap_RMM = logit_RM[:, :, None] - logit_RM[:, None, :]
    chance_RMM = _sigmoid(gap_RMM)
    value_R = -(wins_RMM * np.logaddexp(0, -gap_RMM)).sum((1, 2))
    gradient_RM = (wins_RMM - games_RMM * chance_RMM).sum(2)
    curvature_RMM = _laplacian(games_RMM * chance_RMM * (1 - chance_RMM))
    return value_R, gradient_RM, curvature_RMM + 1 / M  # all ratings moved alike change nothing

  logit_RM = maximise(derivatives, np.zeros((R, M)))
  return logit_RM - logit_RM.mean(1, keepdims=True)


def _laplacian(weights_RMM: np.ndarray) -> np.ndarray:
  """sum over pairs of weight (e_a - e_b)(e_a - e_b)^T, from symmetric weights."""
  return np.eye(weights_RMM.shape[-1]) * weights_RMM.sum(-1)[..., None] - weights_RMM


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return np.exp(-np.logaddexp(0, -x))


def _reach(edges_RMM: np.ndarray) -> np.ndarray:
  """[R, M, M], whether a path leads from the row to the column."""
  M = edges_RMM.shape[-1]
  reach_RMM = edges_RMM | np.eye(M, dtype=bool)
  for _ in range(M.bit_length()):
    reach_RMM = reach_RMM.astype(np.float32) @ reach_RMM.astype(np.float32) > 0
  return reach_RMM


def _joined(table: Played) -> None:
  """Refuses groups of models that never met."""
  ones_B = np.ones(len(table.points_B))
  near_M = _reach(table.sums(ones_B, ones_B)[None] > 0)[0, 0]
  if not near_M.all():
    raise BadInput(
      f'bradley_terry: no match joins {_names(table.models, near_M)} and '
      f'{_names(table.models, ~near_M)}; rate them apart, or let them meet'
    )


def _finite(wins_MM: np.ndarray, models: Sequence[str]) -> None:
  """Refuses what has no finite fit: Ford, American Mathematical Monthly 64 (1957), 28.

  Ratings are finite where from each model a chain of wins, or of ties, leads to every other.
  """
  beats_MM = _reach(wins_MM[None] > 0)[0]
  if beats_MM.all():
    return
  top = int(np.argmax(beats_MM.sum(1) - beats_MM.sum(0)))  # nobody outside its circle beats it
  circle_M = beats_MM[top] & beats_MM[:, top]
  raise BadInput(
    f'bradley_terry: {_names(models, circle_M)} never lost to {_names(models, ~circle_M)}, so no '
    'finite ratings fit; give more matches, or prior=0.5 for half a win each way'
  )


def _names(models: Sequence[str], which_M: np.ndarray) -> str:
  return ', '.join(name for name, inside in zip(models, which_M) if inside)

"""A metric on each question: how sure the number of all is, and whether two models differ.

A mean has the intervals of `statistics.py`. What is no mean, such as an F1, is computed from the
answers again and again, with questions drawn anew; where questions share a passage, passages are.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np

from llm_jax.evals import differences, groups
from llm_jax.evals.bootstrap import resamples
from llm_jax.evals.statistics import Interval, interval

RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerQuestion:
  """A metric on each of n questions.

  Attributes:
    keys: names of the questions; two models are compared on those that both have answered.
    scores: of each answer, [n]; the metric is their mean. None where it is no mean.
    compute: the metric from numbers of questions, where it is no mean.
    clusters: what each question belongs to; empty where each stands for itself.
    subjects: of each question; empty where the task has none.
    chance: what a guess gets; None where that is not known.
    fewer: whether less is better.
  """

  keys: Sequence[str]
  scores: np.ndarray | None = None
  compute: Callable[[np.ndarray], float] | None = None
  clusters: Sequence[str] = ()
  subjects: Sequence[str] = ()
  chance: float | None = None
  fewer: bool = False


def estimate(metric: PerQuestion, level: float = 0.95) -> Interval:
  """The metric of all questions and its interval.

  >>> found = estimate(PerQuestion(keys='abcd', scores=np.array([1.0, 1, 1, 1])))
  >>> found.mean, round(found.low, 3)
  (1.0, 0.51)
  """
  if metric.scores is not None:
    return interval(metric.scores, [*metric.clusters] or None, level)
  n = len(metric.keys)
  value = _computed(metric, np.arange(n)) if n else math.nan
  drawn = [_computed(metric, index) for index in _draws(n, metric.clusters)]
  return Interval(value, *_spread(drawn, level), n, 'bootstrap' if drawn else 'none')


def by_subject(metric: PerQuestion) -> list[PerQuestion]:
  """The metric of each subject; empty where there are fewer than two, or it is no mean."""
  if metric.scores is None or len(set(metric.subjects)) < 2:
    return []
  places: dict[str, list[int]] = {}
  for i, subject in enumerate(metric.subjects):
    places.setdefault(subject, []).append(i)
  pick = lambda some, index: tuple(some[i] for i in index) if some else ()
  return [
    dataclasses.replace(
      metric,
      keys=pick(metric.keys, index),
      scores=metric.scores[index],
      clusters=pick(metric.clusters, index),
      subjects=pick(metric.subjects, index),
    )
    for index in (places[subject] for subject in sorted(places))
  ]


def mean_of(parts: Sequence[PerQuestion], centred: bool = False, level: float = 0.95) -> Interval:
  """The plain mean of several metrics with its interval; the parts are independent.

  Args:
    parts: of subjects, or of tasks.
    centred: each is counted from chance on, (metric - chance) / (1 - chance).
    level: of the interval.
  """
  found = [estimate(part) for part in parts]
  chances = [part.chance or 0.0 if centred else 0.0 for part in parts]
  means = [groups.centred(one.mean, chance) for one, chance in zip(found, chances, strict=True)]
  error = groups.error_of_mean_of_groups(
    [one.error / (1 - chance) for one, chance in zip(found, chances, strict=True)]
  )
  mean, half = groups.mean_of_groups(means), error * NormalDist().inv_cdf((1 + level) / 2)
  return Interval(mean, error, mean - half, mean + half, sum(one.n for one in found), 'normal')


def difference_of(
  firsts: Sequence[PerQuestion],
  seconds: Sequence[PerQuestion],
  centred: bool = False,
  level: float = 0.95,
) -> differences.Difference:
  """First minus second of `mean_of`, each part paired with its own."""
  found = [difference(*pair)[0] for pair in zip(firsts, seconds, strict=True)]
  scales = [1 - (part.chance or 0.0) if centred else 1.0 for part in firsts]
  mean = groups.mean_of_groups([one.mean / by for one, by in zip(found, scales, strict=True)])
  error = groups.error_of_mean_of_groups(
    [one.error / by for one, by in zip(found, scales, strict=True)]
  )
  half = error * NormalDist().inv_cdf((1 + level) / 2) if error > 0 else math.nan
  n = sum(one.n for one in found)
  return differences.Difference(mean, error, mean - half, mean + half, n)


def difference(
  first: PerQuestion, second: PerQuestion, level: float = 0.95
) -> tuple[differences.Difference, differences.McNemar | None]:
  """First minus second on the questions that both answered, and McNemar's test of accuracies.

  >>> right = lambda *scores: PerQuestion(keys='abc', scores=np.array(scores, float))
  >>> found, test = difference(right(1, 1, 0), right(1, 0, 0))
  >>> round(found.mean, 3), test
  (0.333, McNemar(only_first=1, only_second=0, p=1.0))
  """
  places = {key: i for i, key in enumerate(second.keys)}
  pairs = [(i, places[key]) for i, key in enumerate(first.keys) if key in places]
  mine, theirs = np.array(pairs, int).reshape(-1, 2).T
  clusters = [first.clusters[int(i)] for i in mine] if first.clusters else []
  if first.scores is not None and second.scores is not None:
    a, b = first.scores[mine], second.scores[theirs]
    right = len(a) and np.isin(np.concatenate([a, b]), (0, 1)).all()
    found = differences.paired(a, b, clusters or None, level)
    return found, differences.mcnemar(a, b) if right else None
  both = lambda index: _computed(first, mine[index]) - _computed(second, theirs[index])
  drawn = [both(index) for index in _draws(len(pairs), clusters)]
  mean = both(np.arange(len(pairs))) if pairs else math.nan
  return differences.Difference(mean, *_spread(drawn, level), len(pairs)), None


def _draws(count: int, clusters: Sequence[str]) -> Iterator[np.ndarray]:
  """Numbers of questions, drawn with replacement; of clusters all questions of those drawn."""
  members: dict[object, list[int]] = {}
  for i in range(count):
    members.setdefault(clusters[i] if clusters else i, []).append(i)
  units = [np.array(some) for some in members.values()]
  if len(units) < 2:
    return
  for index_RB in resamples(len(units), RESAMPLES):
    for index in index_RB:
      yield np.concatenate([units[i] for i in index]) if clusters else index


def _computed(metric: PerQuestion, index: np.ndarray) -> float:
  if metric.compute is not None:
    return float(metric.compute(index))
  return float(np.asarray(metric.scores)[index].mean())


def _spread(drawn: Sequence[float], level: float) -> tuple[float, float, float]:
  """Standard deviation and the two ends of what was drawn; nan for nothing."""
  if not drawn:
    return math.nan, math.nan, math.nan
  low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
  return float(np.std(drawn, ddof=1)), float(low), float(high)

"""A metric on each question: how sure the number of all is, and whether two models differ.

A mean has the intervals of `statistics.py`. What is no mean, such as an F1, is computed from the
answers again and again, with questions drawn anew; where questions share a passage, passages are.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

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


def of_subjects(metric: PerQuestion) -> tuple[float, float, int] | None:
  """The mean of the means of subjects, its standard error, and how many there are.

  None where there are fewer than two, or the metric is no mean. The error of a subject with a
  single question is not known, and then that of the mean is not.
  """
  if metric.scores is None or len(set(metric.subjects)) < 2:
    return None
  by_subject: dict[str, list[float]] = {}
  for subject, score in zip(metric.subjects, metric.scores, strict=True):
    by_subject.setdefault(subject, []).append(float(score))
  found = [interval(scores) for scores in by_subject.values()]
  error = groups.error_of_mean_of_groups([one.error for one in found])
  return groups.mean_of_groups([one.mean for one in found]), error, len(found)


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

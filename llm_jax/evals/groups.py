"""One number for a group of tasks, and its error: two means, each with an error of its own.

The mean by size asks how many of all questions were right, the mean of groups how good the tasks
went. They are two estimators, and the error of one says nothing of the other.
"""

import math
from typing import Any

import numpy as np

from llm_jax.types import BadInput


def mean_by_size(means: Any, sizes: Any) -> float:
  """The mean over all questions, from those of the groups.

  >>> mean_by_size([0.5, 1.0], [30, 10])
  0.625
  """
  means, sizes = _pair(means, sizes)
  return float(means @ sizes / sizes.sum()) if sizes.sum() else math.nan


def mean_of_groups(means: Any) -> float:
  """The plain mean of the groups, whatever their sizes.

  >>> mean_of_groups([0.5, 1.0])
  0.75
  """
  means = np.asarray(means, np.float64)
  return float(means.mean()) if len(means) else math.nan


def stratified_error(errors: Any, sizes: Any) -> float:
  """The standard error of `mean_by_size`: root of the sum of (n_i error_i)^2, over n.

  The groups are given, and only the questions in them are drawn.

  >>> round(stratified_error([0.1, 0.2], [30, 10]), 5)
  0.09014
  """
  errors, sizes = _pair(errors, sizes)
  return float(np.sum((sizes * errors) ** 2) ** 0.5 / sizes.sum()) if sizes.sum() else math.nan


def pooled_error(errors: Any, sizes: Any) -> float:
  """What lm-eval prints for a group: `pooled_sample_stderr` of lm_eval/api/metrics.py.

  One variance is assumed for all groups and pooled, sum of (n_i - 1) n_i error_i^2 over n minus the
  number of groups. It is not the error of either mean unless the groups are alike. A group of one
  question adds nothing; nan where there is no other.

  >>> round(pooled_error([0.1, 0.2], [30, 10]), 5)
  0.08996
  """
  errors, sizes = _pair(errors, sizes)
  freedom = sizes.sum() - len(sizes)
  if freedom <= 0:
    return math.nan
  squares = np.where(sizes > 1, (sizes - 1) * sizes * np.where(sizes > 1, errors, 0.0) ** 2, 0.0)
  return float((squares.sum() / freedom / sizes.sum()) ** 0.5)


def error_of_mean_of_groups(errors: Any) -> float:
  """The standard error of `mean_of_groups`: root of the sum of squares, over the number of groups.

  >>> error_of_mean_of_groups([0.3, 0.4])
  0.25
  """
  errors = np.asarray(errors, np.float64)
  return float((errors @ errors) ** 0.5 / len(errors)) if len(errors) else math.nan


def centred(accuracy: float, chance: float) -> float:
  """(accuracy - chance) / (1 - chance): 0 for a guess and 1 for all right; it can be below 0.

  CORE (arXiv:2406.11794) is the mean of it over 22 tasks.

  >>> centred(0.625, 0.25), centred(0.0, 0.5)
  (0.5, -1.0)

  Args:
    accuracy: from 0 to 1.
    chance: what a guess gets, as a share and not in per cent; below 1.
  """
  if not 0 <= chance < 1:
    raise BadInput(f'centred: chance {chance}; give a share from 0 to less than 1')
  return (accuracy - chance) / (1 - chance)


def mean_centred(accuracies: Any, chances: Any) -> float:
  """The plain mean of `centred` over tasks.

  >>> mean_centred([0.625, 0.5], [0.25, 0.5])
  0.25
  """
  accuracies, chances = _pair(accuracies, chances)
  return mean_of_groups([centred(*task) for task in zip(accuracies, chances)])


def _pair(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if x.shape != y.shape:
    raise BadInput(f'groups: {x.size} numbers and {y.size}; give one of each for every group')
  return x, y

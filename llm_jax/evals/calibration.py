"""Whether a model knows when it is right: confidence, from 0 to 1, against answers right or wrong.

Every number here is the same for any order of the answers. What is not defined is nan.
"""

import math
from typing import Any

import numpy as np

from llm_jax.evals.ranks import ranks
from llm_jax.types import BadInput


def auroc(confidence_B: Any, right_B: Any) -> float:
  """The probability that a right answer has more confidence than a wrong one; equal counts half.

  The area under the ROC curve, by Mann and Whitney's statistic. Nan unless there are both.

  >>> auroc([0.9, 0.6, 0.6, 0.1], [1, 1, 0, 0])
  0.875
  """
  confidence_B, right_B = _both(confidence_B, right_B)
  right, wrong = right_B.sum(), (1 - right_B).sum()
  if not right or not wrong:
    return math.nan
  return float((ranks(confidence_B)[right_B == 1].sum() - right * (right + 1) / 2) / right / wrong)


def risks(confidence_B: Any, right_B: Any) -> np.ndarray:
  """The share of errors among the k most confident answers, for k = 1 to n, arXiv:1705.08500.

  Answers of equal confidence could come in any order; each k is the mean over those.

  >>> risks([0.9, 0.6, 0.6, 0.1], [1, 1, 0, 0]).tolist()
  [0.0, 0.25, 0.3333333333333333, 0.5]
  """
  confidence_B, right_B = _both(confidence_B, right_B)
  _, place_B, count = np.unique(-confidence_B, return_inverse=True, return_counts=True)
  wrong = np.bincount(place_B, 1 - right_B, len(count))
  before = np.cumsum(count) - count
  ranked = np.repeat(np.arange(len(count)), count)
  k = np.arange(1, len(right_B) + 1)
  within = (k - before[ranked]) / count[ranked]
  return ((np.cumsum(wrong) - wrong)[ranked] + within * wrong[ranked]) / k


def risk_coverage_area(confidence_B: Any, right_B: Any) -> float:
  """The mean of `risks`: the lower, the better does confidence put right answers first.

  >>> round(risk_coverage_area([0.9, 0.6, 0.6, 0.1], [1, 1, 0, 0]), 4)
  0.2708
  """
  risk = risks(confidence_B, right_B)
  return float(risk.mean()) if len(risk) else math.nan


def accuracy_of_most_confident(confidence_B: Any, right_B: Any, share: float = 0.5) -> float:
  """The accuracy of that share of answers, rounded up, that the model is most confident of.

  >>> accuracy_of_most_confident([0.9, 0.6, 0.5, 0.1], [1, 1, 0, 0])
  1.0
  """
  if not 0 < share <= 1:
    raise BadInput(f'accuracy_of_most_confident: share {share}; give one above 0 and up to 1')
  risk = risks(confidence_B, right_B)
  k = max(1, math.ceil(share * len(risk) - 1e-9))  # 0.1 of 30 are 3, though 0.1 * 30 is above
  return float(1 - risk[k - 1]) if len(risk) else math.nan


def expected_calibration_error(confidence_B: Any, right_B: Any, bins: int = 10) -> float:
  """ECE, arXiv:1706.04599, eq. 3: |mean confidence - accuracy| of each bin, weighted by its size.

  Bins are equally wide and hold their upper end, (lower, upper]; the first holds 0 as well.

  >>> expected_calibration_error([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0])
  0.0
  >>> expected_calibration_error([1.0, 1.0, 0.0], [1, 0, 0])
  0.3333333333333333
  """
  confidence_B, right_B = _both(confidence_B, right_B)
  if not len(right_B):
    return math.nan
  bin_B = np.searchsorted(np.arange(1, bins) / bins, confidence_B)
  return float(np.abs(np.bincount(bin_B, confidence_B - right_B)).sum() / len(right_B))


def brier(confidence_B: Any, right_B: Any) -> float:
  """Brier's score: the mean of (confidence - right)^2.

  >>> brier([1.0, 0.5], [1, 0])
  0.125
  """
  confidence_B, right_B = _both(confidence_B, right_B)
  return float(np.mean((confidence_B - right_B) ** 2)) if len(right_B) else math.nan


def _both(confidence_B: Any, right_B: Any) -> tuple[np.ndarray, np.ndarray]:
  confidence_B, right_B = np.asarray(confidence_B, np.float64), np.asarray(right_B, np.float64)
  if confidence_B.shape != right_B.shape:
    raise BadInput(f'calibration: {confidence_B.size} confidences for {right_B.size} answers')
  if not ((confidence_B >= 0) & (confidence_B <= 1)).all():
    raise BadInput('calibration: a confidence outside [0, 1]; give probabilities')
  if not np.isin(right_B, (0, 1)).all():
    raise BadInput('calibration: answers that are neither right nor wrong; give 1 or 0')
  return confidence_B, right_B

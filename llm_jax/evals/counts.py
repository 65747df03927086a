"""Metrics that are no means, from sums that add up: F1, Matthews' and Pearson's correlations.

`Counts(confusion(said, gold), f1)` and `Counts(moments(said, gold), pearson)` are metrics; GLUE
(arXiv:1804.07461) is scored by these three and by accuracy. Each is 0 where it is not defined, as
when every prediction is the same. Sums of arrays of JAX are float32 and can be taken under `jit`;
all others are float64.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Sums = Mapping[str, Any]


def confusion(said_B: Any, gold_B: Any, weight_B: Any = 1.0) -> Sums:
  """How often class 1, not 0, was said and was right; an example counts `weight_B` times.

  >>> {k: float(v) for k, v in confusion([1, 1, 0, 0], [1, 0, 0, 0]).items()}
  {'true_positive': 1.0, 'false_positive': 1.0, 'false_negative': 0.0, 'true_negative': 2.0}
  """
  xp = _numpy(said_B, gold_B)
  said_B, gold_B = xp.asarray(said_B) > 0, xp.asarray(gold_B) > 0
  count = lambda where_B: (where_B * weight_B).sum()
  return {
    'true_positive': count(said_B & gold_B),
    'false_positive': count(said_B & ~gold_B),
    'false_negative': count(~said_B & gold_B),
    'true_negative': count(~said_B & ~gold_B),
  }


def f1(sums: Sums) -> float:
  """The harmonic mean of precision and recall of class 1, from `confusion`.

  >>> f1(confusion([1, 1, 0, 0], [1, 0, 0, 1]))
  0.5
  """
  twice = 2 * sums['true_positive']
  return _ratio(twice, twice + sums['false_positive'] + sums['false_negative'])


def matthews(sums: Sums) -> float:
  """Matthews' correlation of two classes, doi:10.1016/0005-2795(75)90109-9, from `confusion`.

  >>> matthews(confusion([1, 0, 0, 1], [1, 0, 0, 1])), matthews(confusion([1, 1], [1, 0]))
  (1.0, 0.0)
  """
  names = ('true_positive', 'false_positive', 'false_negative', 'true_negative')
  tp, fp, fn, tn = (float(sums[name]) for name in names)
  return _ratio(tp * tn - fp * fn, ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5)


def moments(x_B: Any, y_B: Any, weight_B: Any = 1.0) -> Sums:
  """Sums of two numbers an example, of their squares and of their product."""
  xp = _numpy(x_B, y_B)
  kind = np.float64 if xp is np else jnp.float32
  x_B, y_B = xp.asarray(x_B, kind), xp.asarray(y_B, kind)
  terms = {'count': xp.ones_like(x_B), 'x': x_B, 'y': y_B}
  terms |= {'xx': x_B * x_B, 'yy': y_B * y_B, 'xy': x_B * y_B}
  return {name: (value_B * weight_B).sum() for name, value_B in terms.items()}


def pearson(sums: Sums) -> float:
  """Pearson's correlation, from `moments`; that of ranks is Spearman's.

  >>> round(pearson(moments([1, 2, 3], [2, 4, 6])), 12)
  1.0
  """
  n, x, y, xx, yy, xy = (float(sums[name]) for name in ('count', 'x', 'y', 'xx', 'yy', 'xy'))
  return _ratio(n * xy - x * y, (max(n * xx - x * x, 0) * max(n * yy - y * y, 0)) ** 0.5)


def _numpy(*arrays: Any) -> ModuleType:
  return jnp if any(isinstance(x, jax.Array) for x in arrays) else np


def _ratio(part: Any, whole: Any) -> float:
  return float(part) / float(whole) if whole else 0.0

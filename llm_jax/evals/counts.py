"""Metrics that are no means, from sums that add up: F1, and the correlations of four authors.

`Counts(confusion(said, gold), f1)` and `Counts(moments(said, gold), pearson)` are metrics. GLUE
(arXiv:1804.07461) and SuperGLUE (arXiv:1905.00537) are scored by those of this file. Each is 0
where it is not defined, as when every prediction is the same. Sums of arrays of JAX are float32 and
can be taken under `jit`; all others are float64.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.evals.ranks import ranks
from llm_jax.types import BadInput

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


def table(said_B: Any, gold_B: Any, weight_B: Any = 1.0, *, classes: int) -> Sums:
  """How often each class was said for each: {'table': [C, C + 1]}, gold by said.

  The last column counts what is none of the classes, such as -1 for an answer that was not found.

  >>> table([0, 1, -1], [0, 0, 1], classes=2)['table'].tolist()
  [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

  Raises:
    BadInput: gold, where it is no array of JAX, is not one of 0, ..., classes - 1.
  """
  xp = _numpy(said_B, gold_B)
  said_B, gold_B = xp.asarray(said_B, int), xp.asarray(gold_B, int)
  if xp is np:
    wrong_B = gold_B[((gold_B < 0) | (gold_B >= classes)) & (np.asarray(weight_B) != 0)]
    if len(wrong_B):
      raise BadInput(f'table: gold {wrong_B[0]} is no class; give 0 to {classes - 1}')
  said_B = xp.where((said_B >= 0) & (said_B < classes), said_B, classes)
  gold_BC = (gold_B[:, None] == xp.arange(classes)) * xp.broadcast_to(
    xp.asarray(weight_B, float), gold_B.shape
  )[:, None]
  return {'table': gold_BC.T @ (said_B[:, None] == xp.arange(classes + 1)).astype(gold_BC.dtype)}


def accuracy(sums: Sums) -> float:
  """The share that was right, from `table`.

  >>> accuracy(table([0, 1, 2, 2], [0, 1, 1, 2], classes=3))
  0.75
  """
  table_CC = np.asarray(sums['table'], np.float64)
  return _ratio(np.trace(table_CC), table_CC.sum())


def macro_f1(sums: Sums) -> float:
  """The mean of the F1s of the classes, from `table`; as scikit-learn's `average='macro'`.

  A class that is neither gold nor said has no F1, and the mean is over the others. lm-eval counts
  it as 0. An answer that is none of the classes is missed by its gold class and has no F1 of its
  own.

  >>> macro_f1(table([0, 0, 1, 1], [0, 1, 1, 1], classes=3))  # 2/3 and 4/5
  0.7333333333333334
  """
  table_CC = np.asarray(sums['table'], np.float64)[:, :-1]
  gold_C, said_C = np.asarray(sums['table'], np.float64).sum(1), table_CC.sum(0)
  seen_C = gold_C + said_C > 0
  f1_C = 2 * np.diag(table_CC)[seen_C] / (gold_C + said_C)[seen_C]
  return _ratio(f1_C.sum(), len(f1_C))


def matthews_of_classes(sums: Sums) -> float:
  """R_K, Matthews' correlation of any number of classes, doi:10.1016/j.compbiolchem.2004.09.006.

  From `table`. With two classes it is `matthews`.

  >>> matthews_of_classes(table([0, 1, 2], [0, 1, 2], classes=3))
  1.0
  """
  table_CC = np.asarray(sums['table'], np.float64)
  gold_C, said_C, n = np.append(table_CC.sum(1), 0), table_CC.sum(0), table_CC.sum()
  spread = (n * n - gold_C @ gold_C) * (n * n - said_C @ said_C)
  return _ratio(n * np.trace(table_CC) - gold_C @ said_C, max(spread, 0) ** 0.5)


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

  A variance that is within the rounding of its sums counts as none.

  >>> round(pearson(moments([1, 2, 3], [2, 4, 6])), 12)
  1.0
  >>> pearson(moments([0.1, 0.1, 0.1], [1, 2, 3]))
  0.0
  """
  n, x, y, xx, yy, xy = (float(sums[name]) for name in ('count', 'x', 'y', 'xx', 'yy', 'xy'))
  rounding = 16 * float(np.finfo(np.asarray(sums['xx']).dtype).eps)
  spread = lambda z, zz: 0.0 if n * zz - z * z <= rounding * n * zz else n * zz - z * z
  return _ratio(n * xy - x * y, (spread(x, xx) * spread(y, yy)) ** 0.5)


def listed(x_B: Any, y_B: Any) -> Sums:
  """Two numbers an example, kept as they are: tuples add up by joining. On the host alone."""
  return {'x': tuple(map(float, x_B)), 'y': tuple(map(float, y_B))}


def spearman(sums: Sums) -> float:
  """Spearman's correlation, from `listed`: Pearson's of the ranks, where equals share a mean rank.

  >>> spearman(listed([1, 2, 3, 4], [1, 8, 27, 64]))
  1.0
  """
  return pearson(moments(ranks(sums['x']), ranks(sums['y'])))


def _numpy(*arrays: Any) -> ModuleType:
  return jnp if any(isinstance(x, jax.Array) for x in arrays) else np


def _ratio(part: Any, whole: Any) -> float:
  return float(part) / float(whole) if whole else 0.0

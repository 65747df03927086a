"""How far annotators agree, beyond chance.

Ratings of one annotator are a list with a label for each item, in the same order for all. None (or
nan) is an item that was not rated. Where chance alone would agree on everything, since only one
label is given, a coefficient is 0/0: the value is nan, and `why` says so.
"""

import math
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np

from llm_jax.types import BadInput

Ratings = Sequence[Any]


class Agreement(NamedTuple):
  """A coefficient of agreement.

  Attributes:
    value: 1 is perfect and 0 as by chance; nan where it is not defined.
    items: how many it is from.
    why: why the value is nan, or 0 whatever the answers, else ''.
  """

  value: float
  items: int
  why: str = ''


def percent(first: Ratings, second: Ratings) -> Agreement:
  """The share of items with the same label, of those that both rated.

  >>> percent([1, 2, 3, None], [1, 2, 1, 1])
  Agreement(value=0.6666666666666666, items=3, why='')
  """
  pairs = _pairs(first, second)
  if not pairs:
    return Agreement(math.nan, 0, 'no item was rated by both')
  return Agreement(sum(a == b for a, b in pairs) / len(pairs), len(pairs))


def cohen(
  first: Ratings,
  second: Ratings,
  weights: Literal['linear', 'quadratic'] | None = None,
  order: Sequence[Hashable] | None = None,
) -> Agreement:
  """Cohen's kappa, doi:10.1177/001316446002000104; with weights doi:10.1037/h0026256.

  1 - disagreement / disagreement by chance. A pair of labels disagrees by 1 without weights, else
  by how far apart they are: numbers by their difference, other labels by their places in `order`.

  >>> round(cohen([1, 2, 3, 3], [1, 2, 2, 3]).value, 4)
  0.6364
  >>> round(cohen([1, 2, 3, 3], [1, 2, 2, 3], weights='quadratic').value, 4)
  0.8
  >>> cohen([1, 1], [1, 1]).why
  'both give one label only, 1, so chance would agree as well'

  Args:
    first: a label for each item.
    second: of the other annotator.
    weights: None, 'linear' or 'quadratic' in the distance.
    order: of labels that are no numbers, if there are weights.
  """
  if weights not in (None, 'linear', 'quadratic'):
    raise BadInput(f"cohen: weights {weights!r}; give None, 'linear' or 'quadratic'")
  pairs = _pairs(first, second)
  if not pairs:
    return Agreement(math.nan, 0, 'no item was rated by both')
  labels, place = _labels(chain.from_iterable(pairs), order, sort=weights is not None)
  seen = np.array([[place[a], place[b]] for a, b in pairs])
  C = len(labels)
  both_CC = np.bincount(seen[:, 0] * C + seen[:, 1], minlength=C * C).reshape(C, C) / len(pairs)
  chance_CC = np.outer(both_CC.sum(1), both_CC.sum(0))
  if weights is None:
    apart_CC = 1.0 - np.eye(C)
  else:
    at_C = _places(labels, order)
    apart_CC = np.abs(at_C[:, None] - at_C) ** (1 if weights == 'linear' else 2)
  expected = (apart_CC * chance_CC).sum()
  if C == 1:
    why = f'both give one label only, {labels[0]!r}, so chance would agree as well'
    return Agreement(math.nan, len(pairs), why)
  constant = ((both_CC.sum(0) == 1) | (both_CC.sum(1) == 1)).any()
  why = 'one gives one label only, so kappa is 0 whatever the other says' if constant else ''
  return Agreement(float(1 - (apart_CC * both_CC).sum() / expected), len(pairs), why)


def fleiss(annotators: Sequence[Ratings]) -> Agreement:
  """Fleiss' kappa, doi:10.1037/h0031619: any number of raters, the same for each item.

  >>> round(fleiss([[1, 2, 3, 3], [1, 2, 2, 3], [1, 2, 2, 3]]).value, 4)
  0.7447

  Raises:
    BadInput: an item that some rated more often than others; `krippendorff` takes these.
  """
  items = _items(annotators)
  raters = {len(item) for item in items}
  if len(raters) > 1:
    raise BadInput(
      f'fleiss: items with {min(raters)} and with {max(raters)} ratings; use krippendorff'
    )
  if not items or min(raters) < 2:
    return Agreement(math.nan, len(items), 'no item was rated twice')
  labels, place = _labels(chain.from_iterable(items), None, sort=False)
  count_BC = np.zeros((len(items), len(labels)))
  for i, item in enumerate(items):
    np.add.at(count_BC[i], [place[label] for label in item], 1)
  n = raters.pop()
  agree = float(((count_BC * (count_BC - 1)).sum(1) / (n * (n - 1))).mean())
  chance = float(((count_BC.sum(0) / count_BC.sum()) ** 2).sum())
  if len(labels) == 1:
    why = f'every rating is {labels[0]!r}, so chance would agree as well'
    return Agreement(math.nan, len(items), why)
  return Agreement((agree - chance) / (1 - chance), len(items))


def krippendorff(
  annotators: Sequence[Ratings],
  level: Literal['nominal', 'ordinal', 'interval'] = 'nominal',
  order: Sequence[Hashable] | None = None,
) -> Agreement:
  """Krippendorff's alpha, which takes gaps: "Computing Krippendorff's alpha-reliability", 2011.

  1 - observed / expected disagreement over all pairs of ratings of an item. Items with one rating
  say nothing and are left out.

  >>> gaps = [[1, 2, 3, 3, None], [1, 2, 2, None, 1], [None, 2, 2, 3, None]]
  >>> round(krippendorff(gaps).value, 4), krippendorff(gaps).items
  (0.7097, 4)

  Args:
    annotators: of each, a label or None for every item.
    level: what labels are: 'nominal', names; 'ordinal', in an order, where the distance of two is
      how many ratings lie between them; 'interval', numbers whose differences count.
    order: of ordinal labels that are no numbers.
  """
  if level not in ('nominal', 'ordinal', 'interval'):
    raise BadInput(f"krippendorff: level {level!r}; give 'nominal', 'ordinal' or 'interval'")
  items = [item for item in _items(annotators) if len(item) > 1]
  if not items:
    return Agreement(math.nan, 0, 'no item was rated twice')
  labels, place = _labels(chain.from_iterable(items), order, sort=level != 'nominal')
  C = len(labels)
  both_CC = np.zeros((C, C))  # pairs of ratings inside an item, which weighs as its ratings do
  for item in items:
    count_C = np.bincount([place[label] for label in item], minlength=C)
    both_CC += (np.outer(count_C, count_C) - np.diag(count_C)) / (len(item) - 1)
  if C == 1:
    why = f'every rating is {labels[0]!r}, so chance would agree as well'
    return Agreement(math.nan, len(items), why)
  count_C = both_CC.sum(1)
  n = count_C.sum()
  if level == 'nominal':
    apart_CC = 1.0 - np.eye(C)
  else:
    at_C = np.cumsum(count_C) - count_C / 2 if level == 'ordinal' else _places(labels, None)
    apart_CC = (at_C[:, None] - at_C) ** 2
  expected = (apart_CC * np.outer(count_C, count_C)).sum() / (n - 1)
  return Agreement(float(1 - (apart_CC * both_CC).sum() / expected), len(items))


def _pairs(first: Ratings, second: Ratings) -> list[tuple[Any, Any]]:
  if len(first) != len(second):
    raise BadInput(f'agreement: {len(first)} and {len(second)} ratings; give one an item')
  return [(a, b) for a, b in zip(first, second) if _rated(a) and _rated(b)]


def _items(annotators: Sequence[Ratings]) -> list[list[Any]]:
  """The ratings of each item, without gaps."""
  lengths = {len(ratings) for ratings in annotators}
  if len(lengths) > 1:
    raise BadInput(f'agreement: {min(lengths)} and {max(lengths)} ratings; give None for a gap')
  return [[label for label in item if _rated(label)] for item in zip(*annotators)]


def _rated(label: Any) -> bool:
  return label is not None and label == label


def _labels(
  found: Any, order: Sequence[Hashable] | None, sort: bool
) -> tuple[list[Any], dict[Any, int]]:
  """Labels that were given, ascending or as in `order`, and the number of each."""
  labels = list(dict.fromkeys(found))
  if order is not None:
    missing = [label for label in labels if label not in order]
    if missing:
      raise BadInput(f'agreement: label {missing[0]!r} is not in the order {list(order)}')
    labels.sort(key=list(order).index)
  elif sort:
    _places(labels, None)
    labels.sort()
  return labels, {label: i for i, label in enumerate(labels)}


def _places(labels: Sequence[Any], order: Sequence[Hashable] | None) -> np.ndarray:
  """Where labels lie on a line: at their place in `order`, else at themselves."""
  if order is not None:
    return np.array([list(order).index(label) for label in labels], np.float64)
  if any(isinstance(label, str) or not np.isscalar(label) for label in labels):
    raise BadInput(f'agreement: labels such as {labels[0]!r} have no distance; give their order')
  return np.array(labels, np.float64)

"""How far the annotators of job `label` agree, and what else than the answers moved them.

A pair of answers is one unit: its grade is -3 to 3, above 0 where the second of the two, in the
order of the item, is better. Intervals of coefficients are bootstrapped over items, 95%.
"""

import math
import statistics as moments
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from llm_jax.evals import agreement
from llm_jax.evals.bootstrap import resamples
from llm_jax.evals.statistics import binomial_test, wilson
from llm_jax.labels import votes
from llm_jax.labels.candidates import Item
from llm_jax.labels.event import LABELS
from llm_jax.labels.votes import Event, Pair, Vote

RESAMPLES = 500
FAST = 2.0  # seconds; a median below it is no reading
DISPUTED = 5  # items that are shown

Given = dict[str, Vote]  # by annotator
Units = dict[Pair, Given]


class Share(NamedTuple):
  """k of n, with its interval, and how likely a fair coin is as far from a half."""

  k: int
  n: int

  def facts(self) -> dict[str, Any]:
    low, high = wilson(self.k, self.n)
    share = self.k / self.n if self.n else None
    p = binomial_test(self.k, self.n)
    return {'k': self.k, 'n': self.n, 'share': share, 'low': low, 'high': high, 'p': p}


def measured(items: Mapping[str, Item], events: Sequence[Event]) -> dict[str, Any]:
  """All numbers of the report.

  Args:
    items: by id.
    events: of the log, the oldest first.
  """
  first = votes.by_item(events)
  plain = {name: found for name, found in first.items() if not items[name].gold}
  who = sorted({one['annotator'] for one in events})
  units = {name: _units(items[name], found) for name, found in plain.items()}
  return {
    'annotators': {name: _of_annotator(name, items, events) for name in who},
    'position': _position(_compared(events, items)).facts(),
    'length': _length(items, units).facts(),
    'agreement': _agreement([found for found in units.values() if found], who),
    'disputed': _disputed(items, units, plain),
    'flags': _flags(events),
  }


def _units(item: Item, events: Sequence[Event]) -> Units:
  """The votes about each two answers; those of annotators who think them alike are gaps."""
  found = votes.of_pairs(item, events)
  return {pair: {vote.annotator: vote for vote in given} for pair, given in found.items()}


# --- one annotator ------------------------------------------------------------------------------


def _of_annotator(name: str, items: Mapping[str, Item], events: Sequence[Event]) -> dict[str, Any]:
  mine = [one for one in events if one['annotator'] == name]
  labels = [one for one in votes.counted(mine) if one['kind'] in LABELS]
  seconds = sorted(one['seconds'] for one in labels)
  median = moments.median(seconds) if seconds else None
  kinds = [one['kind'] for one in votes.counted(mine)]
  return {
    'labels': len(labels),
    'skipped': kinds.count('skip'),
    'flagged': kinds.count('flag'),
    'edits': kinds.count('edit'),
    'undone': sum(one['kind'] == 'undo' for one in mine),
    'seconds': median,
    'slow': seconds[int(0.9 * (len(seconds) - 1))] if seconds else None,
    'fast': median is not None and median < FAST,
    'position': _position(_compared(mine, items)).facts(),
    'itself': _itself(items, mine).facts(),
    'gold': _gold(items, mine).facts(),
  }


def _compared(events: Sequence[Event], items: Mapping[str, Item]) -> list[Event]:
  """First comparisons of two answers, of which one won; gold says nothing of positions."""
  return [
    one
    for one in votes.counted(events)
    if one['kind'] == 'compare'
    and not (one['value'].get('bad') or one.get('again') or items[one['item']].gold)
  ]


def _position(compared: Sequence[Event]) -> Share:
  """How often the answer that was shown first won."""
  first = sum(one['value']['better'] == one['shown'][0] for one in compared)
  return Share(first, len(compared))


def _itself(items: Mapping[str, Item], mine: Sequence[Event]) -> Share:
  """How often the same side won when an item came again, the other way round."""
  once, again = votes.by_item(mine), votes.by_item(mine, again=True)
  same = count = 0
  for name, found in again.items():
    before = votes.of_pairs(items[name], once.get(name, ()))
    for pair, (vote,) in votes.of_pairs(items[name], found).items():
      if pair in before:
        count += 1
        same += before[pair][0].side == vote.side
  return Share(same, count)


def _gold(items: Mapping[str, Item], mine: Sequence[Event]) -> Share:
  """How often the answer that is not broken won."""
  right = count = 0
  for name, found in votes.by_item(mine).items():
    if gold := items[name].gold:
      for pair, given in votes.of_pairs(items[name], found).items():
        if gold in pair:
          count += 1
          right += pair[given[0].side > 0] == gold
  return Share(right, count)


# --- all of them --------------------------------------------------------------------------------


def _length(items: Mapping[str, Item], units: Mapping[str, Units]) -> Share:
  """How often the longer of two answers won, by characters."""
  longer = count = 0
  for name, found in units.items():
    for pair, given in found.items():
      before, after = (len(items[name].answer(one).text) for one in pair)
      if before != after:
        count += len(given)
        longer += sum((after > before) == (vote.side > 0) for vote in given.values())
  return Share(longer, count)


def _agreement(by_item: Sequence[Units], who: Sequence[str]) -> dict[str, Any]:
  """Coefficients over all pairs that two annotators or more have voted about."""
  parts = [[given for given in units.values() if len(given) > 1] for units in by_item]
  shared = [part for part in parts if part]
  counts = {len(given) for part in shared for given in part}
  alpha = lambda some: agreement.krippendorff([_grades(some, a) for a in who], 'ordinal').value
  kappa = lambda some: agreement.fleiss([_sides(some, a) for a in who]).value
  pairs = {f'{a}, {b}': _of_two(shared, a, b) for a, b in combinations(who, 2)}
  return {
    'items': len(shared),
    'pairs': {name: found for name, found in pairs.items() if found['n']},
    'krippendorff': _sure(shared, alpha),
    'fleiss': _sure(shared, kappa) if len(counts) == 1 else None,
  }


def _of_two(by_item: Sequence[Sequence[Given]], a: str, b: str) -> dict[str, Any]:
  """How far two annotators agree on what both have voted about."""
  parts = [[given for given in part if a in given and b in given] for part in by_item]
  both = [part for part in parts if part]
  same = lambda some: agreement.percent(_sides(some, a), _sides(some, b)).value
  kappa = lambda some: agreement.cohen(_grades(some, a), _grades(some, b), 'quadratic').value
  return {'n': sum(map(len, both)), 'percent': _sure(both, same), 'cohen': _sure(both, kappa)}


def _grades(some: Sequence[Given], who: str) -> list[int | None]:
  return [given[who].grade if who in given else None for given in some]


def _sides(some: Sequence[Given], who: str) -> list[int | None]:
  return [given[who].side if who in given else None for given in some]


def _sure(
  by_item: Sequence[Sequence[Given]], compute: Callable[[Sequence[Given]], float]
) -> dict[str, float | None] | None:
  """A coefficient with its interval, of resamples of items in which it is defined."""
  if not by_item:
    return None
  flat = lambda index: [given for i in index for given in by_item[i]]
  value = compute(flat(range(len(by_item))))
  drawn = [compute(flat(i)) for part in resamples(len(by_item), RESAMPLES) for i in part]
  known = [one for one in drawn if math.isfinite(one)]
  if not math.isfinite(value) or len(known) < RESAMPLES / 2:
    return {'value': value if math.isfinite(value) else None, 'low': None, 'high': None}
  low, high = np.quantile(known, [0.025, 0.975])
  return {'value': value, 'low': float(low), 'high': float(high)}


def _disputed(
  items: Mapping[str, Item], units: Mapping[str, Units], events: Mapping[str, Sequence[Event]]
) -> list[dict[str, Any]]:
  """The items whose grades lie furthest apart, with what annotators said of them."""
  spread: dict[str, tuple[int, Pair, dict[str, int]]] = {}
  for name, found in units.items():
    for pair, given in found.items():
      grades = {who: vote.grade for who, vote in given.items()}
      far = max(grades.values()) - min(grades.values())
      if len({vote.side for vote in given.values()}) > 1 and far >= spread.get(name, (0,))[0]:
        spread[name] = far, pair, grades
  worst = sorted(spread.items(), key=lambda one: (-one[1][0], one[0]))[:DISPUTED]
  return [
    {
      'item': name,
      'prompt': items[name].prompt[-1]['content'],
      'answers': [items[name].answer(one).text for one in pair],
      'grades': grades,
      'comments': {one['annotator']: one['comment'] for one in events[name] if 'comment' in one},
    }
    for name, (_, pair, grades) in worst
  ]


def _flags(events: Sequence[Event]) -> dict[str, int]:
  reasons = [one['value']['reason'] for one in votes.counted(events) if one['kind'] == 'flag']
  return {reason: reasons.count(reason) for reason in sorted({*reasons})}

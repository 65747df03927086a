"""From events to what each annotator prefers, and what all of them decide together.

A vote is about two answers of an item, by one annotator. Its grade is above 0 where the second of
the two, in the order of the item, is better; where it is 0 (unsure) the side is known all the same.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llm_jax.labels.candidates import Item
from llm_jax.labels.event import LABELS

Event = Mapping[str, Any]
Pair = tuple[str, str]


class Vote(NamedTuple):
  """What an annotator says of two answers.

  Attributes:
    annotator: who.
    side: 1 if the second of the pair is better, else -1.
    grade: -3 to 3, of the sign of `side`, or 0.
  """

  annotator: str
  side: int
  grade: int


class Decision(NamedTuple):
  """What the votes about two answers make together.

  Attributes:
    better: id of an answer.
    worse: id of the other one.
    margin: 0 to 3.
    agreement: the share of the votes on this side.
    annotators: who voted.
  """

  better: str
  worse: str
  margin: float
  agreement: float
  annotators: tuple[str, ...]


def counted(events: Iterable[Event]) -> list[Event]:
  """The events that count: of an annotator, item and kind the newest one that was not undone.

  What was said of an item that came again is apart from its first time, for only that one is
  exported. Edits of several answers of an item all count.
  """
  made = [*events]
  undone = {one['replaces'] for one in made if one['kind'] == 'undo'}
  newest: dict[Any, Event] = {}
  for one in made:
    if one['kind'] not in ('undo', 'chat') and one['seq'] not in undone:
      edited = one['value']['of'] if one['kind'] == 'edit' else ''
      newest[one['annotator'], one['item'], one['kind'], edited, _repeats(one)] = one
  return sorted(newest.values(), key=lambda one: one['seq'])


def votes(event: Event, item: Item) -> dict[Pair, Vote]:
  """What one event says of each two answers of its item; nothing of two that are alike.

  >>> from llm_jax.labels import candidates
  >>> item = candidates.item({'prompt': 'Hi', 'responses': ['a', 'b']})
  >>> rated = {'kind': 'rate', 'annotator': 'ann', 'value': {'r0': 2, 'r1': 4}}
  >>> votes(rated, item)
  {('r0', 'r1'): Vote(annotator='ann', side=1, grade=2)}
  """
  kind, value, who = event['kind'], event['value'], event['annotator']
  pairs = [*itertools.combinations([answer.id for answer in item.answers], 2)]
  if kind == 'compare':
    if value.get('bad'):
      return {}
    side = 1 if value['better'] == pairs[0][1] else -1
    return {pairs[0]: Vote(who, side, side * abs(value['grade']))}
  if kind == 'rank':
    places = {one: place for place, alike in enumerate(value) for one in alike}
    apart = {(a, b): places[a] - places[b] for a, b in pairs}
  elif kind == 'rate':
    apart = {(a, b): value[b] - value[a] for a, b in pairs}
  else:
    return {}
  made = lambda far: Vote(who, 1 if far > 0 else -1, max(-3, min(3, far)))
  return {pair: made(far) for pair, far in apart.items() if far}


def decide(pair: Pair, given: Sequence[Vote], *, keep: bool = False) -> Decision | None:
  """The side of the majority, with the mean grade towards it as margin, rounded towards 0.

  None where votes are on both sides and either neither has more, or the mean is below 0.5: the two
  are disputed. With `keep` only the former are.

  >>> decide(('r0', 'r1'), [Vote('ann', 1, 3), Vote('ben', 1, 2)])[:4]
  ('r1', 'r0', 2.0, 1.0)
  >>> decide(('r0', 'r1'), [Vote('ann', 1, 3), Vote('ben', -1, -3), Vote('cem', 1, 1)])
  """
  sides = sum(vote.side for vote in given)
  if not sides:
    return None
  side = 1 if sides > 0 else -1
  mean = side * sum(vote.grade for vote in given) / len(given)
  if any(vote.side != side for vote in given) and mean < 0.5:
    if not keep:
      return None
    mean = 0.0
  better, worse = pair if side < 0 else pair[::-1]
  agreement = sum(vote.side == side for vote in given) / len(given)
  who = tuple(sorted(vote.annotator for vote in given))
  return Decision(better, worse, float(int(mean)), agreement, who)


def by_item(events: Iterable[Event], *, again: bool = False) -> dict[str, list[Event]]:
  """The events that count, by item; those of items that came again, or all others."""
  found: dict[str, list[Event]] = {}
  for one in counted(events):
    if _repeats(one) == again:
      found.setdefault(one['item'], []).append(one)
  return found


def _repeats(event: Event) -> bool:
  """Whether it was asked again; flags and edits count whenever they were made."""
  return bool(event.get('again')) and event['kind'] not in ('flag', 'edit')


def of_pairs(item: Item, events: Iterable[Event]) -> dict[Pair, list[Vote]]:
  """All votes about each two answers of an item; of an annotator the newest label alone."""
  newest = {one['annotator']: one for one in events if one['kind'] in LABELS}
  found: dict[Pair, list[Vote]] = {}
  for _, one in sorted(newest.items()):
    for pair, vote in votes(one, item).items():
      found.setdefault(pair, []).append(vote)
  return found

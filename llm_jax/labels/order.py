"""Which side is shown first, which items come again, and which are broken on purpose.

All of it follows from hashes of the seed, the item and the annotator: it is random to whoever
looks, the same after a restart, and another for each annotator. In each block of 10 items just half
have their first answer first.
"""

import hashlib
from collections.abc import Iterator, Sequence

from llm_jax.labels.candidates import Answer, Item, identity, joined

BLOCK = 10  # items of which one half is shown the other way round
LATER = 20  # labels of an annotator before an item comes again
BROKEN = ('cut', 'repeated', 'elsewhere')


def draw(*words: object) -> float:
  """A number in [0, 1) from a hash of the words.

  >>> draw(0, 'item', 'ann') == draw(0, 'item', 'ann') != draw(1, 'item', 'ann')
  True
  """
  digest = hashlib.sha256('\0'.join(map(str, words)).encode()).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64


def turned(seed: int, ids: Sequence[str], annotator: str) -> set[str]:
  """The items whose answers an annotator sees the other way round.

  >>> len(turned(0, [str(i) for i in range(40)], 'ann'))
  20

  Args:
    seed: of the whole job.
    ids: of all items, in their order.
    annotator: who looks.
  """
  found = set()
  for start in range(0, len(ids), BLOCK):
    block = sorted(ids[start : start + BLOCK], key=lambda one: draw(seed, one, annotator, 'side'))
    odd = len(block) % 2 and draw(seed, start, annotator, 'odd') < 0.5
    found.update(block[: len(block) // 2 + bool(odd)])
  return found


def shown(seed: int, item: Item, annotator: str, *, turn: bool, again: bool = False) -> list[str]:
  """The ids of the answers of an item, as an annotator sees them from left to right.

  Args:
    seed: of the whole job.
    item: that is looked at.
    annotator: who looks.
    turn: whether it is one of `turned`.
    again: it comes a second time, the other way round.
  """
  ids = [answer.id for answer in item.answers]
  if len(ids) > 2:
    ids.sort(key=lambda one: draw(seed, item.id, annotator, one))
  elif turn:
    ids.reverse()
  return ids[::-1] if again else ids


def repeated(seed: int, ids: Sequence[str], annotator: str, share: float) -> set[str]:
  """The items that come again to an annotator: one in each block of 1/share.

  >>> len(repeated(0, [str(i) for i in range(100)], 'ann', 0.05))
  5
  """
  return {one for _, one in _one_in_each(ids, share, (seed, annotator, 'again'))}


def with_gold(items: Sequence[Item], share: float, seed: int) -> list[Item]:
  """The items with others among them, in which all answers but one are broken on purpose.

  Each block of 1/share items gets one, made of an item of the block: its first answer, and the same
  cut in two, a word of it over and over, or the answer to another prompt.
  """
  made = {}
  for place, id in _one_in_each([one.id for one in items], share, (seed, 'gold')):
    source = items[place]
    other = items[(place + 1 + int(draw(seed, id, 'other') * (len(items) - 1))) % len(items)]
    if (gold := _broken(source, other, seed)) is not None:
      made[place] = gold
  known = {one.id for one in items}
  out = []
  for place, one in enumerate(items):
    out += [one, *([made[place]] if place in made and made[place].id not in known else [])]
  return out


def _broken(source: Item, other: Item, seed: int) -> Item | None:
  """An item whose first answer has to win; None where the other one would read the same."""
  good = max(source.answers, key=lambda answer: (_reward(answer), answer.id))
  words = good.text.split()
  ways = {
    'cut': ' '.join(words[: len(words) // 3]),
    'repeated': ' '.join([words[0] if words else 'the'] * max(len(words), 6)),
    'elsewhere': other.answers[0].text if other.prompt != source.prompt else '',
  }
  ways = {name: text for name, text in ways.items() if text and joined(text) != joined(good.text)}
  if not words or not ways:
    return None
  how = min(ways, key=lambda name: draw(seed, source.id, name))
  answers = (Answer('r0', good.text, good.about), Answer('r1', ways[how], {'broken': how}))
  name = identity(source.prompt, [answer.text for answer in answers])
  return Item(name, source.prompt, answers, 'gold', 'r0')


def _reward(answer: Answer) -> float:
  reward = answer.about.get('reward')
  return float(reward) if isinstance(reward, (int, float)) else float('-inf')


def _one_in_each(
  ids: Sequence[str], share: float, words: tuple[object, ...]
) -> Iterator[tuple[int, str]]:
  """(place, id) of one item in each whole block of 1/share."""
  if not share:
    return
  size = max(round(1 / share), 1)
  for start in range(0, len(ids) - size + 1, size):
    block = range(start, start + size)
    place = min(block, key=lambda i: draw(*words, ids[i]))
    yield place, ids[place]


def chosen(rewards: Sequence[float | None], count: int, close: bool, *words: object) -> list[int]:
  """Which answers of a prompt are shown: some of them, or those that a reward model confuses.

  >>> chosen([0.0, 5.0, 2.1, 2.0], 2, True)
  [2, 3]

  Args:
    rewards: of each answer, or None.
    count: of answers that are shown.
    close: take the answers whose rewards lie closest together.
    *words: what else the draw depends on.
  """
  numbers = [*range(len(rewards))]
  known = [(value, i) for i, value in enumerate(rewards) if value is not None]
  if close and len(known) >= count:
    known.sort()
    spans = [known[i : i + count] for i in range(len(known) - count + 1)]
    return sorted(i for _, i in min(spans, key=lambda span: span[-1][0] - span[0][0]))
  return sorted(sorted(numbers, key=lambda i: draw(*words, i))[:count])

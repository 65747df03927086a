"""From the events of served chats to the rows that training reads, a pure function of the log.

  preferences.jsonl   pairs with margins, for the reward model and for DPO and its relatives
  kto.jsonl           single answers, good or bad
  sft.jsonl           answers that users corrected
  questions.jsonl     what a model is said to have made up, for probing what it knows

A thumb is a row of KTO. A correction is a row of SFT, a good answer, and a pair: with margin 2, or
with 3 if the answer also got a thumb down, or with 1 if it got one up. A draft that was kept is
better than those that were not, with margin 1. Users have one vote each, and so many rows a day.
"""

import hashlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llm_jax.labels import acts, private, votes
from llm_jax.labels.log import line
from llm_jax.labels.private import stripped
from llm_jax.labels.said import State, Vote, key_of, same, votes_of
from llm_jax.options import Count

FILES = ('preferences', 'kto', 'sft', 'questions')


class Export(NamedTuple):
  """What `export` makes.

  Attributes:
    files: contents by name.
    facts: what `export.json` says.
    conversations: those that have a row.
  """

  files: dict[str, bytes]
  facts: dict[str, Any]
  conversations: tuple[str, ...]


class Unit(NamedTuple):
  """A row, the votes that it was made of, and what was stripped from it."""

  row: dict[str, Any]
  votes: list[Vote]
  stripped: Counter[str]


def export(
  events: Sequence[Mapping[str, Any]],
  *,
  after: int = 0,
  until: int | None = None,
  per_day: Count = 20,
  per_prompt: Count = 8,
) -> Export:
  """Files of JSON lines, and what they were made of.

  Args:
    events: of the log.
    after: events up to this number were read by an earlier export. They still say what was taken
      back or corrected, and give no rows.
    until: the last event that is read; None for all.
    per_day: most rows of a user in a day, for each file; later ones are left out.
    per_prompt: most rows of a prompt, for each file; users take turns.
  """
  most = math.inf if until is None else until
  logged = [one for one in events if one['kind'] == 'chat' and one['seq'] <= most]
  found, unread = acts.read(logged, after)
  left: dict[str, Counter[str]] = {'events': unread, **{name: Counter() for name in FILES}}
  given = sorted(votes_of(State(found), left, after), key=lambda vote: (vote.seq, vote.file))
  new = _capped(given, per_day, left, after)
  stripping: Counter[str] = Counter()
  rows: dict[str, list[bytes]] = {name: [] for name in FILES}
  artifacts: dict[str, Counter[str]] = defaultdict(Counter)
  conversations, shares = set(), []
  for file, of_prompt in _by_prompt(new):
    units = [_unit(file, unit, left[file]) for unit in of_prompt]
    made = [unit for unit in units if unit is not None]
    for row, unit, counts in _in_turns(made, per_prompt, left[file]):
      rows[file].append(line(row))
      stripping += counts
      conversations |= {vote.act.conversation for vote in unit}
      artifacts[unit[-1].act.artifact][file] += 1
      if file in FILES[:2] and len(row['annotators']) > 1:
        shares.append(row['agreement'])
  files = {f'{name}.jsonl': b''.join(sorted(lines)) for name, lines in rows.items()}
  names = {one.artifact: one.model for one in found}
  last = max((one['seq'] for one in logged), default=0)
  facts = {
    'rows': {name: len(lines) for name, lines in rows.items()},
    'dropped': {name: dict(sorted((+counts).items())) for name, counts in left.items()},
    'events': len(logged),
    'after': after,
    'last': last,
    'users': len({one.user for one in found}),
    'acts': dict(sorted(Counter(one.value['act'] for one in found if one.seq > after).items())),
    'artifacts': {
      name: {'model': names[name], 'rows': {file: artifacts[name][file] for file in FILES}}
      for name in sorted(names)
    },
    'agreement': {'n': len(shares), 'share': sum(shares) / len(shares) if shares else None},
    'stripped': {name: stripping[name] for name in private.KINDS},
    'options': {'per_day': per_day, 'per_prompt': per_prompt},
    'log': hashlib.sha256(b''.join(map(line, logged))).hexdigest(),
    'files': {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
  }
  return Export(files, facts, tuple(sorted(conversations)))


# --- caps ---------------------------------------------------------------------------------------


def _capped(
  given: Iterable[Vote], per_day: int, left: Mapping[str, Counter[str]], after: int
) -> list[Vote]:
  """The first ones of each user, day and file, if they are behind event `after`."""
  found, counts = [], Counter()
  for vote in given:
    counts[vote.file, vote.act.user, vote.day] += 1
    if vote.seq <= after:
      continue
    if counts[vote.file, vote.act.user, vote.day] <= per_day:
      found.append(vote)
    else:
      left[vote.file]['more than a user has in a day'] += 1
  return found


def _by_prompt(given: Iterable[Vote]) -> Iterator[tuple[str, list[list[Vote]]]]:
  """(file, its votes by what they are about) for each prompt."""
  units: dict[tuple[str, str], dict[str, list[Vote]]] = defaultdict(lambda: defaultdict(list))
  for vote in given:
    both = sorted(key_of(said) for said in (vote.good, vote.bad) if said is not None)
    units[vote.file, key_of(vote.act.prompt, vote.act.tools)][key_of(both)].append(vote)
  for (file, _), of_prompt in sorted(units.items()):
    yield file, [unit for _, unit in sorted(of_prompt.items())]


def _in_turns(made: Sequence[Unit], most: int, left: Counter[str]) -> list[Unit]:
  """At most so many rows of a prompt: the first of each user, then the second, and so on."""
  turns: Counter[str] = Counter()
  order = []
  for place, (_, unit, _) in sorted(enumerate(made), key=lambda one: one[1].votes[0].seq):
    user = min((vote.act.user for vote in unit), key=lambda name: (turns[name], name))
    order.append((turns[user], unit[0].seq, place))
    turns[user] += 1
  left['more than a prompt has'] += max(len(made) - most, 0)
  return [made[place] for *_, place in sorted(order)[:most]]


# --- rows ---------------------------------------------------------------------------------------


def _unit(file: str, unit: Sequence[Vote], left: Counter[str]) -> Unit | None:
  """What the votes about one thing make together; None if they make no row."""
  stripping: Counter[str] = Counter()
  newest = [*{vote.act.user: vote for vote in unit}.values()]
  one = newest[-1]
  good, bad, agreement, margin = one.good, one.bad, 1.0, 0.0
  if file in ('kto', 'preferences'):
    # A side for each of two: good and bad, or one message and the other in a fixed order.
    sides = [
      (vote.grade > 0) if vote.bad is None else key_of(vote.good) < key_of(vote.bad)
      for vote in newest
    ]
    signed = [
      votes.Vote(vote.act.user, 1 if side else -1, abs(vote.grade) * (1 if side else -1))
      for vote, side in zip(newest, sides, strict=True)
    ]
    decided = votes.decide(('no', 'yes'), signed)
    if decided is None:
      left['disputed'] += 1
      return None
    agreement, margin, side = decided.agreement, decided.margin, decided.better == 'yes'
    one = next(vote for vote, own in zip(newest, sides, strict=True) if own == side)
    good, bad = one.good, one.bad
  prompt, tools = stripped(one.act.prompt, stripping), stripped(one.act.tools, stripping)
  good, bad = stripped(good, stripping), bad and stripped(bad, stripping)
  if bad is not None and same(good, bad):
    left['identical answers'] += 1
    return None
  row: dict[str, Any] = {**({'tools': tools} if tools else {}), 'source': 'feedback'}
  if file == 'kto':
    row |= {'prompt': prompt, 'completion': [good], 'label': one.grade > 0}
  elif file == 'preferences':
    row |= {'prompt': prompt, 'chosen': [good], 'rejected': [bad], 'margin': margin}
  elif file == 'sft':
    row |= {'messages': [*prompt, good]}
  else:
    row |= _question(newest, prompt, good, stripping)
  if one.edit and file != 'sft':
    row['edit'] = True
  source = {
    'annotators': sorted(vote.act.user for vote in newest),
    'agreement': round(agreement, 6),
    'artifact': one.act.artifact[:16],
    'group': key_of(prompt, tools),
  }
  return Unit({**row, **source, 'item': key_of(prompt, good, bad)}, newest, stripping)


def _question(
  given: Sequence[Vote], prompt: list[dict[str, Any]], said: Mapping[str, Any], counts: Counter[str]
) -> dict[str, Any]:
  """A question whose answer a model is said to have made up; the right one is not known."""
  asked = next((one['content'] for one in reversed(prompt) if one['role'] == 'user'), '')
  values = [vote.act.value for vote in given]
  comments = [value['comment'] for value in values if value['comment'].strip()]
  tags = sorted({*itertools.chain.from_iterable(value['tags'] for value in values)})
  beside = stripped({'tags': tags, 'comments': comments}, counts)
  return {'question': asked, 'answer': '', 'said': said['content'], 'messages': prompt, **beside}

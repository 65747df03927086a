"""From events to the rows that training reads as they are: a pure function of the log and options.

  reward.jsonl   pairs with margins, and rankings of several answers together
  dpo.jsonl      pairs of which one answer is clearly better
  kto.jsonl      single answers, good or bad
  sft.jsonl      answers that somebody wrote, by editing one

An edit makes one row of SFT and, with e the edited answer, c the one that was edited and r the one
that lost against it, three ordered pairs: e > c, c > r, e > r (arXiv:2407.21783, section 4.2.1).
The other columns say where a row comes from; `group` is the item, whose pairs belong together.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from llm_jax.labels import votes
from llm_jax.labels.candidates import Item, joined
from llm_jax.labels.event import LABELS
from llm_jax.labels.log import line
from llm_jax.labels.order import draw
from llm_jax.labels.votes import Decision, Event
from llm_jax.options import MinP, NotNegative

FILES = ('reward', 'dpo', 'kto', 'sft')
REWRITE = 0.8  # an edit that changes more of the words teaches who wrote it, not what is better


class Pair(NamedTuple):
  """Two answers of an item as texts.

  Attributes:
    better: a text.
    worse: the other.
    margin: by how much, 0 to 3.
    edit: the better one was written by an annotator.
    agreement: the share of the votes on this side.
    annotators: who voted, or wrote.
  """

  better: str
  worse: str
  margin: float
  edit: bool
  agreement: float
  annotators: tuple[str, ...]


def export(
  items: Mapping[str, Item],
  events: Sequence[Event],
  *,
  reward_margin: NotNegative = 0.0,
  dpo_margin: NotNegative = 2.0,
  kto_margin: NotNegative = 1.0,
  disputed: Literal['drop', 'keep'] = 'drop',
  held_out: MinP = 0.0,
) -> tuple[dict[str, bytes], dict[str, Any]]:
  """Files of JSON lines by name, and what `export.json` says of them.

  Args:
    items: by id.
    events: of the log, the oldest first.
    reward_margin: the least margin of a pair for the reward model.
    dpo_margin: the same for DPO and its relatives. 2 is 'better' (arXiv:2407.21783).
    kto_margin: the same for calling the two answers of a pair good and bad.
    disputed: pairs with votes on both sides whose mean grade is below 0.5: 'drop' them, or 'keep'
      the side of the majority with margin 0.
    held_out: the share of prompts whose rows go to files of their own, `reward_held_out.jsonl` and
      so on. With 0 training divides by prompts as it does for all sources.
  """
  least = {'reward': reward_margin, 'dpo': dpo_margin, 'kto': kto_margin}
  rows: dict[str, list[bytes]] = {name: [] for name in FILES}
  if held_out:
    rows |= {f'{name}_held_out': [] for name in FILES}
  left: dict[str, Counter[str]] = {name: Counter() for name in FILES}
  labelled = votes.by_item(events)
  largest = 0
  for name in sorted(items):
    if name in labelled:
      item = items[name]
      out = _held_out(item) < held_out
      for file, row in _rows(item, labelled[name], least, disputed == 'keep', left):
        rows[f'{file}_held_out' if out else file].append(line({**row, 'item': name}))
        largest = max(largest, len(row.get('answers', ())))
  made = {f'{name}.jsonl': b''.join(found) for name, found in rows.items()}
  again = votes.by_item(events, again=True)
  facts = {
    'rows': {name: len(found) for name, found in rows.items()},
    'dropped': {name: dict(sorted(found.items())) for name, found in left.items()},
    'items': len(items),
    'labelled': len(labelled),
    'unlabelled': len(items.keys() - labelled.keys()),
    'events': len(events),
    'repeats': sum(len(found) for found in again.values()),
    'largest_group': max(largest, 2),
    'options': {**{f'{name}_margin': least[name] for name in FILES[:3]}},
    'log': hashlib.sha256(b''.join(map(line, events))).hexdigest(),
    'files': {name: hashlib.sha256(found).hexdigest() for name, found in made.items()},
  }
  facts['options'] |= {'disputed': disputed, 'held_out': held_out}
  return made, facts


def changed(before: str, after: str) -> float:
  """The share of words that differ, whatever their order, of the longer of two texts.

  >>> changed('a b c d', 'a b c e')
  0.25
  """
  old, new = Counter(before.split()), Counter(after.split())
  return 1 - (old & new).total() / max(old.total(), new.total(), 1)


def _held_out(item: Item) -> float:
  """A number in [0, 1) of the prompt up to the first message of the user."""
  asked = itertools.takewhile(lambda m: m['role'] != 'user', item.prompt)
  until = len([*asked]) + 1
  return draw('held out', json.dumps(item.prompt[:until], sort_keys=True))


def _rows(
  item: Item,
  events: Sequence[Event],
  least: Mapping[str, float],
  keep: bool,
  left: Mapping[str, Counter[str]],
) -> Iterator[tuple[str, dict[str, Any]]]:
  """(file, row) of one item; what gives no row is counted in `left`."""
  if reason := _unusable(item, events):
    for file in FILES:
      left[file][reason] += 1
    return
  edits = [one for one in events if one['kind'] == 'edit' and _is_edit(one, item, left['sft'])]
  for one in edits:
    told = [*item.prompt, {'role': 'assistant', 'content': one['value']['text']}]
    yield 'sft', {'messages': told, **_source((one['annotator'],), 1.0)}
  labels = {one['annotator']: one for one in events if one['kind'] in LABELS}
  bad = [who for who, one in labels.items() if one['value'] == {'bad': True}]
  if 2 * len(bad) > len(labels):
    yield from _both_bad(item, labels, bad, left)
    decisions: list[Decision] = []
  else:
    decisions = _decisions(item, events, keep, left, even=bool(bad) and 2 * len(bad) == len(labels))
  pairs = [_pair(item, one) for one in decisions]
  ranking = _ranking(item, decisions, pairs, least['reward'])
  if ranking:
    yield 'reward', ranking
  edited = [pair for one in edits for pair in _edited(item, one, decisions, left)]
  for file in ('reward', 'dpo'):
    for pair in ([] if ranking and file == 'reward' else pairs) + edited:
      if pair.margin < least[file]:
        left[file]['below the margin'] += 1
      elif not pair.worse.strip() or not pair.better.strip():
        left[file]['empty answer'] += 1
      else:
        yield file, _pair_row(item, pair)
  yield from _good_and_bad(item, decisions, edits, least['kto'], left['kto'])


def _unusable(item: Item, events: Sequence[Event]) -> str:
  """Why an item gives no rows at all; '' if it gives some."""
  kinds = {one['kind'] for one in events}
  if item.gold:
    return 'made as gold'
  if 'flag' in kinds:
    return 'flagged'
  return '' if kinds & {*LABELS, 'edit'} else 'skipped'


def _is_edit(one: Event, item: Item, left: Counter[str]) -> bool:
  """Whether an edit says something new: what another answer says was graded as that answer."""
  text, of = joined(one['value']['text']), one['value']['of']
  same = next((answer.id for answer in item.answers if joined(answer.text) == text), None)
  if same is not None:
    left['unchanged edit' if same == of else 'edit that says what another answer does'] += 1
  return same is None


def _decisions(
  item: Item, events: Sequence[Event], keep: bool, left: Mapping[str, Counter[str]], even: bool
) -> list[Decision]:
  """What the annotators decided of each two answers; with `even` half of them like neither."""
  found = []
  for pair, given in votes.of_pairs(item, events).items():
    decision = None if even else votes.decide(pair, given, keep=keep)
    if decision is None:
      for file in FILES[:3]:
        left[file]['disputed'] += 1
    else:
      found.append(decision)
  return found


def _pair(item: Item, one: Decision) -> Pair:
  texts = item.answer(one.better).text, item.answer(one.worse).text
  return Pair(*texts, one.margin, False, one.agreement, one.annotators)


def _edited(
  item: Item, one: Event, decisions: Sequence[Decision], left: Mapping[str, Counter[str]]
) -> Iterator[Pair]:
  """The pairs of an edit: e > c unless it is written anew, and e > r for each r that c beat."""
  text, of, who = one['value']['text'], one['value']['of'], (one['annotator'],)
  before = item.answer(of).text
  if changed(before, text) > REWRITE:
    for file in ('reward', 'dpo'):
      left[file]['written anew'] += 1
  else:
    yield Pair(text, before, 1.0, True, 1.0, who)
  for decision in decisions:
    worse = item.answer(decision.worse).text
    if decision.better == of and joined(worse) != joined(text):
      margin = min(3.0, decision.margin + 1)
      yield Pair(text, worse, margin, True, decision.agreement, who)


def _ranking(
  item: Item, decisions: Sequence[Decision], pairs: Sequence[Pair], least: float
) -> dict[str, Any] | None:
  """Three answers or more as one row, which the loss over rankings keeps together.

  There is none if a pair is open, contradicts the others or is left out; then those that are not
  stand for themselves.
  """
  ids = [answer.id for answer in item.answers]
  if len(ids) < 3 or 2 * len(decisions) < len(ids) * (len(ids) - 1):
    return None
  wins = Counter(one.better for one in decisions)
  ranked = sorted(ids, key=lambda one: -wins[one])
  texts = [item.answer(one).text for one in ranked]
  told = all(text.strip() for text in texts) and all(pair.margin >= least for pair in pairs)
  if not told or len({wins[one] for one in ids}) < len(ids):
    return None
  who = tuple(sorted({name for one in decisions for name in one.annotators}))
  agreement = min(one.agreement for one in decisions)
  row = {'prompt': item.prompt, 'answers': texts, 'ranks': [*range(1, len(texts) + 1)]}
  return {**row, **_source(who, agreement), 'group': item.id}


def _pair_row(item: Item, pair: Pair) -> dict[str, Any]:
  said = lambda text: [{'role': 'assistant', 'content': text}]
  row: dict[str, Any] = {
    'prompt': item.prompt,
    'chosen': said(pair.better),
    'rejected': said(pair.worse),
    'margin': pair.margin,
    **_source(pair.annotators, pair.agreement),
    'group': item.id,
  }
  return {**row, 'edit': True} if pair.edit else row


def _both_bad(
  item: Item, labels: Mapping[str, Event], bad: Sequence[str], left: Mapping[str, Counter[str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
  for file in ('reward', 'dpo'):
    left[file]['all bad'] += 1
  for answer in item.answers:
    if answer.text.strip():
      yield 'kto', _judged(item, answer.text, False, tuple(sorted(bad)), len(bad) / len(labels))
    else:
      left['kto']['empty answer'] += 1


def _good_and_bad(
  item: Item,
  decisions: Sequence[Decision],
  edits: Sequence[Event],
  least: float,
  left: Counter[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
  """What was edited is good; the best answer is good and the worst bad if they are far apart."""
  texts = {}
  for one in edits:
    texts.setdefault(one['value']['text'], (True, (one['annotator'],), 1.0))
  wins = Counter(one.better for one in decisions)
  losses = Counter(one.worse for one in decisions)
  for one in decisions:
    if losses[one.better] or wins[one.worse]:
      continue  # neither the best against the worst of all
    if one.margin < least:
      left['below the margin'] += 1
      continue
    for name, good in ((one.better, True), (one.worse, False)):
      texts.setdefault(item.answer(name).text, (good, one.annotators, one.agreement))
  for text, (good, who, agreement) in texts.items():
    if text.strip():
      yield 'kto', _judged(item, text, good, who, agreement)
    else:
      left['empty answer'] += 1


def _judged(
  item: Item, text: str, good: bool, who: tuple[str, ...], agreement: float
) -> dict[str, Any]:
  said = [{'role': 'assistant', 'content': text}]
  return {'prompt': item.prompt, 'completion': said, 'label': good, **_source(who, agreement)}


def _source(who: tuple[str, ...], agreement: float) -> dict[str, Any]:
  return {'source': 'label', 'annotators': [*who], 'agreement': round(agreement, 6)}

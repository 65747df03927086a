"""What users said of answers: the newest thumbs, corrections and choices, as votes for rows."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from llm_jax.labels.acts import Act, Answer
from llm_jax.labels.candidates import joined
from llm_jax.labels.export import REWRITE, changed

MADE_UP = 'made up'  # the tag of an answer that becomes a question
_MARGINS = {1: 1, None: 2, -1: 3}  # of an edited answer, by the thumb that it had


class Vote(NamedTuple):
  """What one act says for one file.

  Attributes:
    file: one of `FILES`.
    act: where it comes from.
    good: a message of the assistant; of kto and questions the one that is judged.
    bad: the one that it is better than.
    grade: the margin of a pair; of kto 1 or -1.
    edit: the user wrote it.
    day: on which it counts, and `seq` in which order.
    seq: the number of the event.
  """

  file: str
  act: Act
  good: dict[str, Any]
  bad: dict[str, Any] | None
  grade: int
  edit: bool
  day: str
  seq: int


class State:
  """What counts of all acts: the newest of each kind, of a user and an answer.

  Attributes:
    thumbs: the newest thumb by (user, conversation, answer), without those that were taken back.
    edits: the newest correction by the same.
    kept: the newest choice of a draft, by (user, conversation, prompt).
  """

  def __init__(self, found: Iterable[Act]) -> None:
    self.thumbs: dict[tuple[str, ...], Act] = {}
    self.edits: dict[tuple[str, ...], Act] = {}
    self.kept: dict[tuple[str, ...], Act] = {}
    for one in found:
      kind, key = one.value['act'], (one.user, one.conversation, one.answer.id)
      if kind == 'thumb' and one.value['grade'] == 0:
        self.thumbs.pop(key, None)
      elif kind == 'thumb':
        self.thumbs[key] = one
      elif kind == 'edit':
        self.edits[key] = one
      elif kind in ('regenerate', 'pick'):
        self.kept[(*key[:2], key_of(one.prompt))] = one

  def grade(self, one: Act, answer: Answer) -> int | None:
    """1 or -1, the thumb that the user of an act gave to an answer of its conversation, or None."""
    thumb = self.thumbs.get((one.user, one.conversation, answer.id))
    return thumb.value['grade'] if thumb else None


def votes_of(state: State, left: Mapping[str, Counter[str]], after: int = 0) -> Iterator[Vote]:
  """All votes, also those of events up to `after`.

  Args:
    state: what counts.
    left: file -> reason -> what gives no vote, of later events, is counted here.
    after: the number of an event.
  """
  unseen: Mapping[str, Counter[str]] = {name: Counter() for name in left}
  counts = lambda one: left if one.seq > after else unseen
  for one in state.thumbs.values():
    yield from _judged(one, counts(one)['kto'])
  newer = {(*key[:2], one.answer.text): one for key, one in state.edits.items()
           if one.answer.edited}  # fmt: skip
  for key, one in state.edits.items():
    if not one.answer.edited:
      last = _last(key, one, newer)
      yield from _edited(one, last, state.grade(one, one.answer), counts(last))
  for one in state.kept.values():
    yield from _compared(one, state, counts(one)['preferences'])


def _judged(one: Act, left: Counter[str]) -> Iterator[Vote]:
  """The rows of a thumb."""
  grade, said = one.value['grade'], one.answer
  if said.edited:
    left['own words'] += 1
  elif _is_empty(said):
    left['empty answer'] += 1
  elif grade > 0 and not said.whole:
    left['cut answer'] += 1
  else:
    yield Vote('kto', one, said.message, None, grade, False, one.day, one.seq)
  if grade < 0 and MADE_UP in one.value['tags']:
    yield Vote('questions', one, said.message, None, grade, False, one.day, one.seq)


def _last(key: tuple[str, ...], one: Act, newer: Mapping[tuple[str, ...], Act]) -> Act:
  """The last of the corrections of corrections that began with one."""
  for _ in newer:
    following = newer.get((*key[:2], one.value['text']))
    if following is None:
      break
    one = following
  return one


def _edited(
  one: Act, last: Act, thumb: int | None, left: Mapping[str, Counter[str]]
) -> Iterator[Vote]:
  """The rows of a correction, which ended with the text of `last`."""
  text, before = last.value['text'], one.answer
  if joined(text) == joined(before.text):
    left['sft']['unchanged edit'] += 1
    return
  if not text.strip():
    left['sft']['empty answer'] += 1
    return
  good = {**before.message, 'content': text}
  make = lambda file, bad, grade: Vote(file, one, good, bad, grade, True, last.day, last.seq)
  yield make('sft', None, 1)
  yield make('kto', None, 1)
  if _is_empty(before):
    left['preferences']['empty answer'] += 1
  elif thumb != -1 and changed(before.text, text) > REWRITE:
    left['preferences']['written anew'] += 1
  else:
    yield make('preferences', before.message, _MARGINS[thumb])


def _compared(one: Act, state: State, left: Counter[str]) -> Iterator[Vote]:
  """The pairs of a draft that was kept: against all others, or those made before it."""
  kept, shown = one.answer, one.value['shown']
  others = one.others
  if one.value['act'] == 'regenerate':
    before = shown[: shown.index(kept.id)] if kept.id in shown else ()
    others = tuple(other for other in others if other.id in before)
  for other in others:
    if one.value['kept'] != kept.id or other.id == kept.id:
      reason = 'not understood'
    elif state.grade(one, kept) == -1 or state.grade(one, other) == 1:
      reason = 'contradicted'
    elif _is_empty(kept) or _is_empty(other):
      reason = 'empty answer'
    elif not kept.whole:
      reason = 'cut answer'
    elif same(kept.message, other.message):
      reason = 'identical answers'
    else:
      yield Vote('preferences', one, kept.message, other.message, 1, kept.edited, one.day, one.seq)
      continue
    left[reason] += 1


def _is_empty(answer: Answer) -> bool:
  return not answer.text.strip() and not answer.message.get('tool_calls')


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
  """Whether two messages differ in blanks alone."""
  rest = lambda one: {**one, 'content': joined(one['content'])}
  return rest(a) == rest(b)


def key_of(*of: Any) -> str:
  """A hash of anything that is JSON."""
  return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]

"""One thing that an annotator did, checked before it is kept.

  {"item": "c1f0...", "kind": "compare", "shown": ["r1", "r0"], "value": {"grade": -2,
   "better": "r1"}, "seconds": 14.2, "client": "uuid4", "again": false, "page": "...",
   "guideline": "..."}

kind      value
compare   {"grade": -3 to 3, "better": id}; the grade is that of the second answer shown over the
          first, and `better` names a side where it is 0. {"bad": true}: neither will do.
rank      [["r2"], ["r0", "r1"]], best first; answers in one list are alike
rate      {"r0": 5, "r1": 2}, 1 to 7
edit      {"of": "r0", "text": "..."}
skip      {"reason": "..."}
flag      {"reason": one of REASONS}
undo      {}, with `replaces`: the `client` of the event that it takes back

A label, a skip or a flag may have a `comment`, of any text.
"""

import re
from collections.abc import Mapping
from typing import Any

from llm_jax.labels.candidates import Item
from llm_jax.types import BadInput

LABELS = ('compare', 'rank', 'rate')  # what counts towards the labels of an item
ENDS = (*LABELS, 'skip', 'flag')  # after which an annotator does not see it again
KINDS = (*ENDS, 'edit', 'undo')
REASONS = ('unsafe', 'broken', 'not my language', 'other')
LONGEST = 1 << 16  # characters of an edit
_COMMENT = 4000  # characters; the page allows half of it
_NAME = re.compile(r'[\w.-]{1,40}')


def annotator(name: Any) -> str:
  """The name of an annotator: a label, and never a name or an address.

  >>> annotator('ann')
  'ann'

  Raises:
    BadInput: it is none.
  """
  if not isinstance(name, str) or not _NAME.fullmatch(name):
    raise BadInput(
      f'annotators: {name!r}; give 1 to 40 letters, digits, dots, dashes or underscores'
    )
  return name


def event(found: Any, item: Item) -> dict[str, Any]:
  """The fields of an event, without those that this page does not know.

  Args:
    found: what a page sent.
    item: that it is about.

  Raises:
    BadInput: naming the field.
  """
  if not isinstance(found, Mapping):
    raise BadInput('event: give an object')
  kind = found.get('kind')
  if kind not in KINDS:
    raise BadInput(f'event: kind {kind!r}; choose from: {", ".join(KINDS)}')
  client = _text(found, 'client', 100)
  if not client:
    raise BadInput('event: client is missing; give an id that no other event has')
  seconds = found.get('seconds', 0)
  if not _is_number(seconds) or not 0 <= seconds <= 1e6:  # which also NaN is not
    raise BadInput(f'event: seconds {str(seconds)[:20]}; give a number from 0 to 1,000,000')
  again = found.get('again', False)
  if not isinstance(again, bool):
    raise BadInput(f'event: again {again!r}; give true or false')
  made = {
    'item': item.id,
    'kind': kind,
    'client': client,
    'shown': _shown(found, item) if kind in LABELS or found.get('shown') else [],
    'value': _value(kind, found.get('value'), item, found),
    'seconds': round(float(seconds), 3),
    'page': _text(found, 'page', 100),
    'guideline': _text(found, 'guideline', 100),
  }
  if again:
    made['again'] = True
  if kind in ENDS and (comment := _text(found, 'comment', _COMMENT)):
    made['comment'] = comment
  if kind == 'undo':
    made['replaces'] = _text(found, 'replaces', 100)
    if not made['replaces']:
      raise BadInput('event: replaces is missing; give the client of what is taken back')
  return made


def _text(found: Mapping[str, Any], name: str, longest: int) -> str:
  text = found.get(name, '')
  if not isinstance(text, str) or len(text) > longest:
    raise BadInput(f'event: {name}: give at most {longest} characters')
  return text.encode('utf-8', 'replace').decode()


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(found: Mapping[str, Any], item: Item) -> list[str]:
  shown, ids = found.get('shown'), sorted(answer.id for answer in item.answers)
  texts = [one for one in shown if isinstance(one, str)] if isinstance(shown, list) else []
  if sorted(texts) != ids or texts != shown:
    raise BadInput(f'event: shown {str(shown)[:80]}; give the ids {ids} in the order on the page')
  return texts


def _value(kind: str, value: Any, item: Item, found: Mapping[str, Any]) -> Any:
  ids = [answer.id for answer in item.answers]
  match kind:
    case 'compare':
      return _grade(value, found, ids)
    case 'rank':
      lists = isinstance(value, list) and all(isinstance(place, list) for place in value)
      flat = [one for place in value for one in place] if lists else []
      texts = [one for one in flat if isinstance(one, str)]
      if not lists or not all(value) or texts != flat or sorted(texts) != sorted(ids):
        raise BadInput(f'event: value {str(value)[:80]}; give every answer once, best first')
      return value
    case 'rate':
      whole = isinstance(value, Mapping) and {*value} == {*ids}
      if not whole or not all(type(one) is int and 1 <= one <= 7 for one in value.values()):
        raise BadInput(f'event: value {str(value)[:80]}; give each answer a number from 1 to 7')
      return dict(sorted(value.items()))
    case 'edit':
      return _edited(value, ids)
    case 'flag':
      reason = value.get('reason') if isinstance(value, Mapping) else None
      if reason not in REASONS:
        raise BadInput(f'event: reason {reason!r}; choose from: {", ".join(REASONS)}')
      return {'reason': reason}
    case 'skip':
      return {'reason': _text(value if isinstance(value, Mapping) else {}, 'reason', 1000)}
  return {}


def _grade(value: Any, found: Mapping[str, Any], ids: list[str]) -> dict[str, Any]:
  if not isinstance(value, Mapping):
    raise BadInput('event: value: give an object with a grade')
  if value.get('bad') is True:
    return {'bad': True}
  grade, better = value.get('grade'), value.get('better')
  if len(ids) != 2:
    raise BadInput(f'event: {len(ids)} answers are ranked or rated, and not compared')
  if type(grade) is not int or not -3 <= grade <= 3:
    raise BadInput(f'event: grade {grade!r}; give a whole number from -3 to 3')
  shown = _ids(found)
  if better not in ids or (grade and better != shown[grade > 0]):
    raise BadInput(
      f'event: better {better!r} with grade {grade}; above 0 the second one shown is better'
    )
  return {'grade': grade, 'better': better}


def _ids(found: Mapping[str, Any]) -> list[str]:
  shown = found.get('shown')
  if not isinstance(shown, list) or len(shown) != 2:
    raise BadInput(f'event: shown {str(shown)[:80]}; give both ids in the order on the page')
  return shown


def _edited(value: Any, ids: list[str]) -> dict[str, str]:
  if not isinstance(value, Mapping) or value.get('of') not in ids:
    raise BadInput(f'event: value: of has to be one of {sorted(ids)}')
  text = _text(value, 'text', LONGEST)
  if not text.strip():
    raise BadInput('event: text is empty; an edit says something')
  return {'of': value['of'], 'text': text}

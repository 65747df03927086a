"""What users did with the answers of a served chat, read from its log and held against its form.

Nothing in an event is trusted: it came from a browser, or from whoever can reach the server. What
has another form, says too much or was sent without consent is left out and counted. A user is known
by a hash of what the page called them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

ROLES = ('system', 'user', 'assistant', 'tool')
LONGEST = 200_000  # characters of an event
DEEPEST = 50  # lists and objects inside of each other
TAGS = 20
ANONYMOUS = 'anonymous'

Messages = list[dict[str, Any]]


class Answer(NamedTuple):
  """An answer.

  Attributes:
    id: in its conversation.
    message: as training reads it, with its calls and thoughts.
    whole: whether it ended by itself, and was not cut, or stopped by the user.
    edited: whether the user wrote it.
  """

  id: str
  message: dict[str, Any]
  whole: bool
  edited: bool

  @property
  def text(self) -> str:
    return self.message['content']


class Act(NamedTuple):
  """One thing that a user did.

  Attributes:
    seq: its number in the log.
    day: on which the server got it, in UTC.
    user: a hash.
    conversation: as the page calls it.
    artifact: fingerprint of the model that answered.
    model: its name.
    prompt: the messages before the answer.
    tools: that the model might call.
    answer: that it is about, or the one that was kept.
    others: drafts that were not kept, in the order in which they were made.
    value: `act` and what belongs to it.
  """

  seq: int
  day: str
  user: str
  conversation: str
  artifact: str
  model: str
  prompt: Messages
  tools: list[dict[str, Any]]
  answer: Answer
  others: tuple[Answer, ...]
  value: dict[str, Any]


def read(events: Iterable[Mapping[str, Any]], after: int = 0) -> tuple[list[Act], Counter[str]]:
  """The acts of a log, the oldest first, and what was left out of it behind event `after`."""
  found: list[Act] = []
  left: Counter[str] = Counter()
  for event in events:
    if event.get('kind') != 'chat':
      continue
    try:
      found.append(act(event))
    except _Left as reason:
      left[str(reason)] += event['seq'] > after
  return sorted(found, key=lambda one: one.seq), left


class _Left(Exception):
  """Why an event is left out."""


def unusable(event: Mapping[str, Any]) -> str:
  """Why an event is left out of every export, so that it need not be kept; '' if it is read."""
  try:
    act(event)
  except _Left as reason:
    return str(reason)
  return ''


def act(event: Mapping[str, Any]) -> Act:
  """One event, see `llm_jax.serving.feedback`."""
  if event.get('store') is not True:
    raise _Left('without consent')
  if _size(event) > LONGEST:
    raise _Left('too long')
  event = _whole(event)
  try:
    answer = _mapping(event['answer'])
    prompt = [_message(one) for one in _list(event['messages'])]
    others = {one.id: one for one in map(_answer, _list(answer.get('others') or []))}
    if not prompt or prompt[-1]['role'] == 'assistant':
      raise ValueError
    return Act(
      seq=int(event['seq']),
      day=_text(event['at'])[:10],
      user=hashed(_text(event.get('annotator') or '')) or ANONYMOUS,
      conversation=_text(event['conversation']),
      artifact=_text(event.get('fingerprint') or '')[:64],
      model=_text(event.get('model') or '')[:200],
      prompt=prompt,
      tools=[dict(_mapping(one)) for one in _list(event.get('tools') or [])],
      answer=_answer(answer),
      others=tuple(others.values()),
      value=_value(_mapping(event['value'])),
    )
  except (KeyError, TypeError, ValueError, RecursionError):
    raise _Left('not understood') from None


def hashed(name: str) -> str:
  """What stands for a user where others may read it; '' for none.

  >>> hashed('ann'), hashed('')
  ('49915e0d7d4b', '')
  """
  return hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:12] if name else ''


def _size(value: Any) -> int:
  """Characters of all texts and items of all lists; too many where lists are nested too deep."""
  waiting, size = [(value, 0)], 0
  while waiting and size <= LONGEST:
    one, depth = waiting.pop()
    size += len(one) if isinstance(one, str) else 1
    inside = [*one, *one.values()] if isinstance(one, Mapping) else one
    if isinstance(inside, list):
      waiting += [(inner, depth + 1) for inner in inside]
    size += (LONGEST + 1) * (depth > DEEPEST)
  return size


def _mapping(value: Any) -> Mapping[str, Any]:
  if not isinstance(value, Mapping):
    raise TypeError
  return value


def _list(value: Any) -> list[Any]:
  if not isinstance(value, list):
    raise TypeError
  return value


def _text(value: Any) -> str:
  if not isinstance(value, str):
    raise TypeError
  return value


def _whole(value: Any) -> Any:
  """JSON without halves of characters, which no file can hold; to be given what `_size` allows."""
  if isinstance(value, str):
    return value.encode('utf-8', 'replace').decode()
  if isinstance(value, list):
    return [_whole(one) for one in value]
  if isinstance(value, Mapping):
    return {_whole(key): _whole(one) for key, one in value.items()}
  return value


def _message(found: Any) -> dict[str, Any]:
  one = _mapping(found)
  role = one['role']
  calls = [_call(call) for call in _list(one.get('tool_calls') or [])]
  if role not in ROLES or (calls and role != 'assistant'):
    raise ValueError
  content = one.get('content')
  made: dict[str, Any] = {'role': role, 'content': '' if content is None and calls else content}
  made['content'] = _text(made['content'])
  if calls:
    made['tool_calls'] = calls
  thoughts = one.get('reasoning_content') or one.get('reasoning')
  if thoughts and role == 'assistant':
    made['reasoning_content'] = _text(thoughts)
  return made


def _call(found: Any) -> dict[str, Any]:
  function = _mapping(_mapping(found)['function'])
  name, arguments = _text(function['name']), _text(function['arguments'] or '{}')
  given = json.loads(arguments)
  if not name or not isinstance(given, Mapping) or _size(given) > LONGEST:
    raise ValueError
  arguments = json.dumps(_whole(given), ensure_ascii=False)
  return {'type': 'function', 'function': {'name': name, 'arguments': arguments}}


def _answer(found: Any) -> Answer:
  one = _mapping(found)
  said = {**one, 'role': 'assistant', 'content': one['text']}
  whole = one.get('finish') in (None, 'stop', 'tool_calls')
  return Answer(_text(one['id']), _message(said), whole, bool(one.get('edited')))


def _value(value: Mapping[str, Any]) -> dict[str, Any]:
  """What was done, without what no rule reads."""
  kind = value['act']
  if kind == 'thumb':
    grade, tags = value['grade'], [_text(tag) for tag in _list(value.get('tags') or [])]
    if type(grade) is not int or grade not in (-1, 0, 1):
      raise ValueError
    comment = _text(value.get('comment') or '')
    return {'act': kind, 'grade': grade, 'tags': sorted({*tags[:TAGS]}), 'comment': comment}
  if kind in ('regenerate', 'pick'):
    shown = [_text(one) for one in _list(value.get('shown') or [])]
    return {'act': kind, 'kept': _text(value['kept']), 'shown': shown}
  if kind == 'edit':
    return {'act': kind, 'text': _text(value['text'])}
  if kind in ('retry', 'copy'):
    return {'act': kind}
  raise ValueError

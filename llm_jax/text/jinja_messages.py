"""Messages as the chat templates of transformers read them, and the texts that one could lose."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llm_jax.text.templates import Turn
from llm_jax.types import BadInput

THINKING = ('reasoning_content', 'thinking', 'reasoning')
_ORDER = ('thinking', 'text', 'call')
Given = Mapping[str, Sequence[Mapping[str, Any]]]


class Field(NamedTuple):
  """The text `name` of entry `index` of `where`, which is 'messages' or 'tools'."""

  where: str
  index: int
  name: str


def with_thought(message: Mapping[str, Any]) -> dict[str, Any]:
  """With its reasoning under both names that templates read, as transformers 5 has it.

  >>> with_thought({'role': 'assistant', 'reasoning': 'hm'})['thinking']
  'hm'
  """
  thought = next((message[key] for key in THINKING if message.get(key) is not None), None)
  if thought is None:
    return dict(message)
  return {'thinking': thought, **message, 'reasoning_content': thought}


def in_form(message: Mapping[str, Any], turn: Turn, where: str) -> dict[str, Any]:
  """A message with one thought, one text, and calls whose arguments are mappings.

  Args:
    message: as it was given.
    turn: its parts.
    where: what an error begins with.

  Raises:
    BadInput: it has parts of other kinds or in another order.
  """
  kinds = [part.kind for part in turn.parts]
  if not set(kinds) <= {*_ORDER} or kinds != sorted(kinds, key=_ORDER.index):
    raise BadInput(
      f'{where}: its parts are {", ".join(kinds)}; a chat template in Jinja takes a thought, a '
      'text and calls, in this order'
    )
  thought, said = (''.join(p.text for p in turn.parts if p.kind == k) for k in _ORDER[:2])
  found = {k: v for k, v in message.items() if k not in (*THINKING, 'tool_calls')}
  found['content'] = said if 'text' in kinds or 'call' not in kinds else None
  if 'call' in kinds:
    calls = [part for part in turn.parts if part.kind == 'call']
    found['tool_calls'] = [
      {
        **{k: v for k, v in given.items() if k == 'id'},
        'type': 'function',
        'function': {'name': call.name, 'arguments': _parsed(call.text)},
      }
      for given, call in zip(message['tool_calls'], calls, strict=True)
    ]
  return with_thought({**found, 'thinking': thought}) if thought else found


def _parsed(arguments: str) -> Any:
  try:
    found = json.loads(arguments)
  except (ValueError, RecursionError):
    return arguments
  return found if isinstance(found, dict) else arguments


def with_text_arguments(message: Mapping[str, Any]) -> dict[str, Any]:
  """With the arguments of calls as JSON text, which some templates join to theirs."""
  calls = [dict(call) for call in message.get('tool_calls') or ()]
  for call in calls:
    function = call['function']
    if not isinstance(function['arguments'], str):
      text = json.dumps(function['arguments'], ensure_ascii=False)
      call['function'] = {**function, 'arguments': text}
  return {**message, 'tool_calls': calls} if calls else dict(message)


def fields(given: Given) -> Iterator[Field]:
  """Every text of messages and tools that has to be in what a template writes."""
  for i, message in enumerate(given['messages']):
    if (message.get('content') or '').strip():
      yield Field('messages', i, 'content')
    if message.get('thinking', '').strip():
      yield Field('messages', i, 'thinking')
    if message.get('tool_calls'):
      yield Field('messages', i, 'tool_calls')
  for i, _ in enumerate(given['tools']):
    yield Field('tools', i, 'name')


def noted(given: Given, notes: Mapping[Field, str]) -> dict[str, Any]:
  """Messages and tools with a note at the end of some fields, before the blanks that end them."""
  messages = [dict(message) for message in given['messages']]
  tools = [dict(tool) for tool in given['tools']]
  for (where, i, name), note in notes.items():
    if where == 'tools':
      inner = tools[i]['function'] if 'function' in tools[i] else tools[i]
      changed = {**inner, 'name': f'{inner.get("name", "")}{note}'}
      tools[i] = {**tools[i], 'function': changed} if 'function' in tools[i] else changed
    elif name == 'tool_calls':
      calls = messages[i]['tool_calls']
      named = lambda f, note=note: {**f, 'name': f['name'] + note}
      messages[i]['tool_calls'] = [{**c, 'function': named(c['function'])} for c in calls]
    else:
      text = messages[i][name]
      end = len(text.rstrip())
      same = (name, 'reasoning_content') if name == 'thinking' else (name,)
      messages[i] |= dict.fromkeys(same, text[:end] + note + text[end:])
  return {'messages': messages, 'tools': tools}


def texts(value: Any, but: Collection[str] = ()) -> Iterator[str]:
  """Every text in mappings and sequences, their keys too; of the keys `but` the value is left out.

  >>> [*texts({'role': 'user', 'content': ['Hi']}, but=('role',))]
  ['role', 'content', 'Hi']
  """
  if isinstance(value, str):
    yield value
  elif isinstance(value, Mapping):
    for key, inner in value.items():
      yield from texts(key)
      if key not in but:
        yield from texts(inner, but)
  elif isinstance(value, (list, tuple)):
    for part in value:
      yield from texts(part, but)

"""Messages as people publish them, read as those of `llm_jax.text.chat`.

A message may be {role, content}, {from, value}, or a question with its answer, under any of the
names that published data have for roles; lists of them may be JSON text, as in cells of a CSV file.
What says whether an answer is trained becomes `train: False`, calls become `tool_calls`.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.data import json_text
from llm_jax.options import suggest
from llm_jax.text import chat
from llm_jax.types import BadInput

Record = Mapping[str, Any]
Messages = list[dict[str, Any]]

_ROLES = {
  'system': 'system',
  'developer': 'system',
  'user': 'user',
  'human': 'user',
  'prompter': 'user',
  'assistant': 'assistant',
  'gpt': 'assistant',
  'chatgpt': 'assistant',
  'model': 'assistant',
  'bot': 'assistant',
  'chatbot': 'assistant',
  'ai': 'assistant',
  'bing': 'assistant',
  'bard': 'assistant',
  'function_call': 'assistant',
  'tool_call': 'assistant',
  'tool': 'tool',
  'function': 'tool',
  'ipython': 'tool',
  'observation': 'tool',
  'tool_response': 'tool',
  'function_response': 'tool',
}
# A question and its answer in one object, as in a history.
_TURNS = (
  ('input', 'output'),
  ('human', 'assistant'),
  ('user', 'assistant'),
  ('question', 'answer'),
  ('prompt', 'response'),
)
_MEDIA = ('image', 'images', 'audio', 'audios', 'video', 'videos')
_PARTS = {'input_text': 'text', 'output_text': 'text', 'reasoning': 'thinking'}
_HH = re.compile(r'\n\n(Human|Assistant):')
_HELPSTEER = re.compile(r'\s*<extra_id_1>(User|Assistant)\n')
_GLAIVE = re.compile(r'\s*(USER|ASSISTANT|FUNCTION RESPONSE):\s*')
_GLAIVE_CALL = re.compile(r'<functioncall>\s*\{"name": "([^"]+)", "arguments": \'(.*)\'\s*\}', re.S)
_TOOLS = 'You can call these tools:'


class BadRow(BadInput):
  """A record of a known format that no model should learn from; rows are counted by `reason`."""

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason


def get(record: Record, column: str) -> Any:
  """The value of the one column of `a|b` that is there, or None."""
  found = [record[name] for name in column.split('|') if not is_null(record.get(name))]
  return found[0] if found else None


def is_null(value: Any) -> bool:
  """Whether there is no value: None, or the NaN that pandas writes for it."""
  return value is None or (isinstance(value, float) and math.isnan(value))


def parsed(value: Any) -> Any:
  """The list or object of a JSON text; everything else as it is."""
  if isinstance(value, str) and value.lstrip()[:1] in ('[', '{'):
    try:
      return json_text.loads(value)
    except BadInput:
      return value
  return value


def messages(value: Any) -> Messages:
  """One list of messages of {role, content}; the top of this file says what `value` may hold.

  >>> messages('[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho", "weight": 0}]')
  ... # doctest: +NORMALIZE_WHITESPACE
  [{'role': 'user', 'content': 'Hi'},
   {'role': 'assistant', 'content': 'Ho', 'train': False}]

  Raises:
    BadInput: it is no list of messages.
    BadRow: it is, but a message or a call is broken.
  """
  items = parsed(value)
  if isinstance(items, Mapping):
    # Some Arrow files have a struct of lists for a list of structs.
    if items and all(isinstance(column, list) for column in items.values()):
      rows = zip(*items.values(), strict=True)
      items = [dict(zip(items, row, strict=True)) for row in rows]
    else:
      items = [items]
  if not isinstance(items, Sequence) or isinstance(items, str):
    raise BadInput(f'{str(items)[:60]!r} is no list of messages, nor JSON text of one')
  # Arrow gives every message the keys of all others. Then the arguments of a call have the keys of
  # all other calls too, as null. A null that somebody wrote stands among messages without calls.
  is_arrow = all(isinstance(item, Mapping) and 'tool_calls' in item for item in items)
  return [message for item in items for message in _messages_of(item, is_arrow)]


def dialogue(value: Any) -> Messages:
  """As `messages`; a list of texts alternates between user and assistant."""
  found = parsed(value)
  if isinstance(found, list) and found and all(isinstance(text, str) for text in found):
    roles = ('user', 'assistant')
    return [{'role': roles[i % 2], 'content': text} for i, text in enumerate(found)]
  return messages(found)


def said(value: Any, role: str) -> Messages:
  """A text as one message of `role`; messages, also as JSON text, as they are."""
  if isinstance(value, str):
    found = parsed(value) if value.lstrip().startswith('[') else None
    if not (isinstance(found, list) and found and all(map(_is_message, found))):
      return [{'role': role, 'content': value}]
    value = found
  return messages(value)


def answer(value: Any) -> Messages:
  """What an assistant says: a text, or messages."""
  if isinstance(value, list) and value and isinstance(value[0], str):
    raise BadInput('a list of answers where there should be one; this is data for preferences')
  return said(value, 'assistant')


def calling(calls: Any) -> Messages:
  """One message of an assistant who calls tools: an object or list of them, or JSON text of it."""
  calls = parsed(calls)
  listed = calls if isinstance(calls, list) else [calls]
  return [{'role': 'assistant', 'content': None, 'tool_calls': [_call(c, False) for c in listed]}]


def refuse_media(of: Record) -> None:
  """Raises BadInput if a record or a message has pictures or sounds."""
  for name in _MEDIA:
    if get(of, name):
      raise BadInput(f'{name} is {str(of[name])[:60]!r}; only texts are read, so leave it out')


def complete(found: Messages) -> Messages:
  """Messages that all say something: a null system prompt is none, a null result is empty.

  Raises:
    BadRow: another message is null.
  """
  whole = []
  for message in found:
    if message['content'] is None and not message.get('tool_calls'):
      if message['role'] == 'system':
        continue
      if message['role'] != 'tool':
        raise BadRow('null answer' if message['role'] == 'assistant' else 'null message')
      message = {**message, 'content': ''}
    whole.append(message)
  return whole


def text_of(message: Record) -> str:
  """What a message says, without the thoughts and calls of an assistant.

  >>> text_of({'content': [{'type': 'thinking', 'text': '6 * 7'}, {'type': 'text', 'text': '42'}]})
  '42'
  """
  content = message.get('content') or ''
  if isinstance(content, str):
    return content
  return ''.join(part['text'] for part in content if part.get('type', 'text') == 'text')


def led(record: Record, found: Messages) -> Messages:
  """`found` with the record's system prompt and tools before them, as one system message."""
  system = get(record, 'system|system_prompt') or ''
  tools = _tools(get(record, 'tools|functions'))
  if not isinstance(system, str):
    raise BadInput(f'the system prompt is {str(system)[:60]!r}; write a text')
  if not system and not tools:
    return found
  texts = [system]
  if found and found[0]['role'] == 'system':
    own, found = text_of(found[0]), found[1:]
    texts = [own] if system.strip() == own.strip() else [system, own]
  # Some sets have their tools in the system prompt as well; they are written once.
  names = [(tool.get('function') or tool).get('name') for tool in tools]
  if not all(f'"{name}"' in text for name in names for text in ['\n'.join(texts)]):
    texts.append('\n'.join([_TOOLS, *(json.dumps(tool, ensure_ascii=False) for tool in tools)]))
  return [{'role': 'system', 'content': '\n\n'.join(filter(None, texts))}, *found]


def transcript(text: str) -> Messages:
  """A dialogue of HH-RLHF, in which `Human:` or `Assistant:` stands before each message."""
  before, *parts = _HH.split(text)
  if before or not parts:
    raise BadInput(
      f'{text[:60]!r}: chosen and rejected without a prompt are dialogues that begin with '
      "'\\n\\nHuman: ', or lists of messages"
    )
  return _alternating(parts, 'Human')


def asked(text: str) -> Messages:
  """A prompt as text: of the user, or turns with the marks of HH-RLHF or HelpSteer2."""
  if text.startswith('\n\nHuman:'):
    return transcript(re.sub(r'\n\nAssistant:\s*\Z', '', text))
  first, *parts = _HELPSTEER.split(text)
  return said(first, 'user') + _alternating(parts, 'User')


def glaive(text: str) -> Messages:
  """A chat of Glaive's function calling, version 2, with its calls and their results."""
  before, *parts = _GLAIVE.split(text)
  if before.strip() or not parts:
    raise BadInput(f"{text[:60]!r}: chat is a text with 'USER: ' and 'ASSISTANT: ' before turns")
  found = []
  for speaker, words in zip(parts[::2], parts[1::2], strict=True):
    words = words.replace('<|endoftext|>', '').strip()
    if call := _GLAIVE_CALL.fullmatch(words):
      found += calling({'name': call[1], 'arguments': call[2].replace("\\'", "'")})
    elif '<functioncall>' in words:
      raise BadRow('broken tool call')
    else:
      role = {'USER': 'user', 'ASSISTANT': 'assistant'}.get(speaker, 'tool')
      found.append({'role': role, 'content': words})
  return found


def _alternating(parts: Sequence[str], user: str) -> Messages:
  return [
    {'role': 'user' if speaker == user else 'assistant', 'content': words.strip()}
    for speaker, words in zip(parts[::2], parts[1::2], strict=True)
  ]


# --- one message -------------------------------------------------------------------------------


def _is_message(item: Any) -> bool:
  role = get(item, 'role|from') if isinstance(item, Mapping) else None
  return str(role).lower() in _ROLES and any(key in item for key in ('content', 'value'))


def _messages_of(item: Any, is_arrow: bool) -> Messages:
  if item is None:
    raise BadRow('null message')
  if isinstance(item, (list, tuple)) and len(item) == 2:
    item = {'user': item[0], 'assistant': item[1]}
  if isinstance(item, Mapping):
    if get(item, 'role|from') is not None:
      return [_message(item, is_arrow)]
    for question, reply in _TURNS:
      if question in item and reply in item:
        pair = {'user': item[question], 'assistant': item[reply]}
        return [{'role': role, 'content': _content(words)} for role, words in pair.items()]
  raise BadInput(
    f"{str(item)[:60]!r} is no message; write {{'role': ..., 'content': ...}} or "
    "{'from': ..., 'value': ...}"
  )


def _message(item: Record, is_arrow: bool) -> dict[str, Any]:
  name = str(get(item, 'role|from')).strip().lower()
  role = _ROLES.get(name)
  if role is None:
    raise BadInput(f'no role {name!r}; {suggest(name, list(_ROLES))}')
  refuse_media(item)
  content = get(item, 'content|value|text')
  if name in ('function_call', 'tool_call'):
    return calling(content)[0]
  calls = parsed(get(item, 'tool_calls|function_call'))
  if not calls and not any(key in item for key in ('content', 'value', 'text')):
    raise BadInput(f'a message of {name} has the keys {", ".join(item)}, and none is content')
  kept = {key: value for key, value in item.items() if value is not None}
  message = {**kept, 'role': role, 'content': _content(content)}
  for key in ('from', 'value', 'text', 'function_call', 'tool_calls', *chat.TRAINED):
    message.pop(key, None)
  if not chat.is_trained({**item, 'role': role}) and role == 'assistant':
    message['train'] = False
  if calls:
    listed = calls if isinstance(calls, list) else [calls]
    message['tool_calls'] = [_call(call, is_arrow) for call in listed]
  return message


def _content(content: Any) -> Any:
  """Content whose parts have the names and keys of `chat`, which refuses what it cannot read."""
  if content is None or isinstance(content, str):
    return content
  if not isinstance(content, list):
    raise BadInput(f'content is {str(content)[:60]!r}; write a text or a list of parts')
  parts = [{'type': 'text', 'text': part} if isinstance(part, str) else part for part in content]
  for i, part in enumerate(parts):
    if isinstance(part, Mapping) and (part.get('type') in _PARTS or 'thinking' in part):
      kind = _PARTS.get(part['type'], part['type'])
      parts[i] = {'type': kind, 'text': get(part, 'text|thinking')}
  chat.parts(parts)
  return parts


def _call(call: Any, is_arrow: bool) -> dict[str, Any]:
  call = parsed(call)
  function = (call.get('function') or call) if isinstance(call, Mapping) else {}
  if not isinstance(function, Mapping) or not isinstance(function.get('name'), str):
    raise BadRow('broken tool call')
  arguments = get(function, 'arguments|parameters')
  if isinstance(arguments, list) and all(isinstance(pair, tuple) for pair in arguments):
    arguments = dict(arguments)  # a map of Arrow
  if not isinstance(parsed(arguments or {}), Mapping):
    raise BadRow('broken tool call')
  if not isinstance(arguments, str):
    arguments = _without_nulls(arguments or {}) if is_arrow else arguments or {}
  named = {'name': function['name'], 'arguments': '{}' if arguments == '' else arguments}
  return {'type': 'function', 'function': named}


def _tools(value: Any) -> list[Record]:
  """The tools of a column, which may be JSON text, without the keys that Arrow added as null."""
  found = parsed(value or [])
  listed = [found] if isinstance(found, Mapping) else found
  listed = [parsed(tool) for tool in listed] if isinstance(listed, list) else [listed]
  if not all(isinstance(tool, Mapping) for tool in listed):
    raise BadRow('broken list of tools')
  return [_without_nulls(tool) for tool in listed]


def _without_nulls(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _without_nulls(item) for key, item in value.items() if item is not None}
  return [_without_nulls(item) for item in value] if isinstance(value, list) else value

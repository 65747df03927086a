"""The messages and tools of a chat request, read into the form that `llm_jax.text.chat` takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.serving.errors import invalid, unsupported
from llm_jax.serving.fields import Fields, shown

# As clients write them, and as templates do.
ROLES = {
  'system': 'system',
  'developer': 'system',
  'user': 'user',
  'assistant': 'assistant',
  'tool': 'tool',
}
THOUGHTS = ('reasoning_content', 'reasoning')
MOST = 4096  # messages of a conversation, and tools


def messages(body: Fields) -> list[dict[str, Any]]:
  """The conversation of a body.

  >>> messages(Fields({'messages': [{'role': 'developer', 'content': 'Be kind.'}]}))
  [{'role': 'system', 'content': 'Be kind.'}]

  Raises:
    ApiError: naming the field.
  """
  found = body.groups('messages')
  if not found:
    raise invalid('messages', 'messages is empty; give at least one message')
  if len(found) > MOST:
    raise invalid('messages', f'messages has {len(found)} items; give at most {MOST}')
  return [_message(message) for message in found]


def _message(message: Fields) -> dict[str, Any]:
  given = message.get('role')
  role = ROLES.get(given) if isinstance(given, str) else None
  if role is None:
    raise message.wrong('role', f'choose from: {", ".join(ROLES)}')
  message.text('name')
  if role == 'tool' and message.text('tool_call_id') is None:
    raise invalid(message.path('tool_call_id'), 'a message of a tool needs tool_call_id')
  calls = message.groups('tool_calls')
  if calls and role != 'assistant':
    raise invalid(message.path('tool_calls'), f'only the assistant calls tools, and not {role}')
  read: dict[str, Any] = {'role': role, 'content': _content(message, can_miss=bool(calls))}
  if calls:
    read['tool_calls'] = [_call(call) for call in calls]
  thoughts = [text for name in THOUGHTS if (text := message.text(name))]
  if thoughts and role == 'assistant':
    read['reasoning_content'] = thoughts[0]
  return read


def _content(message: Fields, *, can_miss: bool) -> str | None:
  content = message.get('content')
  if isinstance(content, str):
    return content
  if content is None:
    if not can_miss:
      raise message.wrong('content', 'give a string; only an assistant who calls tools has none')
    return None
  if not isinstance(content, list):
    raise message.wrong('content', 'give a string, or an array of parts')
  return ''.join(_part(part) for part in message.groups('content'))


def _part(part: Fields) -> str:
  kind = part.get('type')
  if kind != 'text':
    path = part.path('type')
    known = ('image_url', 'input_audio', 'file', 'refusal')
    refuse = unsupported if isinstance(kind, str) and kind in known else invalid
    raise refuse(path, f'{path} is {shown(kind)}; this model reads parts of type text')
  text = part.text('text')
  if text is None:
    raise part.wrong('text', 'give a string')
  return text


def _call(call: Fields) -> dict[str, Any]:
  if call.get('type') not in (None, 'function'):
    raise call.wrong('type', 'calls are of type function')
  function = call.group('function')
  if function is None:
    raise call.wrong('function', 'give an object with name and arguments')
  name, arguments = function.text('name'), function.text('arguments')
  if not name or arguments is None:
    raise function.wrong('arguments' if name else 'name', 'give a string')
  id = call.text('id')
  named = {'name': name, 'arguments': arguments}
  return {**({} if id is None else {'id': id}), 'type': 'function', 'function': named}


def tools(body: Fields) -> list[dict[str, Any]]:
  """The functions that the model may call; none where the body says so.

  Raises:
    ApiError: a broken tool, or a choice that the model cannot be held to.
  """
  found = [_tool(tool) for tool in body.groups('tools')]
  if len(found) > MOST:
    raise invalid('tools', f'tools has {len(found)} items; give at most {MOST}')
  body.flag('parallel_tool_calls')
  return [] if body.get('tool_choice') == 'none' else found


def must_call(body: Fields, tools: Sequence[Mapping[str, Any]]) -> str:
  """'required', or the name of the function that has to be called; '' if none has to be.

  Args:
    body: of the request.
    tools: that it has.

  Raises:
    ApiError: there is no such choice, or no such function.
  """
  choice = body.get('tool_choice')
  if choice in (None, 'auto', 'none'):
    return ''
  if choice == 'required':
    if not tools:
      raise invalid('tool_choice', 'tool_choice is required, and there are no tools to call')
    return choice
  named = body.group('tool_choice') if isinstance(choice, dict) else None
  if named is None:
    raise body.wrong('tool_choice', 'choose auto, none, required, or name a function')
  if named.get('type') != 'function':
    raise named.wrong('type', 'choose function')
  function = named.group('function')
  name = function.text('name') if function is not None else None
  if not name or name not in [tool['function']['name'] for tool in tools]:
    path = 'tool_choice.function.name'
    raise invalid(path, f'{path} is {shown(name)}; give the name of one of the tools')
  return name


def strict(body: Fields) -> bool:
  """Whether one of the functions asks that calls are valid."""
  functions = [tool.group('function') for tool in body.groups('tools')]
  return any([function.flag('strict') for function in functions if function is not None])


def _tool(tool: Fields) -> dict[str, Any]:
  if tool.get('type') != 'function':
    raise tool.wrong('type', 'tools are of type function')
  function = tool.group('function')
  if function is None:
    raise tool.wrong('function', 'give an object with a name')
  name = function.text('name', longest=64)
  if not name:
    raise function.wrong('name', 'give a string')
  read: dict[str, Any] = {'name': name}
  if (about := function.text('description')) is not None:
    read['description'] = about
  if function.group('parameters') is not None:
    read['parameters'] = function.get('parameters')
  return {'type': 'function', 'function': read}

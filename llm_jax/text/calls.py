"""How a model is told which tools it has, and how it names one of them in a call.

A line of the system message lists the tools, as in Llama 3.1 ('Tools: brave_search').
A call stands between control tokens (`templates.MARKS`); inside of them a model writes the name
and, in parentheses, the text that the tool is given: 'calculator(2 * 3)'.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any


def led(messages: Sequence[Mapping[str, Any]], names: Collection[str]) -> list[dict[str, Any]]:
  """The conversation with the tools in its system message; without tools as it is.

  >>> led([{'role': 'user', 'content': 'Hi'}], ['calculator', 'spell'])[0]
  {'role': 'system', 'content': 'Tools: calculator, spell'}
  """
  found = [dict(message) for message in messages]
  if not names:
    return found
  line = f'Tools: {", ".join(names)}'
  if found and found[0]['role'] == 'system' and isinstance(found[0].get('content'), str):
    return [{**found[0], 'content': f'{found[0]["content"]}\n\n{line}'.lstrip()}, *found[1:]]
  return [{'role': 'system', 'content': line}, *found]


def written(name: str, text: str) -> str:
  """A call of a tool, without the control tokens around it."""
  return f'{name}({text})'


def read(text: str, names: Collection[str]) -> tuple[str, str]:
  """The tool that a call goes to, and the text that it is given.

  It may be written as JSON too, {"name": ..., "arguments": ...}, where the first argument counts. A
  text that names no tool goes to the first of them.

  >>> read('calculator(2 * (3 + 4))', ['search', 'calculator'])
  ('calculator', '2 * (3 + 4)')
  >>> read('print(x)', ['search', 'calculator'])
  ('search', 'print(x)')

  Args:
    text: of the call.
    names: of the tools, at least one.
  """
  name, opened, rest = text.strip().partition('(')
  if opened and rest.endswith(')') and name in names:
    return name, rest[:-1]
  try:
    asked = json.loads(text)
  except (ValueError, RecursionError):
    asked = None
  if isinstance(asked, dict) and 'name' in asked:
    arguments = asked.get('arguments', '')
    several = isinstance(arguments, dict)
    return str(asked['name']), str(next(iter(arguments.values()), '') if several else arguments)
  return next(iter(names)), text

"""What a reward asks for beside the answer and the gold: columns of the prompt's record, and more.

A keyword of a reward without a default that no option sets is the name of a column; so are `prompt`
(the text of the last message of the user) and `messages` (all of them), which every prompt has.
`thinking` and `completion` are of what was said, beside the answer (rewards/thoughts.py).
"""

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

ALWAYS = ('prompt', 'messages')
OF_ANSWER = ('thinking', 'completion')


def asked(function: Callable, options: Collection[str] = ()) -> tuple[str, ...]:
  """The columns that a reward names.

  >>> def reward(answer, gold, *, level, unit, strict=True): ...
  >>> asked(reward, options=['unit'])
  ('level',)
  """
  keywords = [
    p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY
  ]
  wanted = lambda p: p.default is p.empty or p.name in (*ALWAYS, *OF_ANSWER)
  return tuple(p.name for p in keywords if p.name not in options and wanted(p))


def of_record(asked: Sequence[str]) -> tuple[str, ...]:
  """Those of what is asked for that come with the prompt."""
  return tuple(name for name in asked if name not in OF_ANSWER)


def pack(
  record: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> bytes:
  """The columns of a record as JSON in UTF-8; one that it does not have is null."""
  if not columns:
    return b''
  users = [m.get('content') for m in messages if m.get('role') == 'user']
  own = {'prompt': users[-1] if users else '', 'messages': [dict(m) for m in messages]}
  found = {name: own[name] if name in own else record.get(name) for name in columns}
  return json.dumps(found, ensure_ascii=True, default=str).encode()


def unpack(record_A: Any) -> dict[str, Any]:
  """What `pack` made, from a field of bytes that is padded with 0."""
  text = bytes(record_A).rstrip(b'\0')
  return json.loads(text) if text else {}

"""From the ids that a model said to a message with parts: the way back from `chat`.

A thought, a call of a tool and its result stand between control tokens (MARKS), and nowhere else
can they be told from the answer: whoever decodes ids first has lost the border.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from llm_jax.text.chat import ChatTemplate
from llm_jax.text.templates import MARKS, TEMPLATES, Part, Turn
from llm_jax.types import Tokenizer

# What templates have forms for, beside text; a part of any other kind could not be encoded again.
_FORMS: dict[ChatTemplate, tuple[str, ...]] = {
  'llm_jax': ('thinking', 'search', 'result'),
  'chatml': ('thinking', 'call'),
}
_CALL = re.compile(r'\n?<tool_call>\n\{"name": ("(?:[^"\\]|\\.)*"), "arguments": (.*)\}', re.DOTALL)
# Control tokens that `spelled` shows: ours, and those that other models have for the same.
_SHOWN = [mark for marks in MARKS.values() for mark in marks]
_SHOWN += [
  f'<{end}{name}>' for name in ('think', 'tool_call', 'tool_response') for end in ('', '/')
]


def message(
  tokenizer: Tokenizer,
  ids: Iterable[int],
  *,
  template: ChatTemplate = 'llm_jax',
  after: int | None = None,
) -> dict[str, Any]:
  """What the assistant said, so that `chat.pieces` with this template writes the same ids again.

  The content is a text, or a list of parts if there is a thought or a call of a tool; the calls of
  chatml are `tool_calls`. Where an end mark has no beginning, the prompt had opened the thought, so
  all before it was thought. What is not closed counts as closed by the end. A template that has no
  form for a part leaves it out.

  >>> from llm_jax.text.tokenizer import Tokenizer
  >>> tokenizer = Tokenizer.train(['abc'], vocab_size=273)
  >>> start, end = (tokenizer.special(name) for name in MARKS['thinking'])
  >>> message(tokenizer, [start, *tokenizer.encode('a'), end, *tokenizer.encode('b')])['content']
  [{'type': 'thinking', 'text': 'a'}, {'type': 'text', 'text': 'b'}]

  Args:
    tokenizer: of the model.
    ids: of an answer; its stop token is left out.
    template: one of TEMPLATES; of others only the text is taken.
    after: the id that stands before them, if it is known.
  """
  parts = _marked(tokenizer, ids, after)
  parts = [p for p in parts if p.kind == 'text' or p.kind in _FORMS.get(template, ())]
  if template == 'chatml' and len(parts) == 1:
    parts = _chatml_parts(parts[0].text)
  calls = [
    {'type': 'function', 'function': {'name': part.name, 'arguments': part.text}}
    for part in parts
    if part.kind == 'call'
  ]
  listed: Any = [{'type': p.kind, 'text': p.text} for p in parts if p.kind != 'call']
  if all(part['type'] == 'text' for part in listed):
    listed = ''.join(part['text'] for part in listed)
  said = {'role': 'assistant', 'content': listed}
  return {**said, 'tool_calls': calls} if calls else said


def spelled(tokenizer: Tokenizer, ids: Iterable[int], after: int | None = None) -> str:
  """All that was said as a text in which marks are spelled out, for people and for rewards.

  `llm_jax.rewards.thoughts` reads such a text. Control tokens that are no marks are left out.
  """
  names = tokenizer.specials
  shown = {names[mark] for mark in _SHOWN if mark in names}
  hidden = set(names.values()) - shown
  return tokenizer.decode([i for i in map(int, ids) if i not in hidden], True, after)


def span(mask: Sequence[int]) -> slice:
  """From the first to the last place where `mask` is not 0: an answer with what tools said in it.

  >>> span([0, 0, 1, 0, 1, 0])
  slice(2, 5, None)
  """
  places = [i for i, one in enumerate(mask) if one]
  return slice(places[0], places[-1] + 1) if places else slice(0, 0)


def _marked(tokenizer: Tokenizer, ids: Iterable[int], after: int | None) -> list[Part]:
  """Parts by control tokens."""
  marks = {
    tokenizer.specials[name]: (kind, place == 0)
    for kind, names in MARKS.items()
    for place, name in enumerate(names)
    if name in tokenizer.specials
  }
  parts: list[Part] = []
  said: list[int] = []
  # A thought may hold calls and their results, which are parts of their own.
  thinking, inner, since = False, '', 0
  last = after

  def close(kind: str, even_empty: bool = False) -> None:
    text = tokenizer.decode(said, after=after)
    if text or even_empty:
      parts.append(Part(kind, text))
    said.clear()

  for i in map(int, ids):
    if i not in marks:
      after = after if said else last
      said.append(i)
      continue
    last = i
    kind, starts = marks[i]
    if inner and (starts or kind == inner or kind == 'thinking'):
      close(inner, even_empty=True)
      inner = ''
      if kind != 'thinking' and not starts:
        continue
    base = 'thinking' if thinking else 'text'
    if kind != 'thinking':
      if starts:
        close(base)
        inner = kind
    elif starts and not thinking:
      close(base)
      thinking, since = True, len(parts)
    elif not starts and thinking:
      close(base, even_empty=since == len(parts))
      thinking = False
    elif not starts:
      close('thinking', even_empty=not parts)
      parts = [p._replace(kind='thinking') if p.kind == 'text' else p for p in parts]
  if inner or thinking:
    close(inner or 'thinking', even_empty=bool(inner) or since == len(parts))
  else:
    close('text')
  return parts


def _chatml_parts(text: str) -> list[Part]:
  """Thought, answer and calls in a text, or the text alone if they would be written otherwise."""
  thought, closed, rest = text.partition('\n</think>\n\n')
  opened = text.startswith('<think>')
  parts = [Part('thinking', thought.removeprefix('<think>\n'))] if closed else []
  said, mark, calls = (rest if closed else text).partition('<tool_call>\n')
  *written, last = f'{mark}{calls}'.split('\n</tool_call>')
  found = [_CALL.fullmatch(call) for call in written]
  if said and found:
    said = said.removesuffix('\n')
  if said:
    parts.append(Part('text', said))
  try:
    parts += [Part('call', match[2], json.loads(match[1])) for match in found if match]
  except ValueError:
    return [Part('text', text)]
  body = TEMPLATES['chatml'].body(Turn('assistant', parts, True))
  same = ('' if opened or not closed else '<think>\n') + text
  return parts if not last and body[0].text == same else [Part('text', text)]

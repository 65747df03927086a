"""How each chat format writes a conversation: our own, ChatML, Llama 3, Gemma 3 and plain text.

ChatML is written as Qwen 2.5 and 3 write it, tools included. Qwen 3 takes the thinking out of
earlier answers; here it stays, because training and sampling would otherwise see different texts.
Llama 3 and its tool calls are those of Llama 3.1, without dates and without quotes around results.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

from llm_jax.text.tokenizer import BOS, EOS
from llm_jax.types import BadInput

MARKS = {
  'thinking': ('<THINK_START>', '<THINK_END>'),
  'search': ('<SEARCH_START>', '<SEARCH_END>'),
  'result': ('<RESULT_START>', '<RESULT_END>'),
}


class Piece(NamedTuple):
  """Text that is encoded as one unit, or one control token.

  Attributes:
    text: the text, or the name of the control token.
    trainable: whether its tokens are targets.
    control: whether `text` is the name of a control token.
    joined: whether it is encoded as one text with the piece before, so that tokens may span both.
  """

  text: str
  trainable: bool = False
  control: bool = False
  joined: bool = False


class Part(NamedTuple):
  """Kinds are 'text', 'thinking', 'search', 'result' and 'call': `name` called with JSON `text`."""

  kind: str
  text: str
  name: str = ''


class Turn(NamedTuple):
  """A message in parts: the role as it will be written, and whether it `answers` as the model.

  An answer that is not `trained` is context for those that are.
  """

  role: str
  parts: list[Part]
  answers: bool
  trained: bool = True


class Template(NamedTuple):
  """How one format writes a conversation.

  Attributes:
    opening: pieces before the first turn.
    arrange: a function of the turns that renames, merges or refuses some of them.
    assistant: the role that answers, as it is written.
    header: a function from a role to the pieces before its text.
    body: a function from a turn to its text, as pieces that are trainable.
    end: a function from a turn to the pieces after it; after an answer the stop token comes first.
    stop: the name of that token.
  """

  opening: list[Piece]
  arrange: Callable[[list[Turn]], list[Turn]]
  assistant: str
  header: Callable[[str], list[Piece]]
  body: Callable[[Turn], list[Piece]]
  end: Callable[[Turn], list[Piece]]
  stop: str


def _as_json(call: Part, arguments: str = 'arguments') -> str:
  return f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "{arguments}": {call.text}}}'


def _refuse(template: str, what: str) -> BadInput:
  return BadInput(f'chat: template {template} has no form for {what}; use llm_jax or take it out')


def _control(name: str, trainable: bool = False) -> Piece:
  return Piece(name, trainable, control=True)


def _as_results(turn: Turn) -> Turn:
  return turn._replace(parts=[part._replace(kind='result') for part in turn.parts])


def _own_turns(turns: list[Turn]) -> list[Turn]:
  return [_as_results(turn) if turn.role == 'tool' else turn for turn in turns]


def _own_body(turn: Turn) -> list[Piece]:
  said = []
  for part in turn.parts:
    if part.kind == 'text':
      said.append(Piece(part.text, True))
      continue
    text = _as_json(part) if part.kind == 'call' else part.text
    start, end = MARKS['search' if part.kind == 'call' else part.kind]
    trainable = part.kind != 'result'
    said += [_control(start, trainable), Piece(text, trainable), _control(end, trainable)]
  return said


def _chatml_turns(turns: list[Turn]) -> list[Turn]:
  """The user gives the results of tools; those of several calls share a turn."""
  arranged = []
  for before, turn in zip([None, *turns], turns):
    if turn.role != 'tool':
      arranged.append(turn)
    elif before and before.role == 'tool':
      arranged[-1].parts.extend(_as_results(turn).parts)
    else:
      arranged.append(_as_results(turn)._replace(role='user'))
  return arranged


def _chatml_body(turn: Turn) -> list[Piece]:
  said, gap = '', ''
  for part in turn.parts:
    if part.kind == 'text':
      said += part.text
    elif part.kind == 'thinking':
      said += f'<think>\n{part.text}\n</think>\n\n'
    elif part.kind == 'call':
      said += f'{gap}<tool_call>\n{_as_json(part)}\n</tool_call>'
    elif part.kind == 'result' and not turn.answers:
      said += f'{gap}<tool_response>\n{part.text}\n</tool_response>'
    else:
      raise _refuse('chatml', f'a {part.kind} inside of an answer')
    gap = '\n' if part.kind in ('call', 'result') or (part.kind == 'text' and part.text) else gap
  return [Piece(said, True)]


def _llama3_turns(turns: list[Turn]) -> list[Turn]:
  return [turn._replace(role='ipython') if turn.role == 'tool' else turn for turn in turns]


def _llama3_body(turn: Turn) -> list[Piece]:
  calls = [part for part in turn.parts if part.kind == 'call']
  text = _trimmed(turn, 'llama3', [part for part in turn.parts if part.kind != 'call'])
  if len(calls) + bool(calls and text) > 1:
    raise _refuse('llama3', 'several tool calls, or one with text, in an answer')
  return [Piece(_as_json(calls[0], 'parameters') if calls else text, True)]


def _trimmed(turn: Turn, template: str, parts: list[Part]) -> str:
  for part in parts:
    if part.kind != 'text':
      raise _refuse(template, f'a {part.kind}')
  return ''.join(part.text for part in parts).strip()


def _gemma_turns(turns: list[Turn]) -> list[Turn]:
  """The system prompt opens the first user turn; user and model take turns."""
  prefix = ''
  if turns and turns[0].role == 'system':
    prefix = ''.join(part.text for part in turns[0].parts) + '\n\n'
    turns = turns[1:]
    if not turns:
      raise _refuse('gemma', 'a system prompt without a user')
  arranged = []
  for i, turn in enumerate(turns):
    if turn.role != ('user', 'assistant')[i % 2]:
      raise _refuse('gemma', f'{turn.role} where it is the turn of {("user", "assistant")[i % 2]}')
    text = _trimmed(turn, 'gemma', turn.parts)
    role = 'model' if turn.answers else 'user'
    parts = [Part('text', text if i else prefix + text)]
    arranged.append(turn._replace(role=role, parts=parts))
  return arranged


def _plain_turns(turns: list[Turn]) -> list[Turn]:
  if [turn.role for turn in turns] not in (['user'], ['assistant'], ['user', 'assistant'], []):
    raise _refuse('plain', 'more than a prompt of the user and an answer')
  return turns


def _text_body(turn: Turn) -> list[Piece]:
  for part in turn.parts:
    if part.kind != 'text':
      raise _refuse('plain', f'a {part.kind}')
  return [Piece(part.text, True) for part in turn.parts]


TEMPLATES = {
  'llm_jax': Template(
    opening=[_control(BOS)],
    arrange=_own_turns,
    assistant='assistant',
    header=lambda role: [_control('<|im_start|>'), Piece(role), _control('<|im_sep|>')],
    body=_own_body,
    end=lambda turn: [_control('<|im_end|>', turn.answers)],
    stop='<|im_end|>',
  ),
  'chatml': Template(
    opening=[],
    arrange=_chatml_turns,
    assistant='assistant',
    header=lambda role: [_control('<|im_start|>'), Piece(f'{role}\n')],
    body=_chatml_body,
    end=lambda turn: [_control('<|im_end|>', turn.answers), Piece('\n')],
    stop='<|im_end|>',
  ),
  'llama3': Template(
    opening=[_control(BOS)],
    arrange=_llama3_turns,
    assistant='assistant',
    header=lambda role: [
      _control('<|start_header_id|>'),
      Piece(role),
      _control('<|end_header_id|>'),
      Piece('\n\n'),
    ],
    body=_llama3_body,
    end=lambda turn: [_control('<|eot_id|>', turn.answers)],
    stop='<|eot_id|>',
  ),
  'gemma': Template(
    opening=[_control(BOS)],
    arrange=_gemma_turns,
    assistant='model',
    header=lambda role: [_control('<start_of_turn>'), Piece(f'{role}\n')],
    body=_text_body,
    end=lambda turn: [_control('<end_of_turn>', turn.answers), Piece('\n')],
    stop='<end_of_turn>',
  ),
  'plain': Template(
    opening=[_control(BOS)],
    arrange=_plain_turns,
    assistant='',
    header=lambda role: [],
    body=_text_body,
    end=lambda turn: [_control(EOS, True)] if turn.answers else [],
    stop=EOS,
  ),
}

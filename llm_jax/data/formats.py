"""Reads records of many formats as one of three forms: conversation, preference, labelled answer.

The columns of a record decide its format. In the tables below `a|b` stands for either column; a
column that is None counts as absent, and columns that no format knows are ignored. These formats
are read unchanged: Hugging Face TRL (huggingface.co/docs/trl/dataset_formats), Alpaca, Dolly,
ShareGPT with the variants of LLaMA-Factory, Self-Instruct, HH-RLHF (arXiv:2204.05862), rankings
like those of InstructGPT (arXiv:2203.02155), summary comparisons (arXiv:2009.01325), best of four
(arXiv:1909.08593) and LLMBar. Answers are lists of messages, nearly always of a single one.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm_jax.types import BadInput

Record = Mapping[str, Any]
Messages = list[dict[str, Any]]
Preference = tuple[Messages, list[Messages], float | None]
Labelled = tuple[Messages, Messages, bool]

# The names that published data have for the roles.
_ROLES = {
  'developer': 'system',
  'human': 'user',
  'prompter': 'user',
  'gpt': 'assistant',
  'model': 'assistant',
  'chatgpt': 'assistant',
  'function_call': 'assistant',
  'function': 'tool',
  'function_response': 'tool',
  'ipython': 'tool',
  'observation': 'tool',
}
PROMPT = 'prompt|instruction|question|query'
_ANSWER = 'completion|response|output|answer'
LABEL = 'label|kto_tag'
_SPEAKER = re.compile(r'\n\n(Human|Assistant):')
_TOOLS = 'You can call these tools:'


class BadRow(BadInput):
  """A record of a known format that no model should learn from; rows are counted by `reason`."""

  def __init__(self, reason: str):
    super().__init__(reason)
    self.reason = reason


def conversation(record: Record) -> Messages:
  """The messages of a record; those of a preference end with the best answer.

  >>> [m['role'] for m in conversation({'instruction': 'Say hi.', 'output': 'Hi!'})]
  ['user', 'assistant']

  Raises:
    BadInput: its columns fit no known format, or several, or hold something unexpected.
    BadRow: the format is known, but this record is broken.
  """
  if isinstance(get(record, LABEL), bool):
    raise BadInput(
      'a record with a label may be a bad example; remove the column, or use data preferences with '
      'kind unpaired'
    )
  if read := reader(record, CONVERSATIONS):
    return read(record)
  if read := reader(record, PREFERENCES):
    prompt, answers, _ = read(record)
    return prompt + answers[0]
  raise unknown(record, [*CONVERSATIONS, *PREFERENCES])


def preference(record: Record) -> Preference:
  """The prompt, the answers from best to worst, and by how much the first is better, or None.

  >>> _, answers, _ = preference({'prompt': 'Hi', 'answers': ['Eh?', 'Hello.'], 'ranks': [2, 1]})
  >>> [answer[0]['content'] for answer in answers]
  ['Hello.', 'Eh?']

  Raises:
    BadInput, BadRow: as `conversation`.
  """
  if read := reader(record, PREFERENCES):
    prompt, answers, margin = read(record)
    if len(answers) < 2:
      raise BadRow('nothing to compare')
    return prompt, answers, margin
  raise unknown(record, [*PREFERENCES])


def unpaired(record: Record) -> Labelled:
  """The prompt, one answer, and whether it is a good one.

  Raises:
    BadInput, BadRow: as `conversation`.
  """
  if read := reader(record, LABELLED):
    return read(record)
  raise unknown(record, [*LABELLED])


def labelled(record: Record) -> list[Labelled]:
  """As `unpaired`; a preference gives its best answer as a good one and its worst as a bad one."""
  if reader(record, LABELLED):
    return [unpaired(record)]
  if reader(record, PREFERENCES):
    prompt, answers, _ = preference(record)
    if answers[0] == answers[-1]:
      raise BadRow('identical answers')
    return [(prompt, answers[0], True), (prompt, answers[-1], False)]
  raise unknown(record, [*LABELLED, *PREFERENCES])


def reader(record: Record, formats: Mapping[str, Callable]) -> Callable | None:
  """The reader of the format with the most columns among those that the record has."""
  there = {name for name, value in record.items() if value is not None}
  columns_of = {format: set(format.split(' + ')) for format in formats}
  fitting = [
    format
    for format, columns in columns_of.items()
    if all(there & set(column.split('|')) for column in columns)
  ]
  most = [f for f in fitting if not any(columns_of[f] < columns_of[g] for g in fitting)]
  if len(most) > 1:
    raise BadInput(
      f'columns {_columns(record)} could be {" or ".join(most)}; remove those that do not count'
    )
  for column in columns_of[most[0]] if most else ():
    if len(both := sorted(there & set(column.split('|')))) > 1:
      raise BadInput(f'columns {" and ".join(both)} say the same; remove those that do not count')
  return formats[most[0]] if most else None


def unknown(record: Record, formats: list[str]) -> BadInput:
  """The error for a record whose columns fit none of `formats`."""
  return BadInput(
    f'columns {_columns(record)} are of no known format; choose from: {"; ".join(formats)}'
  )


def _columns(record: Record) -> str:
  return ', '.join(name for name, value in record.items() if value is not None) or '(none)'


def get(record: Record, column: str) -> Any:
  """The value of the one column of `a|b` that is there, or None."""
  found = [record[name] for name in column.split('|') if record.get(name) is not None]
  return found[0] if found else None


# --- what columns hold -------------------------------------------------------------------------


def _messages(value: Any) -> Messages:
  """Messages of {role, content} or {from, value}, as one list of the former."""
  if isinstance(value, Mapping):
    value = [value]
  if not isinstance(value, Sequence) or isinstance(value, str):
    raise BadInput(f'{str(value)[:60]!r} is no list of messages')
  return [_message(message) for message in value]


def _message(message: Any) -> dict[str, Any]:
  role = get(message, 'role|from') if isinstance(message, Mapping) else None
  if role is None:
    raise BadInput(
      f"{str(message)[:60]!r} is no message; write {{'role': ..., 'content': ...}} or "
      "{'from': ..., 'value': ...}"
    )
  kept = {name: value for name, value in message.items() if value is not None}
  kept.pop('from', None)
  content = kept.pop('value', kept.get('content'))
  if role == 'function_call':
    return {'role': 'assistant', 'content': None, 'tool_calls': _calls(content)}
  return {**kept, 'role': _ROLES.get(role, role), 'content': content}


def _calls(text: Any) -> list[dict[str, Any]]:
  try:
    calls = json.loads(text)
    calls = calls if isinstance(calls, list) else [calls]
    return [
      {'type': 'function', 'function': {'name': call['name'], 'arguments': call['arguments']}}
      for call in calls
    ]
  except (TypeError, KeyError, ValueError):
    raise BadRow('broken tool call') from None


def _said(value: Any, role: str) -> Messages:
  """Turns a string into a message of `role`, and leaves messages as they are."""
  return [{'role': role, 'content': value}] if isinstance(value, str) else _messages(value)


def _answer(value: Any) -> Messages:
  if isinstance(value, list) and value and isinstance(value[0], str):
    raise BadInput('a list of answers where there should be one; this is data for preferences')
  return _said(value, 'assistant')


def prompt_of(record: Record, column: str = PROMPT) -> Messages:
  """The prompt of a record: its text, after the history and system prompt of other columns."""
  value = get(record, column)
  if isinstance(value, str) and value.startswith('\n\nHuman:'):
    messages = _transcript(value.removesuffix('\n\nAssistant:'))
  elif isinstance(value, str):
    more = get(record, 'input|context') or ''
    messages = _said(f'{value}\n\n{more}' if more else value, 'user')
  else:
    messages = _said(value, 'user')
  before = []
  for question, answer in record.get('history') or []:
    before += _said(question, 'user') + _said(answer, 'assistant')
  return _led(record, before + messages)


def _led(record: Record, messages: Messages) -> Messages:
  """`messages` with the record's system prompt and tools before them, as one system message."""
  system = get(record, 'system|system_prompt') or ''
  tools = record.get('tools') or []
  if isinstance(tools, str):
    try:
      tools = json.loads(tools)
    except ValueError:
      raise BadRow('broken list of tools') from None
  if not system and not tools:
    return messages
  texts = [system]
  if messages and messages[0]['role'] == 'system':
    texts.append(text_of(messages[0]))
    messages = messages[1:]
  if tools:
    texts.append('\n'.join([_TOOLS, *(json.dumps(tool, ensure_ascii=False) for tool in tools)]))
  return _said('\n\n'.join(filter(None, texts)), 'system') + messages


def text_of(message: Record) -> str:
  """What a message says, without the thoughts and calls of an assistant.

  >>> text_of({'content': [{'type': 'thinking', 'text': '6 * 7'}, {'type': 'text', 'text': '42'}]})
  '42'
  """
  content = message.get('content') or ''
  if isinstance(content, str):
    return content
  return ''.join(part['text'] for part in content if part.get('type', 'text') == 'text')


def _transcript(text: str) -> Messages:
  """A dialogue of HH-RLHF, in which `Human:` or `Assistant:` stands before each message."""
  before, *parts = _SPEAKER.split(text)
  if before or not parts:
    raise BadInput(
      f'{text[:60]!r}: chosen and rejected without a prompt are dialogues that begin with '
      "'\\n\\nHuman: ', or lists of messages"
    )
  return [
    {'role': 'user' if speaker == 'Human' else 'assistant', 'content': said.strip()}
    for speaker, said in zip(parts[::2], parts[1::2], strict=True)
  ]


def _margin(record: Record) -> float | None:
  margin = record.get('margin')
  if margin is None:
    return None
  if not isinstance(margin, (int, float)):
    raise BadInput(f'margin {margin!r} is not a number')
  if not math.isfinite(margin):
    raise BadRow('margin is not finite')
  return float(margin)


def _label(record: Record) -> bool:
  label = get(record, LABEL)
  if label not in (True, False):  # 1 and 0 as well
    raise BadInput(f'label {label!r} is neither true nor false')
  return bool(label)


# --- formats -----------------------------------------------------------------------------------


def messages_of(record: Record) -> Messages:
  """The messages of a record, after the system prompt and tools of its other columns."""
  return _led(record, _messages(get(record, 'messages|conversations')))


def _of_prompt(record: Record) -> Messages:
  return prompt_of(record) + _answer(get(record, _ANSWER))


def _of_instances(record: Record) -> Messages:
  """Self-Instruct: a task with examples, of which the first is taken."""
  first = record['instances'][0]
  return prompt_of({**record, 'input': first['input']}) + _answer(first['output'])


def _pair(record: Record) -> Preference:
  """chosen and rejected, after a prompt."""
  whole = record.get('conversations') is not None
  prompt = messages_of(record) if whole else prompt_of(record)
  answers = [_answer(record[name]) for name in ('chosen', 'rejected')]
  if all(len(answer) > len(prompt) and answer[: len(prompt)] == prompt for answer in answers):
    answers = [answer[len(prompt) :] for answer in answers]
  return prompt, [_checked(answer) for answer in answers], _margin(record)


def _whole_pair(record: Record) -> Preference:
  """chosen and rejected are conversations; the prompt is how both begin."""
  both = [record['chosen'], record['rejected']]
  both = [_transcript(v) if isinstance(v, str) else _messages(v) for v in both]
  if not all(both):
    raise BadRow('no answer')
  pairs = zip(both[0][:-1], both[1][:-1], strict=False)
  shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
  prompt = _led(record, both[0][:shared])
  return prompt, [_checked(whole[shared:]) for whole in both], _margin(record)


def _checked(answer: Messages) -> Messages:
  """The answer, if only the assistant speaks in it; otherwise the two prompts were different."""
  if not answer or answer[0]['role'] != 'assistant' or answer[-1]['role'] != 'assistant':
    raise BadRow('prompts differ')
  if any(message['role'] in ('user', 'system') for message in answer):
    raise BadRow('prompts differ')
  return answer


def _ranking(record: Record) -> Preference:
  answers = get(record, 'answers|responses|completions')
  ranks = get(record, 'ranks|ranking')
  order = ranks if ranks is not None else [-score for score in record['scores']]
  if len(order) != len(answers):
    raise BadRow('not one rank for each answer')
  if not all(math.isfinite(place) for place in order):
    raise BadRow('score is not finite')
  if len(set(order)) < len(order):
    raise BadRow('tie')
  sorted_answers = [_answer(answers[i]) for i in sorted(range(len(order)), key=order.__getitem__)]
  return prompt_of(record), sorted_answers, _margin(record)


def _sorted_outputs(record: Record) -> Preference:
  if isinstance(record['output'], str):
    raise BadInput('output is one answer; a preference has a list of them, best first')
  return prompt_of(record), [_answer(output) for output in record['output']], None


def _summaries(record: Record) -> Preference:
  """A post of Reddit or an article, two summaries and the number of the better one."""
  info = record['info']
  if text := info.get('post'):
    parts = [f'SUBREDDIT: r/{info.get("subreddit")}', f'TITLE: {info.get("title")}']
    prompt = '\n\n'.join([*parts, f'POST: {text}', 'TL;DR:'])
  else:
    prompt = f'Article:\n{info["article"]}\n\nTL;DR:'
  return _best(prompt, [summary['text'] for summary in record['summaries']], record['choice'])


def _best_of(record: Record) -> Preference:
  names = sorted(name for name in record if re.fullmatch(r'sample\d+', name))
  return _best(record['query'], [record[name] for name in names], record['best'])


def _llmbar(record: Record) -> Preference:
  return _best(record['input'], [record['output_1'], record['output_2']], record['label'] - 1)


def _best(prompt: str, answers: list[str], best: int) -> Preference:
  """The best answer first, and the others in the order of the record, which says nothing else."""
  others = [answer for i, answer in enumerate(answers) if i != best]
  if len(others) == len(answers):
    raise BadRow('no answer is the best')
  ranked = [answers[best], *others]
  return _said(prompt, 'user'), [_said(answer, 'assistant') for answer in ranked], None


def _of_label(record: Record) -> Labelled:
  return prompt_of(record), _checked(_answer(get(record, _ANSWER))), _label(record)


def _messages_of_label(record: Record) -> Labelled:
  messages = messages_of(record)
  if not messages or messages[-1]['role'] != 'assistant':
    raise BadRow('no answer')
  return messages[:-1], messages[-1:], _label(record)


CONVERSATIONS: dict[str, Callable[[Record], Messages]] = {
  'messages': messages_of,
  'conversations': messages_of,
  f'{PROMPT} + {_ANSWER}': _of_prompt,
  'instruction + instances': _of_instances,
}
PREFERENCES: dict[str, Callable[[Record], Preference]] = {
  f'{PROMPT} + chosen + rejected': _pair,
  'conversations + chosen + rejected': _pair,
  'chosen + rejected': _whole_pair,
  f'{PROMPT} + answers|responses|completions + ranks|ranking|scores': _ranking,
  f'{PROMPT} + output': _sorted_outputs,
  'info + summaries + choice': _summaries,
  'query + sample0 + sample1 + best': _best_of,
  'input + output_1 + output_2 + label': _llmbar,
}
LABELLED: dict[str, Callable[[Record], Labelled]] = {
  f'{PROMPT} + {_ANSWER} + {LABEL}': _of_label,
  f'messages + {LABEL}': _messages_of_label,
  f'conversations + {LABEL}': _messages_of_label,
}

"""Reads records of many formats as one of three forms: conversation, preference, labelled answer.

The columns of a record decide its format. In the tables below `a|b` stands for either column; a
column that is None counts as absent, and columns that no format knows are ignored. What each format
means is in docs/data_formats.md. Answers are lists of messages, nearly always of a single one.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from llm_jax.data import comparisons
from llm_jax.data.comparisons import CHOSEN, PROMPT, REJECTED, Preference, prompt_of
from llm_jax.data.messages import (
  BadRow,
  Messages,
  Record,
  answer,
  calling,
  complete,
  dialogue,
  get,
  glaive,
  is_null,
  led,
  parsed,
  refuse_media,
)
from llm_jax.text import chat
from llm_jax.types import BadInput

Labelled = tuple[Messages, Messages, bool]

MESSAGES = 'messages|conversations|conversation'
_ANSWER = 'completion|response|output|answer|generation'
LABEL = 'label|kto_tag'
_WEIGHTS = ('weight', 'sample_weight', 'loss_weight', 'loss_mask', 'train_mask', 'train')
# Columns that are read whatever the format.
BESIDE = (
  *('system', 'system_prompt', 'tools', 'functions', 'input', 'context', 'history'),
  *('margin', 'status', *itertools.chain(*comparisons.SCORES), *_WEIGHTS),
)


def conversation(record: Record) -> Messages:
  """The messages of a record; those of a preference end with the best answer.

  >>> [m['role'] for m in conversation({'instruction': 'Say hi.', 'output': 'Hi!'})]
  ['user', 'assistant']

  Raises:
    BadInput: its columns fit no known format, or several, or hold something unexpected.
    BadRow: the format is known, but this record is broken.
  """
  check(record)
  label = get(record, LABEL)
  if isinstance(label, (bool, int, float, str)) and reader(record, LABELLED):
    raise BadInput(
      f'a record with a label (here {label!r}) may be a bad example; keep the good ones without '
      'that column, or use data preferences with kind unpaired'
    )
  if read := reader(record, CONVERSATIONS):
    return complete(read(record))
  if reader(record, PREFERENCES):
    prompt, answers, _ = preference(record, least=1)
    return prompt + answers[0]
  raise unknown(record, [*CONVERSATIONS, *PREFERENCES])


def preference(record: Record, *, least: int = 2) -> Preference:
  """The prompt, the answers from best to worst, and by how much the first is better, or None.

  >>> _, answers, _ = preference({'prompt': 'Hi', 'answers': ['Eh?', 'Hello.'], 'ranks': [2, 1]})
  >>> [answer[0]['content'] for answer in answers]
  ['Hello.', 'Eh?']

  Raises:
    BadInput, BadRow: as `conversation`; BadRow also if there are fewer than `least` answers.
  """
  check(record)
  if read := reader(record, PREFERENCES):
    prompt, answers, margin = read(record)
    if len(answers) < least:
      raise BadRow('nothing to compare')
    return complete(prompt), [_checked(one) for one in answers], margin
  raise unknown(record, [*PREFERENCES])


def unpaired(record: Record) -> Labelled:
  """The prompt, one answer, and whether it is a good one.

  Raises:
    BadInput, BadRow: as `conversation`.
  """
  check(record)
  if read := reader(record, LABELLED):
    prompt, said, label = read(record)
    return complete(prompt), _checked(said), label
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
  """The reader of the format that asks for the most columns among those that the record has.

  Where several do, all of them have to read the same.
  """
  there = frozenset(name for name, value in record.items() if not is_null(value))
  most = _fitting(there, (*formats, *_REFUSED))
  readers = [formats.get(format) or _REFUSED[format] for format in most]
  if len(most) < 2:
    return readers[0] if most else None

  def agreed(record: Record) -> Any:
    found = [read(record) for read in readers]
    if any(one != found[0] for one in found):
      raise BadInput(
        f'columns {columns_of(record)} could be {" or ".join(most)}; remove those that do not count'
      )
    return found[0]

  return agreed


@functools.lru_cache(maxsize=256)
def _fitting(there: frozenset[str], formats: tuple[str, ...]) -> list[str]:
  """The formats whose columns are there, without those that another one of them includes."""
  sets_of = {f: [set(column.split('|')) for column in f.split(' + ')] for f in formats}
  fitting = [f for f, columns in sets_of.items() if all(there & names for names in columns)]
  asks_all = lambda f, g: all(any(own <= names for own in sets_of[f]) for names in sets_of[g])
  most = [f for f in fitting if not any(asks_all(g, f) and not asks_all(f, g) for g in fitting)]
  for names in sets_of[most[0]] if most else ():
    if len(both := sorted(there & names)) > 1:
      raise BadInput(f'columns {" and ".join(both)} say the same; remove those that do not count')
  return most


def unknown(record: Record, formats: list[str]) -> BadInput:
  """The error for a record that fits none of `formats`: BadRow if one would but for a null."""
  for format in sorted(formats, key=lambda format: -format.count(' + ')):
    columns = [[name for name in c.split('|') if name in record] for c in format.split(' + ')]
    if all(columns):
      null = [names[0] for names in columns if all(is_null(record[name]) for name in names)]
      if null:
        return BadRow(f'{null[0]} is null')
  there = f'columns {columns_of(record)} are of no known format'
  if advice := next((_ADVICE[name] for name in _ADVICE if record.get(name) is not None), None):
    return BadInput(f'{there}: {advice}')
  near = [f for f in formats if any(get(record, column) is not None for column in f.split(' + '))]
  return BadInput(f'{there}; choose from: {"; ".join(near or formats)}')


def columns_of(record: Record) -> str:
  """The names of the columns that are not null, for errors."""
  names = [name for name, value in record.items() if not is_null(value)]
  return ', '.join(names[:30] + ['...'] * (len(names) > 30)) or '(none)'


def check(record: Record) -> None:
  """Refuses what would be lost: pictures, sounds, and how much a record weighs.

  Raises:
    BadRow: its weight is 0.
  """
  refuse_media(record)
  for name in _WEIGHTS:
    if (weight := get(record, name)) is not None:
      if chat.truth(weight) is None:
        raise BadInput(f'{name} of the record is {weight!r}; use 1 or 0, or remove the column')
      if not chat.truth(weight):
        raise BadRow(f'{name} is {weight}')


def _checked(said: Messages) -> Messages:
  """The answer, if only the assistant speaks in it; otherwise the two prompts were different."""
  if not said or said[0]['role'] != 'assistant' or said[-1]['role'] != 'assistant':
    raise BadRow('prompts differ')
  if any(message['role'] in ('user', 'system') for message in said):
    raise BadRow('prompts differ')
  if not chat.is_trained(said[-1]):
    raise BadRow('answer that is not trained')
  return complete(said)


# --- formats -----------------------------------------------------------------------------------


def messages_of(record: Record) -> Messages:
  """The messages of a record, after the system prompt and tools of its other columns."""
  return led(record, dialogue(get(record, f'{MESSAGES}|data')))


def _of_prompt(record: Record) -> Messages:
  return prompt_of(record) + answer(get(record, _ANSWER))


def _of_columns(prompt: str, said: str) -> Callable[[Record], Messages]:
  return lambda record: prompt_of(record, prompt) + answer(get(record, said))


def _of_thoughts(prompt: str, thoughts: str, said: str) -> Callable[[Record], Messages]:
  """A reasoning and an answer in columns of their own; where there are several, the first ones."""

  def read(record: Record) -> Messages:
    thinking = parsed(record[thoughts])
    thinking = thinking[0] if isinstance(thinking, list) else thinking
    return [
      *prompt_of(record, prompt),
      {'role': 'assistant', 'content': record[said], 'thinking': thinking},
    ]

  return read


def _of_instances(record: Record) -> Messages:
  """Self-Instruct: a task with examples, of which the first is taken."""
  first = parsed(record['instances'])[0]
  return prompt_of({**record, 'input': first['input']}) + answer(first['output'])


def _of_continued_pair(record: Record) -> Messages:
  prompt, answers, _ = comparisons.continued_pair(record)
  return prompt + answers[0]


def _of_calls(record: Record) -> Messages:
  """xLAM (arXiv:2406.18518): a query, and the calls that answer it."""
  return prompt_of(record) + calling(record['answers'])


def _of_glaive(record: Record) -> Messages:
  """Glaive's function calling, version 2; the system prompt lists the functions."""
  system = record['system'].removeprefix('SYSTEM:').strip()
  return led({'system': system}, glaive(record['chat']))


def _of_label(record: Record) -> Labelled:
  return prompt_of(record), answer(get(record, _ANSWER)), _label(record)


def _messages_of_label(record: Record) -> Labelled:
  found = messages_of(record)
  if not found or found[-1]['role'] != 'assistant':
    raise BadRow('no answer')
  return found[:-1], found[-1:], _label(record)


def _label(record: Record) -> bool:
  label = get(record, LABEL)
  flag = chat.truth(label)
  if flag is None:
    raise BadInput(f'label {label!r} is neither true nor false')
  return flag


def _refuse(why: str) -> Callable[[Record], NoReturn]:
  def read(record: Record) -> NoReturn:
    raise BadInput(f'columns {columns_of(record)}: {why}')

  return read


CONVERSATIONS: dict[str, Callable[[Record], Messages]] = {
  MESSAGES: messages_of,
  f'{PROMPT} + {_ANSWER}': _of_prompt,
  'data': messages_of,
  'instruction + instances': _of_instances,
  f'conversations + {CHOSEN} + {REJECTED}': _of_continued_pair,
  f'{PROMPT} + input + {_ANSWER}': _of_prompt,
  f'input + {_ANSWER}': _of_columns('input', _ANSWER),
  'inputs + targets': _of_columns('inputs', 'targets'),
  'problem + solution': _of_columns('problem', 'solution'),
  f'{MESSAGES} + problem + solution': messages_of,
  'problem + generated_solution': _of_columns('problem', 'generated_solution'),
  'problem + deepseek_reasoning + deepseek_solution': _of_thoughts(
    'problem', 'deepseek_reasoning', 'deepseek_solution'
  ),
  'question + thinking_trajectories + attempt': _of_thoughts(
    'question', 'thinking_trajectories', 'attempt'
  ),
  'query + answers + tools': _of_calls,
  'system + chat': _of_glaive,
}
PREFERENCES: dict[str, Callable[[Record], Preference]] = {
  f'{PROMPT} + {CHOSEN} + {REJECTED}': comparisons.pair,
  f'{PROMPT} + input + {CHOSEN} + {REJECTED}': comparisons.pair,
  f'input + {CHOSEN} + {REJECTED}': comparisons.input_pair,
  f'conversations + {CHOSEN} + {REJECTED}': comparisons.continued_pair,
  f'{CHOSEN} + {REJECTED}': comparisons.whole_pair,
  'messages + rejected_response': comparisons.last_rejected,
  'input + preferred_output + non_preferred_output': comparisons.preferred_output,
  f'{PROMPT} + answers|responses|completions + ranks|ranking|scores': comparisons.ranking,
  f'{PROMPT} + generations + ratings|scores': comparisons.ranking,
  f'{PROMPT} + answers + num_responses': comparisons.nectar,
  f'{PROMPT} + completions + models': comparisons.rated,
  f'{PROMPT} + output': comparisons.sorted_outputs,
  'info + summaries + choice': comparisons.summaries,
  'query + sample0 + sample1 + best': comparisons.best_of,
  'input + output_1 + output_2 + label': comparisons.llmbar,
  f'{PROMPT} + response_0 + response_1 + better_response_id': comparisons.pku,
  'history + human_ref_A + human_ref_B + labels': comparisons.shp,
  f'{PROMPT} + response_1 + response_2 + preference_strength': comparisons.helpsteer2,
  'context + response1 + response2 + overall_preference': comparisons.helpsteer3,
  'conversation_a + conversation_b + winner': comparisons.arena,
}
LABELLED: dict[str, Callable[[Record], Labelled]] = {
  f'{PROMPT} + {_ANSWER} + {LABEL}': _of_label,
  f'{MESSAGES} + {LABEL}': _messages_of_label,
}
# These ask for more columns than a format that would read them wrongly.
_REFUSED: dict[str, Callable[[Record], NoReturn]] = {
  f'{PROMPT} + completions + labels': _refuse(
    'labels of single steps are not read; write completion and label, one record an answer'
  ),
  f'{PROMPT} + {_ANSWER} + helpfulness + correctness + coherence': _refuse(
    'a rated answer may be a bad example; keep the good ones without the ratings, or use the '
    'preferences of the set (response_1, response_2, preference_strength)'
  ),
  'message_tree_id + prompt': _refuse(
    'a whole tree of messages; use the flat file, with one message a line'
  ),
}
_ADVICE = {
  'text': 'a text is no conversation; use data packed, or write messages',
  'segments': 'segments are texts in a template already, which is not known here; write messages, '
  'with train: false on those that are not trained',
  'input_ids': 'they are the ids of another tokenizer; write texts or messages',
}

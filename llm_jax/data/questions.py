"""Records of many shapes into questions: what to ask, and the text that an answer is held against.

Columns are told apart as in `llm_jax.data.formats`. Read unchanged are the records of verl,
open-instruct, GSM8K (arXiv:2110.14168) and its relatives SVAMP (arXiv:2103.07191) and GSM-Hard
(arXiv:2211.10435), MATH (arXiv:2103.03874), AQuA (arXiv:1705.04146), the Countdown of TinyZero
(github.com/Jiayi-Pan/TinyZero), and all that `formats` knows.
"""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

from llm_jax.data import formats
from llm_jax.data.families import dialogue
from llm_jax.data.formats import BadRow, Messages, Record, get, reader, text_of
from llm_jax.types import BadInput

Question = tuple[Messages, str]

_ASKED = f'{formats.PROMPT}|problem'
_MESSAGES = 'messages|conversations'
_GOLD = 'answer|ground_truth|final_answer|gold|label'
_NUMBERS = 'nums|numbers'
_LAST_LINE = re.compile(r'^####(.*)\Z', re.MULTILINE)
_BOXED = re.compile(r'\\(?:boxed|fbox)\s*\{')


def question(record: Record) -> Question:
  """The prompt of a record and its gold answer, '' where there is none.

  A conversation is asked up to its last message of the user. What the assistant said then is gold,
  unless a column says what is. Preferences and labelled answers have no gold: the better of two may
  be wrong. Of a gold text counts the last line if it begins with ####, else what is in the last
  \\boxed{}, else all of it. That of Countdown is 'target; n1 n2 n3'.

  Raises:
    BadInput: its columns are of no known format, or of several, or hold something else.
    BadRow: the format is known, but this record is broken.
  """
  prompt, gold = _read(record)
  if not any(text_of(message).strip() for message in prompt):
    raise BadRow('empty prompt')
  return prompt, gold


def _read(record: Record) -> Question:
  if get(record, formats.LABEL) in (True, False) and reader(record, formats.LABELLED):
    return formats.unpaired(record)[0], ''
  if read := reader(record, _QUESTIONS):
    return read(record)
  ranked = isinstance(record.get('output'), list)
  if not ranked and reader(record, formats.CONVERSATIONS):
    prompt, answer = _last_turn(formats.conversation(record))
    return prompt, gold_of(text_of(answer[-1])) if answer else ''
  if read := reader(record, formats.PREFERENCES):
    return read(record)[0], ''
  if reader(record, {_ASKED: _prompt}):
    return _prompt(record), ''
  raise formats.unknown(record, [_ASKED, *_QUESTIONS, *formats.CONVERSATIONS, *formats.PREFERENCES])


# --- what columns hold -------------------------------------------------------------------------


def _prompt(record: Record) -> Messages:
  if get(record, _ASKED) is not None:
    return formats.prompt_of(record, _ASKED)
  return _last_turn(formats.messages_of(record))[0]


def _last_turn(messages: Messages) -> tuple[Messages, Messages]:
  """A conversation up to the last message of the user, and what came then."""
  asked = [i for i, message in enumerate(messages) if message['role'] == 'user']
  if not asked:
    raise BadRow('no question')
  return messages[: asked[-1] + 1], messages[asked[-1] + 1 :]


def gold_of(value: Any) -> str:
  """The gold answer in a column: a text or number, a list with one, or a task of Countdown."""
  if isinstance(value, list) and len(value) == 1:
    value = value[0]
  if isinstance(value, dict) and 'target' in value:
    return _target(value)
  if isinstance(value, bool) or not isinstance(value, (str, int, float)):
    raise BadInput(f'{str(value)[:60]!r} is no gold answer; write one text or number')
  if isinstance(value, float):
    if not math.isfinite(value):
      raise BadRow('gold is not finite')
    value = int(value) if value.is_integer() else value
  text = str(value).strip()
  if marked := _LAST_LINE.search(text):
    return marked[1].strip()
  return _boxed(text) or text


def _boxed(text: str) -> str:
  """What is inside of the last \\boxed{} of a text in LaTeX; braces nest."""
  start = max((match.end() for match in _BOXED.finditer(text)), default=len(text))
  steps = ({'{': 1, '}': -1}.get(character, 0) for character in text[start:])
  depths = itertools.takewhile(bool, itertools.accumulate(steps, initial=1))
  return text[start : start + len(list(depths)) - 1].strip()


def _target(record: Record) -> str:
  return f'{record["target"]}; {" ".join(map(str, get(record, _NUMBERS)))}'


# --- formats -----------------------------------------------------------------------------------


def _with_gold(record: Record) -> Question:
  """A prompt and a column with its answer, of which a solution is the longest form."""
  return _prompt(record), gold_of(get(record, f'{_GOLD}|target|solution'))


def _verl(record: Record) -> Question:
  return _prompt(record), gold_of(record['reward_model']['ground_truth'])


def _countdown(record: Record) -> Question:
  *others, last = map(str, get(record, _NUMBERS))
  text = (
    f'Write an expression that equals {record["target"]}. Use each of the numbers '
    f'{", ".join(others)} and {last} exactly once, with +, -, *, / and parentheses. '
    "End with 'The answer is ' and the expression."
  )
  return dialogue(text), _target(record)


def _asked_countdown(record: Record) -> Question:
  return _prompt(record), _target(record)


def _svamp(record: Record) -> Question:
  return dialogue(f'{record["Body"]} {record["Question"]}'), gold_of(record['Answer'])


def _gsm_hard(record: Record) -> Question:
  return dialogue(record['input']), gold_of(record['target'])


def _aqua(record: Record) -> Question:
  return dialogue('\n'.join([record['question'], *record['options']])), gold_of(record['correct'])


_QUESTIONS: dict[str, Callable[[Record], Question]] = {
  f'{_ASKED} + {_GOLD}': _with_gold,
  f'{_ASKED} + {_GOLD} + solution': _with_gold,
  f'{_ASKED} + solution': _with_gold,
  f'{_ASKED} + target': _with_gold,
  f'{_MESSAGES} + {_GOLD}': _with_gold,
  f'{_ASKED} + reward_model': _verl,
  f'{_ASKED} + {_NUMBERS} + target': _asked_countdown,
  f'{_ASKED} + {_NUMBERS} + target + reward_model': _verl,
  f'{_NUMBERS} + target': _countdown,
  'Body + Question + Answer': _svamp,
  'input + code + target': _gsm_hard,
  'question + options + correct': _aqua,
}

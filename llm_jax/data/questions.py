"""Reads records of many formats as questions: a prompt, and the gold answer to compare with.

Columns decide the format, as in `llm_jax.data.formats`. These are read unchanged: verl,
open-instruct, GSM8K (arXiv:2110.14168) and its relatives SVAMP (arXiv:2103.07191) and GSM-Hard
(arXiv:2211.10435), MATH (arXiv:2103.03874), AQuA (arXiv:1705.04146), the Countdown of TinyZero
(github.com/Jiayi-Pan/TinyZero), and every format that `formats` knows.
"""

import ast
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

from llm_jax.data import formats
from llm_jax.data.comparisons import CHOSEN
from llm_jax.data.families import dialogue
from llm_jax.data.formats import MESSAGES as _MESSAGES
from llm_jax.data.formats import BadRow, Messages, Record, get, reader
from llm_jax.data.messages import complete, is_null, text_of
from llm_jax.rewards.final_answer import stated
from llm_jax.rewards.thoughts import said
from llm_jax.text import chat
from llm_jax.types import BadInput

Question = tuple[Messages, str]

_PROMPT = f'{formats.PROMPT}|problem'
_GOLD = 'answer|ground_truth|final_answer|expected_answer|gold|label'
_NUMBERS = 'nums|numbers'
_LAST_LINE = re.compile(r'^####(.*)\Z', re.MULTILINE)
_LIST_OF_TEXTS = re.compile(r"\[\s*['\"]")
_BOXED = re.compile(r'\\(?:boxed|fbox)\s*\{')


def question(record: Record) -> Question:
  """The prompt of a record and its gold answer, which is '' if there is none.

  The prompt of a conversation ends with the last message of the user, and the assistant's reply is
  the gold answer unless a column holds one. Preferences and labelled answers have none, since the
  better of two may be wrong. Of a gold text the last line counts if it begins with ####, or else
  the content of the last \\boxed{}, or else what it ends in after 'The answer is', or else all of
  it, without thoughts. For Countdown it is 'target; n1 n2 n3'.

  >>> prompt, gold = question({'question': 'What is 6 * 7?', 'answer': '6 * 7 = 42\\n#### 42'})
  >>> gold
  '42'

  Raises:
    BadInput: its columns fit no known format, or several, or hold something unexpected.
    BadRow: the format is known, but this record is broken.
  """
  formats.check(record)
  prompt, gold = _read(record)
  prompt = complete(prompt)
  if not any(text_of(message).strip() for message in prompt):
    raise BadRow('empty prompt')
  return prompt, gold


def _read(record: Record) -> Question:
  if any(record.get(name) is not None and is_null(record[name]) for name in _GOLD.split('|')):
    raise BadRow('gold is not finite')
  label = get(record, formats.LABEL)
  if chat.truth(label) is not None and reader(record, formats.LABELLED):
    return formats.unpaired(record)[0], ''
  if isinstance(label, bool):  # and hence no gold answer
    raise formats.unknown(record, [*formats.LABELLED])
  if read := reader(record, QUESTIONS):
    return read(record)
  ranked = isinstance(record.get('output'), list) or get(record, CHOSEN) is not None
  if not ranked and reader(record, formats.CONVERSATIONS):
    prompt, answer = _last_turn(formats.conversation(record))
    return prompt, gold_of(text_of(answer[-1])) if answer else ''
  if reader(record, formats.PREFERENCES):
    return formats.preference(record, least=1)[0], ''
  if reader(record, {_PROMPT: _prompt}):
    return _prompt(record), ''
  raise formats.unknown(record, [_PROMPT, *QUESTIONS, *formats.CONVERSATIONS, *formats.PREFERENCES])


# --- what columns hold -------------------------------------------------------------------------


def _prompt(record: Record) -> Messages:
  if get(record, _PROMPT) is not None:
    return formats.prompt_of(record, _PROMPT)
  return _last_turn(formats.messages_of(record))[0]


def _last_turn(messages: Messages) -> tuple[Messages, Messages]:
  """A conversation up to the last message of the user, and the messages after it."""
  users = [i for i, message in enumerate(messages) if message['role'] == 'user']
  if not users:
    raise BadRow('no question')
  return messages[: users[-1] + 1], messages[users[-1] + 1 :]


def gold_of(value: Any) -> str:
  """The gold answer of a column: a text, a number, a list of one or its text, a Countdown task."""
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
  if _LIST_OF_TEXTS.match(text):
    try:
      return gold_of(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
      if isinstance(error, BadInput):
        raise
  text = said(text).answer.strip() or text
  if marked := _LAST_LINE.search(text):
    return marked[1].strip()
  return _boxed(text) or _stated_last(text) or text


def _stated_last(text: str) -> str | None:
  """The value after 'The answer is' where a solution ends with it, as those of MetaMathQA do."""
  found, bare = stated(text) or '', lambda text: text.rstrip(' .*$')
  return found if re.search(r'\d', found) and bare(text).endswith(bare(found)) else None


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
  """A prompt and a column with its answer, which may be a whole solution."""
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


def _prompted_countdown(record: Record) -> Question:
  return _prompt(record), _target(record)


def _svamp(record: Record) -> Question:
  return dialogue(f'{record["Body"]} {record["Question"]}'), gold_of(record['Answer'])


def _gsm_hard(record: Record) -> Question:
  return dialogue(record['input']), gold_of(record['target'])


def _aqua(record: Record) -> Question:
  return dialogue('\n'.join([record['question'], *record['options']])), gold_of(record['correct'])


QUESTIONS: dict[str, Callable[[Record], Question]] = {
  f'{_PROMPT} + {_GOLD}': _with_gold,
  f'{_PROMPT} + {_GOLD} + solution': _with_gold,
  f'{_PROMPT} + solution': _with_gold,
  f'{_PROMPT} + target': _with_gold,
  f'{_MESSAGES} + {_GOLD}': _with_gold,
  f'{_PROMPT} + reward_model': _verl,
  f'{_PROMPT} + {_NUMBERS} + target': _prompted_countdown,
  f'{_PROMPT} + {_NUMBERS} + target + reward_model': _verl,
  f'{_NUMBERS} + target': _countdown,
  'Body + Question + Answer': _svamp,
  'input + code + target': _gsm_hard,
  'question + options + correct': _aqua,
}

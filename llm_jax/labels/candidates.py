"""Answers to one prompt that people compare, called after their content.

A line of a file of candidates:

  {"prompt": [{"role": "user", "content": "..."}], "responses": [{"id": "r0", "text": "...",
   "artifact": "runs/tiny/sft", "temperature": 1.0, "seed": 7, "reward": -0.4}, ...],
   "why": "close", "gold": null}

The prompt may be a text, and so may each answer. What else an answer says of itself is kept, and
not shown before it is graded. The lines of job `sample` (`candidates`, `scores`) are read too.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm_jax.types import BadInput

FEWEST, MOST = 2, 8  # answers of an item
ROLES = ('system', 'user', 'assistant', 'tool')


class Answer(NamedTuple):
  """An answer.

  Attributes:
    id: inside of its item, such as 'r0'.
    text: as it was said.
    about: what else is known of it: artifact, temperature, seed, logp, reward.
  """

  id: str
  text: str
  about: Mapping[str, Any]


class Item(NamedTuple):
  """Answers to one prompt.

  Attributes:
    id: sha256 of prompt and texts, so the same content is the same item.
    prompt: messages, of which the last one is not the assistant's.
    answers: 2 to 8, which differ.
    why: it was chosen, such as 'close' or 'random'.
    gold: the id of the answer that has to win, since all others are broken on purpose; '' for none.
  """

  id: str
  prompt: list[dict[str, str]]
  answers: tuple[Answer, ...]
  why: str = ''
  gold: str = ''

  def answer(self, name: str) -> Answer:
    """The answer with this id."""
    return next(answer for answer in self.answers if answer.id == name)

  def record(self) -> dict[str, Any]:
    """The line of a file that `item` reads as this."""
    found = [{'id': a.id, 'text': a.text, **a.about} for a in self.answers]
    return {
      'id': self.id,
      'prompt': self.prompt,
      'responses': found,
      'why': self.why,
      'gold': self.gold or None,
    }


def identity(prompt: Sequence[Mapping[str, str]], texts: Iterable[str]) -> str:
  """sha256 of what is shown, in hexadecimal.

  >>> identity([{'role': 'user', 'content': 'Hi'}], ['a', 'b'])[:12]
  '4aa9840b861d'
  """
  shown = json.dumps([[[m['role'], m['content']] for m in prompt], [*texts]])
  return hashlib.sha256(shown.encode()).hexdigest()


def joined(text: str) -> str:
  r"""The text with every run of blanks as one, for asking whether two texts say the same.

  >>> joined(' a\n\n b ')
  'a b'
  """
  return ' '.join(text.split())


def item(record: Mapping[str, Any]) -> Item:
  """An item from the line of a file; answers that repeat an earlier one are left out.

  Raises:
    BadInput: naming the column.
  """
  if not isinstance(record, Mapping):
    raise BadInput(f'{type(record).__name__} in the place of an object')
  prompt = _prompt(record.get('prompt'))
  answers: dict[str, Answer] = {}
  for number, given in enumerate(_responses(record)):
    answer = _answer(given, number)
    if any(answer.id == other.id for other in answers.values()):
      raise BadInput(f'two responses have the id {answer.id!r}')
    answers.setdefault(joined(answer.text), answer)
  found = tuple(answers.values())
  if not FEWEST <= len(found) <= MOST:
    raise BadInput(f'{len(found)} responses that differ; give {FEWEST} to {MOST}')
  gold = record.get('gold') or ''
  if gold and gold not in [answer.id for answer in found]:
    raise BadInput(f'gold {gold!r} is the id of no response')
  made = identity(prompt, (answer.text for answer in found))
  return Item(made, prompt, found, _whole(str(record.get('why') or '')), gold)


def items(lines: Iterable[tuple[str, Any]]) -> tuple[list[Item], Counter[str]]:
  """Items of (place, record), each once, and how many were left out for which reason.

  Raises:
    BadInput: a record is wrong, or none is left; the message begins with the place.
  """
  found: dict[str, Item] = {}
  left: Counter[str] = Counter()
  for where, record in lines:
    if _says_the_same(record):
      left['identical answers'] += 1
      continue
    try:
      made = item(record)
    except BadInput as error:
      raise BadInput(f'{where}: {error}') from None
    left['repeated'] += made.id in found
    found.setdefault(made.id, made)
  if not found:
    raise BadInput(f'label: no candidates are left ({dict(left)}); give records that differ')
  return [*found.values()], +left


def read(path: Path) -> tuple[list[Item], Counter[str]]:
  """`items` of a file of JSON lines.

  Raises:
    BadInput: naming file and line.
  """

  def lines() -> Iterable[tuple[str, Any]]:
    with path.open('rb') as file:
      for number, line in enumerate(file, 1):
        if line.strip():
          try:
            yield f'{path}, line {number}', json.loads(line)
          except (ValueError, RecursionError) as error:
            raise BadInput(f'{path}, line {number}: no JSON ({error}); mend it') from None

  if not path.is_file():
    raise BadInput(f'candidates: there is no file {str(path)!r}')
  return items(lines())


def _says_the_same(record: Any) -> bool:
  """Whether all answers of a record are one, of which there is nothing to ask."""
  if not isinstance(record, Mapping):
    return False
  given = record.get('responses', record.get('candidates'))
  if not isinstance(given, list) or len(given) < FEWEST:
    return False
  texts = [one.get('text') if isinstance(one, Mapping) else one for one in given]
  known = [text for text in texts if isinstance(text, str)]
  return len(known) == len(texts) and len({*map(joined, known)}) == 1


def _responses(record: Mapping[str, Any]) -> list[Any]:
  given = record.get('responses')
  if given is None and isinstance(record.get('candidates'), list):  # of job sample
    scores = record.get('scores') or [None] * len(record['candidates'])
    both = zip(record['candidates'], scores, strict=False)
    given = [{'text': text, 'reward': score} for text, score in both]
  if not isinstance(given, list):
    raise BadInput("'responses' is missing; give a list of answers")
  return given


def _answer(given: Any, number: int) -> Answer:
  found = {'text': given} if isinstance(given, str) else given
  if not isinstance(found, Mapping) or not isinstance(found.get('text'), str):
    raise BadInput(f"response {number} has no 'text'; give a text, or an object with one")
  name = found.get('id', f'r{number}')
  if not isinstance(name, str) or not 0 < len(name) <= 40:
    raise BadInput(f'response {number}: id {name!r}; give 1 to 40 characters')
  about = {key: _finite(value) for key, value in found.items() if key not in ('id', 'text')}
  return Answer(_whole(name), _whole(found['text']), about)


def _prompt(given: Any) -> list[dict[str, str]]:
  if isinstance(given, str) and given.strip():
    return [{'role': 'user', 'content': _whole(given)}]
  if not isinstance(given, list) or not given:
    raise BadInput("'prompt' is missing; give a text or a list of messages")
  for message in given:
    whole = isinstance(message, Mapping) and isinstance(message.get('content'), str)
    if not whole or message.get('role') not in ROLES:
      raise BadInput(
        f'prompt: {str(message)[:80]!r}; a message has a role ({", ".join(ROLES)}) and a text as '
        'content'
      )
  if given[-1]['role'] == 'assistant':
    raise BadInput('prompt: the last message is of the assistant; end with what it answers')
  return [{'role': message['role'], 'content': _whole(message['content'])} for message in given]


def _finite(value: Any) -> Any:
  """A value of JSON with None for each number that JSON does not have, such as NaN."""
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, Mapping):
    return {key: _finite(one) for key, one in value.items()}
  return [_finite(one) for one in value] if isinstance(value, list) else value


def _whole(text: str) -> str:
  """The text without halves of characters, which no file can hold."""
  return text.encode('utf-8', 'replace').decode()

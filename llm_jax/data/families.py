"""Five families of small conversations that were written for this package, behind one function.

A family is a file of this folder that defines three functions of a split:
  conversations(split)  {'messages': [...]}, to be imitated
  preferences(split)    {'prompt': [...], 'chosen': [...], 'rejected': [...], 'margin': 0.0 to 3.0}
  questions(split)      {'prompt': [...], 'answer': str, 'family': name}, to be evaluated
Messages are {'role': 'user' or 'assistant', 'content': str}, as in chat interfaces. Where
the model has tools, a system message lists them; an answer that calls one is a list of parts.
Margins are the four strengths of a preference that people could choose from for Llama 2
(arXiv:2307.09288, 3.1).

Records depend on nothing but the Python installation. No prompt of one split is in another.
"""

import importlib
import random
from collections.abc import Sequence

from llm_jax.options import suggest
from llm_jax.text import calls
from llm_jax.types import BadInput

SPLITS = ('train', 'validation', 'test')
FAMILIES = ('word_problems', 'python_questions', 'instructions', 'spelling', 'small_talk')
KINDS = ('conversations', 'preferences', 'questions')

TOOLS = ('search', 'calculator', 'spell')  # that conversations may list
NEGLIGIBLY, SLIGHTLY, BETTER, SIGNIFICANTLY = 0.0, 1.0, 2.0, 3.0  # by how much chosen is better


def records(kind: str, split: str, family: str | None = None) -> list[dict]:
  """The records of one family, or of all, in a mixed order that never changes.

  Args:
    kind: one of KINDS.
    split: one of SPLITS.
    family: one of FAMILIES; None for all.

  Raises:
    BadInput: a name is not one of these.
  """
  _check('kind', kind, KINDS)
  _check('split', split, SPLITS)
  if family is not None:
    _check('family', family, FAMILIES)
  found = []
  for name in (family,) if family else FAMILIES:
    module = importlib.import_module(f'llm_jax.data.{name}')  # these import the helpers below
    found += getattr(module, kind)(split)
  random.Random(f'{kind} {split}').shuffle(found)
  return found


def dialogue(*texts: str) -> list[dict]:
  """Messages of the user and the assistant in turn, the user first.

  >>> [message['role'] for message in dialogue('Hi', 'Hello.', 'Bye')]
  ['user', 'assistant', 'user']
  """
  return [
    {'role': 'assistant' if i % 2 else 'user', 'content': text} for i, text in enumerate(texts)
  ]


def call(name: str, text: str, result: str) -> list[dict]:
  """The parts of an answer that are a call of a tool and what the tool says.

  >>> [part['text'] for part in call('calculator', '2 * 3', '6')]
  ['calculator(2 * 3)', '6']
  """
  return [
    {'type': 'search', 'text': calls.written(name, text)},
    {'type': 'result', 'text': result},
  ]


def calling(question: str, parts: list[dict], name: str, rng: random.Random) -> list[dict]:
  """A question and an answer in parts that calls a tool; other tools may be listed beside it."""
  listed = TOOLS if rng.random() < 0.5 else (name,)
  return calls.led([*dialogue(question), {'role': 'assistant', 'content': parts}], listed)


def idle(
  talk: list[dict], rng: random.Random, share: float = 0.2, names: Sequence[str] = TOOLS
) -> list[dict]:
  """A conversation that calls nothing; a share lists tools, for who has them need not call them."""
  return calls.led(talk, names if rng.random() < share else ())


def preference(prompt: list[dict], chosen: str, rejected: str, margin: float) -> dict:
  """A record with two answers, each as messages."""
  say = lambda text: [{'role': 'assistant', 'content': text}]
  return {'prompt': prompt, 'chosen': say(chosen), 'rejected': say(rejected), 'margin': margin}


def _check(what: str, given: str, known: tuple[str, ...]) -> None:
  if given not in known:
    raise BadInput(f'families: no {what} {given!r}; {suggest(given, list(known))}')

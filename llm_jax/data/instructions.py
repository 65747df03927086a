"""Instructions about a passage of Python's documentation: classify, summarise, extract, rewrite.

Every answer follows from the passage alone, so it can be checked. The passages come from the corpus
`builtin`: those of train from its train split, and those of validation and test from two halves of
its validation split, which pretraining has not read.
"""

import ast
import functools
import hashlib
import itertools
import random
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from llm_jax.data import builtin
from llm_jax.data.families import (
  BETTER,
  NEGLIGIBLY,
  SIGNIFICANTLY,
  SLIGHTLY,
  SPLITS,
  dialogue,
  idle,
  preference,
)
from llm_jax.data.python_questions import VERBS, plain

_COUNT = {'train': 1500, 'validation': 150, 'test': 150}
_MOST_WORDS, _MOST_CHARACTERS = 45, 320  # of a passage


class Task(NamedTuple):
  """`make` returns (passage, answer) from an entry, or None where the task makes no sense."""

  wordings: tuple[str, str]
  make: Callable[[builtin.Entry], tuple[str, str] | None]


class Exercise(NamedTuple):
  """One instruction with its passage and answer."""

  task: str
  wording: str
  passage: str
  answer: str

  @property
  def prompt(self) -> str:
    return f'{self.wording}\n\n{self.passage}'


def conversations(split: str) -> list[dict]:
  """One instruction and its answer each.

  Args:
    split: 'train', 'validation' or 'test'.
  """
  rng = random.Random(f'instructions tools {split}')
  return [{'messages': idle(dialogue(e.prompt, e.answer), rng)} for e in _exercises(split)]


def questions(split: str) -> list[dict]:
  """The instructions of `conversations` with the whole answer."""
  return [
    {'prompt': dialogue(e.prompt), 'answer': e.answer, 'family': 'instructions'}
    for e in _exercises(split)
  ]


def preferences(split: str) -> list[dict]:
  """Pairs whose rejected answer has one of four faults, about equally often.

  The faults are a needless opening, a longer one, a repetition of the passage, and a wrong answer.
  """
  found, rng = _exercises(split), random.Random(f'instructions pairs {split}')
  pairs = []
  for e in found:
    others = sorted({o.answer for o in found if o.task == e.task} - {e.answer})
    faults = (
      (f'Sure: {e.answer}', NEGLIGIBLY),
      (f'Here is what you asked for, and I hope that it helps: {e.answer}', SLIGHTLY),
      (e.passage, BETTER),
      (rng.choice(others), SIGNIFICANTLY),
    )
    pairs.append(preference(dialogue(e.prompt), e.answer, *rng.choice(faults)))
  return pairs


@functools.cache
def _exercises(split: str) -> tuple[Exercise, ...]:
  """Exercises of all tasks in turn; no passage of one split comes again in a later one."""
  earlier = SPLITS[: SPLITS.index(split)]
  used = {exercise.passage for other in earlier for exercise in _exercises(other)}
  turns = itertools.zip_longest(*(_of_task(task, split) for task in TASKS))
  found = (exercise for turn in turns for exercise in turn if exercise)
  new = (exercise for exercise in found if exercise.passage not in used)
  return tuple(itertools.islice(new, _COUNT[split]))


def _of_task(task: str, split: str) -> Iterator[Exercise]:
  wordings, make = TASKS[task]
  seen = set()
  for entry in sorted(_entries(split), key=lambda entry: _number(f'{task} {entry.name}')):
    made = make(entry)
    if made and made[0] not in seen and len(made[0]) <= _MOST_CHARACTERS:
      seen.add(made[0])
      yield Exercise(task, wordings[_number(made[0]) % len(wordings)], *made)


def _entries(split: str) -> list[builtin.Entry]:
  """The public entries that a split may ask about."""
  found = builtin.entries('train' if split == 'train' else 'validation')
  public = [e for e in found if not re.search(r'(^|\.)_', e.name)]
  if split == 'train':
    return public
  return [e for e in public if SPLITS[1 + _number(e.name) % 2] == split]


def _number(text: str) -> int:
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


# --- tasks -------------------------------------------------------------------------------------


def _classify(entry: builtin.Entry) -> tuple[str, str] | None:
  description = _description(entry)
  return (description, f'It is a {entry.kind}.') if description else None


def _name(entry: builtin.Entry) -> tuple[str, str] | None:
  description = _description(entry)
  return (description, f'`{entry.name}`') if description else None


def _parameters(entry: builtin.Entry) -> tuple[str, str] | None:
  found = _arguments(entry)
  if not found:
    return None
  names = [a.arg for a in found.posonlyargs + found.args]
  names += [f'*{found.vararg.arg}'] if found.vararg else []
  names += [a.arg for a in found.kwonlyargs]
  names += [f'**{found.kwarg.arg}'] if found.kwarg else []
  answer = ', '.join(f'`{name}`' for name in names) or 'There are none.'
  return (_header(entry), answer) if len(names) < 6 else None


def _summarise(entry: builtin.Entry) -> tuple[str, str] | None:
  """The first of a few whole sentences."""
  is_prose = lambda paragraph: not re.search(r'\n |>>>|::', paragraph)
  prose = itertools.takewhile(is_prose, entry.doc.split('\n\n'))
  sentences = re.split(r'(?<=[a-z)`\'"]\.) (?=[A-Z])', ' '.join(' '.join(prose).split()))
  while len(' '.join(sentences).split()) > _MOST_WORDS or not sentences[-1].endswith('.'):
    sentences.pop()
    if len(sentences) < 2:
      return None
  return (' '.join(sentences), sentences[0]) if len(sentences) > 1 and plain(sentences[0]) else None


def _capitals(entry: builtin.Entry) -> tuple[str, str] | None:
  sentence = plain(entry.summary)
  return (sentence, sentence.upper()) if sentence else None


def _lower_case(entry: builtin.Entry) -> tuple[str, str] | None:
  sentence = plain(entry.summary)
  return (sentence, sentence.lower()) if sentence else None


def _question(entry: builtin.Entry) -> tuple[str, str] | None:
  sentence = plain(entry.summary)
  if not sentence or sentence.split()[0].lower() not in VERBS:
    return None
  return sentence, f'Does it {sentence[0].lower()}{sentence[1:-1]}?'


TASKS = {
  'classify': Task(
    (
      'Is this a class, a function or a module?',
      'Class, function or module: which of these is described here?',
    ),
    _classify,
  ),
  'name': Task(
    ('What is described here? Give the name only.', 'Extract the name from this description.'),
    _name,
  ),
  'parameters': Task(('List the parameters.', 'Which parameters does this have?'), _parameters),
  'summarise': Task(
    ('Summarise this in one sentence.', 'Say in one sentence what this text is about.'), _summarise
  ),
  'capitals': Task(('Write this in capitals.', 'Put this into capital letters.'), _capitals),
  'lower_case': Task(('Write this in lower case.', 'Put this into small letters.'), _lower_case),
  'question': Task(
    ('Turn this sentence into a question.', 'Make a question of this sentence.'), _question
  ),
}


def _description(entry: builtin.Entry) -> str:
  """The header and first sentence of the entry; '' if that sentence is shortened or unusual."""
  proper = re.fullmatch(r'[A-Z].*[.]', entry.summary) and not entry.summary.endswith('..')
  return f'{_header(entry)}\n\n{entry.summary}' if proper else ''


def _header(entry: builtin.Entry) -> str:
  before = {'class': 'class ', 'module': 'Module '}.get(entry.kind, '')
  return f'{before}{entry.name}{entry.signature}'


def _arguments(entry: builtin.Entry) -> ast.arguments | None:
  """What the signature declares, if it is known and valid Python."""
  try:
    found = ast.parse(f'def it{entry.signature}: pass').body[0]
  except SyntaxError:  # there is none, or it has the marks of a C source
    return None
  return found.args if isinstance(found, ast.FunctionDef) else None

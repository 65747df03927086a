"""Questions about the letters of words, which a model that reads tokens cannot see.

Half of the conversations list the tool `spell`, and the answer calls it; in the others the model
answers by itself. Half of the words come from the documentation and half are letters at random. A
word belongs to one split, so held-out questions are about strings that were never seen.
"""

import functools
import hashlib
import random
import re
import string
from typing import NamedTuple

from llm_jax.data import builtin
from llm_jax.data.families import (
  SIGNIFICANTLY,
  SPLITS,
  TOOLS,
  call,
  calling,
  dialogue,
  idle,
  preference,
)

_CONVERSATIONS = {'train': 1200, 'validation': 200, 'test': 200}
_PREFERENCES = {'train': 200, 'validation': 100, 'test': 100}
_COPIES = {'train': 1500, 'validation': 40, 'test': 40}  # more conversations, of strings made up
_LENGTHS = range(3, 11)  # of words
_LONGEST_CALL = 200
_MOST_WORDS = 4  # of what is copied
_QUOTES = '`\'" '

_COPY = ('Repeat `{}`.', 'Write `{}` again.', 'Copy this: `{}`')
_SPELL = (
  'Spell `{word}`.',
  'Spell `{word}` letter by letter.',
  'Which letters does `{word}` have, in order?',
)
_COUNT = (
  'How many `{letter}` are in `{word}`?',
  'How often does the letter `{letter}` occur in `{word}`?',
  'Count the `{letter}` in `{word}`.',
)
_LENGTH = (
  'How many letters does `{word}` have?',
  'How long is `{word}`, in letters?',
  'Count the letters of `{word}`.',
)


class Question(NamedTuple):
  """A question with its answer, and what `spell` is asked for it."""

  text: str
  answer: str
  call: str


def letters(asked: str) -> str:
  """What the tool `spell` says: the letters of a word, or how often a text occurs in it.

  >>> letters('`banana`'), letters('a in `banana`')
  ('6 letters: b a n a n a', '3')

  Raises:
    ValueError: there is no word, or it is too long.
  """
  text, counts, word = asked.rpartition(' in ')
  text, word = text.strip(_QUOTES), word.strip(_QUOTES)
  if not word or (counts and not text) or len(asked) > _LONGEST_CALL:
    raise ValueError(f'spell: give a word, or x in a word, of up to {_LONGEST_CALL} characters')
  if counts:
    return str(word.lower().count(text.lower()))
  return f'{len(word)} letters: {" ".join(word)}'


def conversations(split: str) -> list[dict]:
  """One question and its answer each, of which every other one calls the tool; and words to copy.

  Who calls a tool has to copy what it asks for, and copying is what a small model learns late.

  Args:
    split: 'train', 'validation' or 'test'.
  """
  rng = random.Random(f'spelling tools {split}')
  talks = []
  for i, asked in enumerate(_sample('conversations', split, _CONVERSATIONS[split])):
    talk = dialogue(asked.text, asked.answer)
    if i % 2:
      parts = call('spell', asked.call, letters(asked.call))
      talk = calling(asked.text, [*parts, {'type': 'text', 'text': asked.answer}], 'spell', rng)
    else:  # other tools do not help
      talk = idle(talk, rng, 0.1, [name for name in TOOLS if name != 'spell'])
    talks.append({'messages': talk})
  return [*talks, *_copies(split)]


def questions(split: str) -> list[dict]:
  """The questions of `conversations`, with the whole answer."""
  return [
    {'prompt': dialogue(asked.text), 'answer': asked.answer, 'family': 'spelling'}
    for asked in _sample('conversations', split, _CONVERSATIONS[split])
  ]


def preferences(split: str) -> list[dict]:
  """Pairs of the right answer and that to the same question about another word."""
  pairs = []
  for asked in _sample('preferences', split, _PREFERENCES[split]):
    wrong = re.sub(r'\d+', lambda n: str(int(n[0]) + 1), asked.answer)
    wrong = asked.answer[:-2] if wrong == asked.answer else wrong
    pairs.append(preference(dialogue(asked.text), asked.answer, wrong, SIGNIFICANTLY))
  return pairs


def _copies(split: str) -> list[dict]:
  rng = random.Random(f'spelling copies {split}')
  found: dict[str, dict] = {}
  while len(found) < _COPIES[split]:
    invented = _invented if len(found) % 2 else _invented_name
    words = [invented(rng) for _ in range(rng.randint(1, _MOST_WORDS))]
    if all(_split_of(word) == split for word in words):
      text = ' '.join(words)
      talk = dialogue(rng.choice(_COPY).format(text), f'`{text}`')
      found.setdefault(text, {'messages': idle(talk, rng, 0.1)})
  return [*found.values()]


def _sample(what: str, split: str, count: int) -> list[Question]:
  """`count` questions about different words, of the three kinds in turn."""
  rng = random.Random(f'spelling {what} {split}')
  known = [word for word in _words() if _split_of(word) == split]
  rng.shuffle(known)
  words: dict[str, None] = {}
  while len(words) < count:
    word = known.pop() if len(words) % 4 < 2 and known else _invented(rng)
    if _split_of(word) == split:
      words[word] = None
  return [_asked(i % 3, word, rng) for i, word in enumerate(words)]


def _asked(kind: int, word: str, rng: random.Random) -> Question:
  if kind == 0:
    return Question(rng.choice(_SPELL).format(word=word), ' '.join(word), f'`{word}`')
  if kind == 1:
    text, answer = rng.choice(_LENGTH).format(word=word), f'It has {len(word)} letters.'
    return Question(text, answer, f'`{word}`')
  letter = rng.choice(word if rng.random() < 0.8 else string.ascii_lowercase)
  text = rng.choice(_COUNT).format(letter=letter, word=word)
  return Question(text, f'The count is {word.count(letter)}.', f'{letter} in `{word}`')


@functools.cache
def _words() -> tuple[str, ...]:
  """Words of the documentation, each once, in an order that never changes."""
  found = {w for text in builtin.documents('train') for w in re.findall(r'\b[a-z]+\b', text)}
  return tuple(sorted(word for word in found if len(word) in _LENGTHS))


def _invented(rng: random.Random) -> str:
  return ''.join(rng.choices(string.ascii_lowercase, k=rng.choice(_LENGTHS)))


def _invented_name(rng: random.Random) -> str:
  """Words of the documentation, joined as in a name of Python."""
  first, *others = rng.choices(_words(), k=rng.randint(2, 3))
  return first + '.' + '_'.join(others)


def _split_of(word: str) -> str:
  """8 parts train, 1 validation, 1 test."""
  number = hashlib.sha256(word.encode()).digest()[0] % 10
  return SPLITS[number + 1] if number < 2 else 'train'

"""Pages of a documentation that nobody has written, from which a model learns to read.

What the documentation says of real names can be learned by heart, and a small model does that
before it learns to copy. Here the beginning of one summary stands before the end of another, behind
a name of words that never stood together, so nothing but the page says what it is.
"""

import functools
import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llm_jax.data import builtin, knowledge, python_questions
from llm_jax.types import Tokenizer

MAX_CHARS = 160  # of a page, which is the first sentence about its name
_PREPOSITIONS = {'of', 'for', 'in', 'from', 'to', 'with', 'on', 'as', 'by', 'at', 'that', 'if'}
MAX_HEADING = 60  # of its first line
# Options of tools/search.py with which it shows real ones in the same way.
SEARCH = {'max_chars': MAX_CHARS, 'max_heading': MAX_HEADING, 'sentences': 1}


class Page(NamedTuple):
  """What a documentation might say of a name.

  Attributes:
    name: dotted; nobody has it.
    before: what stands before the name.
    after: what stands behind it.
    answer: what it is, in a sentence that the page has in other form.
  """

  name: str
  before: str
  after: str
  answer: str

  def text(self) -> str:
    """The page."""
    signature, _, rest = f'{self.before}{self.name}{self.after}'.partition('\n')
    return f'{signature[:MAX_HEADING]}\n{rest}'[:MAX_CHARS].rstrip()


def pages(seed: str, pieces: Sequence[str] = ()) -> Iterator[Page]:
  """Pages without end, of the text and the names that training may see.

  Args:
    seed: those of one seed are always the same.
    pieces: of which half of the names are made, and every third word of half of the sentences, such
      as the tokens of a model: it copies those that it has seen copied. A few of them come again
      and again in a name and in a sentence, so more than what was said last has to be looked at.
  """
  pieces = [piece for piece in pieces if re.fullmatch('[A-Za-z_]+', piece)]
  rng = random.Random(f'pages {seed}')
  entries = [e for e in builtin.entries('train') if e.kind != 'module' and not _is_held_out(e)]
  told = [e for e in entries if python_questions.sentence_of(e.kind, e.summary)]
  ends = [end for e in told for _, end in _cuts(e.summary)]
  for name in _names(rng, pieces):
    entry = rng.choice(told)
    cuts = _cuts(entry.summary)
    summary = f'{rng.choice(cuts)[0]} {rng.choice(ends)}' if cuts else entry.summary
    if pieces and rng.random() < 0.5:
      summary = _strange(summary, pieces, rng)
    after = f'{rng.choice(entries).signature}\n{summary}'
    answer = python_questions.sentence_of(entry.kind, summary)
    page = Page(name, 'class ' * (entry.kind == 'class'), after, answer)
    whole = name in page.text() and summary in page.text()  # nothing was cut off
    if answer and whole:  # and it is a sentence still
      yield page


def pieces_of(tokenizer: Tokenizer) -> list[str]:
  """What the tokens of a model say, but for control tokens."""
  sizes = enumerate(tokenizer.token_bytes)
  return [tokenizer.decode([token]).strip() for token, size in sizes if size > 0]


def _is_held_out(entry: builtin.Entry) -> bool:
  """Whether a fact of another split than train has its name, however spelled, or its sentence."""
  subject = python_questions.described(entry)
  names = {entry.name, *([subject.name] if subject else [])}
  sentence = python_questions.sentence_of(entry.kind, entry.summary)
  held_names, held_sentences = _held_out()
  return bool(names & held_names) or sentence in held_sentences


@functools.cache
def _held_out() -> tuple[frozenset[str], frozenset[str]]:
  """Names and sentences of the facts that training must not see."""
  facts = [fact for fact in knowledge.facts() if fact.split != 'train' and fact.answer]
  return frozenset(f.name for f in facts), frozenset(f.answer for f in facts)


def _strange(summary: str, pieces: Sequence[str], rng: random.Random) -> str:
  """A summary with every third word exchanged for some pieces, but for the first and the last."""
  first, *words = summary.split(' ')
  some = [''.join(rng.choices(pieces, k=rng.randint(1, 3))) for _ in range(4)]
  exchanged = [rng.choice(some) if rng.random() < 1 / 3 else word for word in words[:-1]]
  return ' '.join([first, *exchanged, *words[-1:]])


def _names(rng: random.Random, pieces: Sequence[str]) -> Iterator[str]:
  """Names without end: words, half of them new, between dots, and others that look real."""
  there = {fact.name for fact in knowledge.facts()}
  found = {*re.findall(r'[A-Za-z_][A-Za-z_0-9]{2,20}', '\n'.join(builtin.documents('train')))}
  words, alike = sorted(found), [one['name'] for one in knowledge.nobody_has('train')]
  while True:
    few = rng.choices(pieces, k=rng.randint(2, 6)) if pieces and rng.random() < 0.7 else []
    parts = range(rng.choice((1, 2, 2, 3, 3, 4)))
    if few:
      some = '.'.join(''.join(rng.choices(few, k=rng.randint(1, 4))) for _ in parts)
    else:
      some = '.'.join(_word(rng, words) for _ in parts)
    name = some if rng.random() < 0.7 else rng.choice(alike)
    if name not in there and re.search('[A-Za-z]', name):  # or there is nothing to look up
      yield name


def _word(rng: random.Random, words: list[str]) -> str:
  """A word of the text, or as often the beginning of one before the end of another."""
  one, other = rng.choices(words, k=2)
  border = rng.randrange(1, min(len(one), len(other)))
  return one if rng.random() < 0.5 else one[:border] + other[border:]


def _cuts(summary: str) -> list[tuple[str, str]]:
  """The beginning and the end of a summary, wherever a preposition begins the end.

  >>> _cuts('Return the name of a file.')
  [('Return the name', 'of a file.')]
  """
  words = summary.split()
  return [
    (' '.join(words[:i]), ' '.join(words[i:]))
    for i, word in enumerate(words)
    if 2 <= i < len(words) - 1 and word in _PREPOSITIONS
  ]

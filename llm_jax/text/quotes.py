"""Quotes that cannot be made up: what stands between quotation marks is held to what a tool said.

A model that has looked something up can still get a word of the quote wrong, and a small one does
so in one of four. So the tokens inside of a quote are chosen among those that go on with the text
that is quoted, as GopherCite's are (arXiv:2203.11147). What is quoted, and whether anything is, the
model decides. Quotation marks are those of ASCII.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from llm_jax.types import Tokenizer

Whole = Literal['words', 'sentences']
Quoting = Literal['free', 'words', 'sentences']  # the option of tools

_MARK = ord('"')
_BETWEEN = b'\0'  # two texts, and is in none
_WORD = r"\w+(?:['\u2019]\w+)*"
_STARTS = re.compile(rf'{_WORD}|(?<!\S)\S')
_ENDS = re.compile(rf'{_WORD}|[^\w\s](?!\w)')
_SENTENCE = re.compile(r'\S.*?(?:[.!?]["\')\]]*(?=\s)|$)')


class Passage(NamedTuple):
  """What may be quoted, and in which parts.

  Attributes:
    text: of it.
    whole: a quote is of whole 'words', or of whole 'sentences'; whoever quotes words may leave out
      the `not` before them.
  """

  text: str
  whole: Whole = 'words'


class Verbatim:
  """A tool whose results may be quoted, and in no other words.

  Args:
    tool: from the text of a call to that of its result.
    whole: of a quote, see `Passage`.
  """

  def __init__(self, tool: Callable[[str], str], whole: Whole) -> None:
    self.whole: Whole = whole
    self._tool = tool

  def __call__(self, call: str) -> str:
    return self._tool(call)


def held(tool: Callable[[str], str], quotes: Quoting) -> Callable[[str], str]:
  """A tool, whose results are quoted as its option says."""
  return tool if quotes == 'free' else Verbatim(tool, quotes)


class Places(NamedTuple):
  """What has been said so far may be outside of quotes, inside of one, or either.

  Attributes:
    outside: whether it may be outside.
    inside: where in the text a quote may go on, in bytes.
  """

  outside: bool
  inside: frozenset[int]


class Quotable:
  """What may be quoted of some passages.

  >>> source = Quotable([Passage('remove(path)\\nRemove a file.')])
  >>> said = lambda text: source.after(source.begin, text.encode())
  >>> bool(said('It says "Remove a file.", so'))
  True
  >>> said('"Remove a folder'), said('"move'), said('"Remove a fi"')
  (None, None, None)

  Runs of blanks and line ends count as one blank. A quotation mark in the text may be said, and may
  also end the quote.
  """

  begin = Places(True, frozenset())

  def __init__(self, passages: Sequence[Passage]) -> None:
    self._bytes = b''
    starts: set[int] = set()
    ends: set[int] = set()
    for passage in passages:
      text, both = _parts(passage)
      at = np.cumsum([len(self._bytes), *(len(character.encode()) for character in text)])
      for found, places in zip((starts, ends), both, strict=True):
        found.update(at[[*places]].tolist())
      self._bytes += text.encode() + _BETWEEN
    self._starts, self._ends = frozenset(starts), frozenset(ends)

  def rest(self, place: int, most: int) -> bytes:
    """At most so many bytes that a quote goes on with."""
    return self._bytes[place : place + most].partition(_BETWEEN)[0]

  def after(self, places: Places, said: bytes) -> Places | None:
    """Where the text may stand after some bytes more; None where these may not be said."""
    for byte in said:
      outside, inside = places
      on = [place + 1 for place in inside if self._bytes[place] == byte != _BETWEEN[0]]
      if byte == _MARK:
        ended = not inside.isdisjoint(self._ends)
        places = Places(ended, frozenset([*on, *(self._starts if outside else ())]))
      else:
        places = Places(outside, frozenset(on))
      if not (places.outside or places.inside):
        return None
    return places


def _parts(passage: Passage) -> tuple[str, tuple[set[int], set[int]]]:
  """A text with single blanks, and where in it a quote may begin and end."""
  text = passage.text.replace('\0', ' ')
  if passage.whole == 'words':
    text = ' '.join(text.split())
    return text, (
      {found.start() for found in _STARTS.finditer(text)},
      {found.end() for found in _ENDS.finditer(text)},
    )
  sentences = _sentences(text)
  ends = np.cumsum([len(sentence) + 1 for sentence in sentences], dtype=int) - 1
  return ' '.join(sentences), ({0, *(ends + 1)[:-1].tolist()}, {*ends.tolist()})


def _sentences(text: str) -> list[str]:
  """The sentences of a text, each in one line.

  A line ends one too, as a title does, unless the next goes on with a small letter.

  >>> _sentences('open(path)\\nOpens a file. It must\\nbe there.')
  ['open(path)', 'Opens a file.', 'It must be there.']
  """
  parts = ['']
  for line in text.split('\n'):
    line = ' '.join(line.split())
    if parts[-1] and line[:1].islower():
      parts[-1] += f' {line}'
    else:
      parts.append(line)
  return [sentence for part in parts for sentence in _SENTENCE.findall(part)]


class Quotes:
  """Holds the quotes of one model's answers.

  Args:
    tokenizer: of the model.
    size: V of the model, which may have more rows; by default that of the tokenizer.
  """

  def __init__(self, tokenizer: Tokenizer, size: int | None = None) -> None:
    self.size = size or tokenizer.vocab_size
    is_text = np.asarray(tokenizer.token_bytes) > 0
    self.bytes = [tokenizer.bytes_of(i) if text else b'' for i, text in enumerate(is_text)]
    self.longest = max(map(len, self.bytes))
    self.ids: dict[bytes, list[int]] = defaultdict(list)
    for i in np.flatnonzero(is_text).tolist():
      self.ids[self.bytes[i]].append(i)
    self.marked = [said for said in self.ids if _MARK in said]
    self.free = np.ones(self.size, bool)  # outside of quotes
    for said in self.marked:
      self.free[self.ids[said]] = False

  def hold(self, passages: Sequence[Passage]) -> 'Held':
    """What holds one answer that may quote these."""
    return Held(self, Quotable(passages))


class Held:
  """An answer whose quotes are held, as `Request.allow`.

  Inside of a quote no control token comes, so an answer ends when its quotes have.
  """

  def __init__(self, quotes: Quotes, source: Quotable) -> None:
    self._quotes, self._source = quotes, source
    self._places: Places | None = source.begin

  def mask(self) -> np.ndarray | None:
    """bool [V]: which ids may come next; None for all."""
    if self._places is None:
      return None
    quotes, source, places = self._quotes, self._source, self._places
    mask_V = quotes.free.copy() if places.outside else np.zeros(quotes.size, bool)
    for place in places.inside:
      rest = source.rest(place, quotes.longest)
      for size in range(1, len(rest) + 1):
        mask_V[quotes.ids.get(rest[:size], [])] = True
    for said in quotes.marked:
      mask_V[quotes.ids[said]] = source.after(places, said) is not None
    if not mask_V.any():  # no token spells what comes next
      self._places = None
      return None
    return mask_V

  def advance(self, token: int) -> None:
    """Tells it which id came."""
    if self._places is not None:
      self._places = self._source.after(self._places, self._quotes.bytes[token])

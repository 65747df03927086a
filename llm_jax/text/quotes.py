"""Quotes that cannot be made up: what stands between quotation marks is held to what a tool said.

A model that has looked something up can still get a word of the quote wrong, and a small one does
so in one of four. So the tokens inside of a quote are chosen among those that go on with the text
that is quoted, as GopherCite's are (arXiv:2203.11147). What is quoted, and whether anything is, the
model decides. Quotation marks are those of ASCII; calls of tools may hold any, and thoughts none
but true quotes. One answer is held, from its first result on.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np

from llm_jax.types import Tokenizer

Unit = Literal['words', 'sentences']
Quoting = Literal['free', 'words', 'sentences']  # the option of tools

_MARK = ord('"')
_BETWEEN = b'\0'  # separates two texts, and occurs in neither
# Also an apostrophe or a hyphen in a word, the point of a number, and its sign.
_WORD = r"(?:(?<![\w-])-(?=\d))?\w+(?:(?:['\u2019-]|(?<=\d)[.,](?=\d))\w+)*"
_STARTS = re.compile(rf'{_WORD}|(?<!\S)\S')
_ENDS = re.compile(rf'{_WORD}|[^\w\s](?!\w)')
_SENTENCE = re.compile(r'\S.*?(?:[.!?]["\')\]]*(?=\s[^\sa-z])|$)')


class Passage(NamedTuple):
  """What may be quoted, and in which parts.

  Attributes:
    text: of it. A quote stands in one of its paragraphs, between which are empty lines.
    unit: a quote is of whole 'words', or of whole 'sentences'; whoever quotes words may leave out
      the `not` before them.
    cut: whether the end of the text is missing; its last word or sentence is not quoted then.
  """

  text: str
  unit: Unit = 'words'
  cut: bool = False


class Verbatim:
  """A tool whose results may be quoted, and in no other words.

  Args:
    tool: from the text of a call to that of its result.
    unit: of a quote, see `Passage`.
  """

  def __init__(self, tool: Callable[[str], str], unit: Unit) -> None:
    self.unit: Unit = unit
    self._tool = tool

  def __call__(self, call: str) -> str:
    return self._tool(call)


def quoted(tool: Callable[[str], str], how: Quoting) -> Callable[[str], str]:
  """A tool whose results are quoted as its option says."""
  return tool if how == 'free' else Verbatim(tool, how)


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

  Runs of blanks and line ends count as one blank. Quotation marks in the text are quoted in pairs.
  """

  begin = Places(True, frozenset())

  def __init__(self, passages: Sequence[Passage]) -> None:
    self._bytes = b''
    starts: set[int] = set()
    ends: set[int] = set()
    for passage in passages:
      paragraphs = re.split(r'\n\s*\n', passage.text.replace('\0', ' '))
      for number, paragraph in enumerate(paragraphs):
        cut = passage.cut and number == len(paragraphs) - 1
        text, both = _parts(paragraph, passage.unit, cut)
        at = np.cumsum([len(self._bytes), *(len(character.encode()) for character in text)])
        for found, places in zip((starts, ends), both, strict=True):
          found.update(at[[*places]].tolist())
        self._bytes += text.encode() + _BETWEEN
    self._starts, self._ends = frozenset(starts), frozenset(ends)
    self._known: dict[tuple[Places, int], Places | None] = {}

  def rest(self, place: int, most: int) -> bytes:
    """At most so many bytes that a quote goes on with."""
    return self._bytes[place : place + most].partition(_BETWEEN)[0]

  def after(self, places: Places, said: bytes) -> Places | None:
    """Where the text may stand after some bytes more; None where these may not be said."""
    found: Places | None = places
    for byte in said:
      if (key := (found, byte)) not in self._known:
        self._known[key] = self._after(found, byte)
      if (found := self._known[key]) is None:
        return None
    return found

  def _after(self, places: Places, byte: int) -> Places | None:
    outside, inside = places
    on = [place + 1 for place in inside if self._bytes[place] == byte != _BETWEEN[0]]
    if byte == _MARK:
      ended = not inside.isdisjoint(self._ends)
      found = Places(ended, frozenset([*on, *(self._starts if outside else ())]))
    else:
      found = Places(outside, frozenset(on))
    return found if found.outside or found.inside else None


def _parts(paragraph: str, unit: Unit, cut: bool) -> tuple[str, tuple[set[int], set[int]]]:
  """A text with single blanks, and where in it a quote may begin and end."""
  if unit == 'words':
    text = ' '.join(paragraph.split())
    starts = [found.start() for found in _STARTS.finditer(text)]
    ends = [found.end() for found in _ENDS.finditer(text)]
  else:
    sentences = _sentences(paragraph)
    text = ' '.join(sentences)
    ends = (np.cumsum([len(sentence) + 1 for sentence in sentences], dtype=int) - 1).tolist()
    starts = [0, *(end + 1 for end in ends[:-1])] if ends else []
  if cut:
    ends = [end for end in ends if end < len(text)]
  # A quote that began or ended between two marks of the text could not be told from what is not
  # quoted. Nor may one begin that cannot end.
  paired = np.cumsum([0, *(character == '"' for character in text)]) % 2 == 0
  ends = [end for end in ends if paired[end]]
  text = text[: max(ends, default=0)]
  return text, ({start for start in starts if start < len(text) and paired[start]}, {*ends})


def _sentences(paragraph: str) -> list[str]:
  """The sentences of a paragraph, each in one line, as far as they are shown.

  The first line is one of its own, as a title is, unless the next goes on with a small letter.

  >>> _sentences('open(path)\\nOpens a file, e.g. yours. It must\\nbe there.')
  ['open(path)', 'Opens a file, e.g. yours.', 'It must be there.']
  """
  lines = [' '.join(line.split()) for line in paragraph.strip().split('\n')]
  parts = lines[:1]
  for number, line in enumerate(lines[1:]):
    begins = not line[:1].islower() if number == 0 else parts[-1].endswith(('.', '!', '?', ':'))
    if begins:
      parts.append(line)
    else:
      parts[-1] += f' {line}'
  return [sentence for part in parts for sentence in _SENTENCE.findall(part)]


class Quotes:
  """Holds the quotes of one model's answers.

  Args:
    tokenizer: of the model.
    size: V of the model, which may have more rows than its tokenizer, of which none is chosen; by
      default that of the tokenizer.
    call: ids of the two marks around a call.
  """

  def __init__(
    self, tokenizer: Tokenizer, size: int | None = None, call: Collection[int] = ()
  ) -> None:
    self.size, self.call = size or tokenizer.vocab_size, (*call,)
    is_text = np.asarray(tokenizer.token_bytes) > 0
    self.bytes = [tokenizer.bytes_of(i) if text else b'' for i, text in enumerate(is_text)]
    self.ids: dict[bytes, list[int]] = defaultdict(list)
    for i in np.flatnonzero(is_text).tolist():
      self.ids[self.bytes[i]].append(i)
    self.marked = [said for said in self.ids if _MARK in said]
    fit = [len(said) for said in self.ids if b'  ' not in said]  # into a text of single blanks
    self.longest = max(fit, default=1)
    self.free = np.ones(self.size, bool)  # outside of quotes
    for said in self.marked:
      self.free[self.ids[said]] = False

  def hold(self, passages: Sequence[Passage]) -> 'HeldQuotes':
    """What holds one answer that may quote these."""
    return HeldQuotes(self, Quotable(passages))


class HeldQuotes:
  """An answer whose quotes are held, as `Request.allow`.

  Inside of a quote no control token comes, so no answer stops there by itself.
  """

  def __init__(self, quotes: Quotes, source: Quotable) -> None:
    self._quotes, self._source = quotes, source
    self._places: Places | None = source.begin
    self._calls = False  # whether a call is being written
    self._outside: np.ndarray | None = None  # the mask outside of quotes, once it is known

  def mask(self) -> np.ndarray | None:
    """bool [V]: which ids may come next; None for all."""
    if self._places is None or self._calls:
      return None
    is_outside = self._places == self._source.begin
    if is_outside and self._outside is not None:
      return self._outside
    mask_V = self._mask(self._places)
    if is_outside:
      self._outside = mask_V
    if mask_V.any():
      return mask_V
    self._places = None  # no token spells what comes next
    return None

  def _mask(self, places: Places) -> np.ndarray:
    quotes, source = self._quotes, self._source
    mask_V = quotes.free.copy() if places.outside else np.zeros(quotes.size, bool)
    fits: list[int] = []
    for place in places.inside:
      rest = source.rest(place, quotes.longest)
      for size in range(1, len(rest) + 1):
        fits += quotes.ids.get(rest[:size], ())
    mask_V[fits] = True
    for said in quotes.marked:
      mask_V[quotes.ids[said]] = source.after(places, said) is not None
    return mask_V

  def advance(self, token: int) -> None:
    """Tells it which id came."""
    if token in self._quotes.call:
      self._calls = token == self._quotes.call[0]
    elif self._places is not None and not self._calls:
      self._places = self._source.after(self._places, self._quotes.bytes[token])

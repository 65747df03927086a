"""Search in the interpreter's documentation by BM25, Robertson and Zaragoza 2009.

Passages are the paragraphs of the documents of `data/builtin`: short ones are joined, and each
begins with the first two lines of its document. Terms are runs of letters or digits in lower case,
and dotted names as a whole, so `os.path` is three terms. Who looks up a name gets the page of that
name before the pages that mention it; what the documentation has few words about, or says of
another name as well, is found by its name alone.
"""

import functools
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from llm_jax.data import builtin
from llm_jax.options import Count, checked
from llm_jax.text.quotes import Quoting, quoted

_K1, _B = 1.2, 0.75  # how soon repetition stops counting; how much length counts
_PASSAGE = 300  # characters; paragraphs are joined up to here
_LONGEST_CALL = 1000
_TERM = re.compile(r'[^\W_]+')
_DOTTED = re.compile(r'\w+(?:\.\w+)+')
_NAME = re.compile(r'`([\w.]+)`|^\s*([\w.]+)\s*$|(\w+(?:\.\w+)+)')
_QUOTED = re.compile(r'`([A-Za-z_][\w.]*)`')
_DOTTED_ALONE = re.compile(r'\s*([A-Za-z_]\w*(?:\.\w+)+)\s*')
_SENTENCE_END = re.compile(r'[.!?](?=\s|$)|\n\s*\n')
NO_PAGE = 'No page has this name. The closest:'
_TITLE = re.compile(r'(?:class |Module )?([\w.]+)(?=[(\n])')


class Index(NamedTuple):
  """Passages, and where to find them.

  Attributes:
    passages: texts.
    postings: for each term the indices of those that contain it, and its weight in each. Not all
      passages need be found by their words.
    titles: for each name the index of the first one that begins with it, as a page about it does.
  """

  passages: Sequence[str]
  postings: dict[str, tuple[np.ndarray, np.ndarray]]
  titles: dict[str, int]


@checked(where='search')
def make(
  *,
  top: Count = 1,
  max_chars: Count = 400,
  max_heading: Count | None = None,
  sentences: Count | None = None,
  quotes: Quoting = 'free',
) -> Callable[[str], str]:
  """A function that finds the passages which match a question best.

  Args:
    top: how many passages it returns, the best first, a blank line between them.
    max_chars: characters after which a passage is truncated.
    max_heading: characters after which its first line is, which is the signature of a function;
      None for no limit.
    sentences: how many of the text behind that line, and behind the forms of the call which follow
      it, are shown; None for all of them.
    quotes: what a model may put between quotation marks behind a passage: anything ('free'); or, as
      they stand there, its 'words' or its whole 'sentences', to the end of the answer. See
      `llm_jax.text.quotes`.

  Returns:
    A function from words to passages, which says so where no page is about the names that it was
    given, in backticks, or alone with a dot: there is always something that is alike. It raises
    ValueError for a call without a word or with more than 1000 characters. The first call in a
    process builds the index, which takes seconds.

  Raises:
    BadInput: an option below 1.
  """

  def search(call: str) -> str:
    words = _terms(call[: _LONGEST_CALL + 1])
    if not words or len(call) > _LONGEST_CALL:
      raise ValueError(f'search: give 1 to {_LONGEST_CALL} characters with at least one word')
    index = _builtin_index()
    first = dict.fromkeys([*about(index, call), *best(index, words, top)])
    found = [_part(index.passages[i], max_heading, sentences)[:max_chars] for i in [*first][:top]]
    alone = _DOTTED_ALONE.fullmatch(call)
    asked = [alone[1]] if alone else _QUOTED.findall(call)
    if found and asked and not any(name in index.titles for name in asked):
      found[0] = f'{NO_PAGE}\n{found[0]}'[:max_chars]
    return '\n\n'.join(map(str.rstrip, found)) or 'Nothing was found.'

  return quoted(search, quotes)


def build(passages: Sequence[str]) -> Index:
  """The index of some texts."""
  counts = [Counter(_terms(text)) for text in passages]
  length = np.array([count.total() for count in counts], np.float64)
  norm = _K1 * (1 - _B + _B * length / max(length.mean(), 1)) if len(passages) else length
  where: dict[str, list[tuple[int, int]]] = {}
  for i, count in enumerate(counts):
    for term, n in count.items():
      where.setdefault(term, []).append((i, n))
  postings = {}
  for term, entries in where.items():
    rows, often = np.array(entries).T
    rarity = math.log(1 + (len(passages) - len(rows) + 0.5) / (len(rows) + 0.5))
    postings[term] = rows, rarity * often * (_K1 + 1) / (often + norm[rows])
  return Index(passages, postings, _titles(passages))


def with_titles(index: Index, pages: Sequence[str]) -> Index:
  """An index that has these pages too, unless there is one of that name: by name, not by words.

  >>> index = with_titles(build(['open a file']), ['os.open(path)\\nOpens a file.'])
  >>> about(index, 'os.open'), best(index, ['file'], top=2)
  ([1], [0])
  """
  passages = [*index.passages, *pages]
  return Index(passages, index.postings, _titles(passages))


def _titles(passages: Sequence[str]) -> dict[str, int]:
  titles: dict[str, int] = {}
  for i, text in enumerate(passages):
    if title := _TITLE.match(text):
      titles.setdefault(title[1], i)
  return titles


def about(index: Index, call: str) -> list[int]:
  """Indices of the passages about the names in a call: dotted, in backticks, or all there is.

  >>> index = build(['file(path)\\nReads a file.', 'os.open(path)\\nOpens a file.'])
  >>> about(index, 'os.open'), about(index, 'what is `file`?'), about(index, 'open a file')
  ([1], [0], [])
  """
  names = [next(filter(None, match.groups())) for match in _NAME.finditer(call)]
  return [index.titles[name] for name in names if name in index.titles]


def best(index: Index, words: Sequence[str], top: int) -> list[int]:
  """Indices of the `top` passages that share a word, by score; of equals the earlier comes first.

  >>> index = build(['open a file', 'join two paths', 'open and read a file'])
  >>> best(index, ['open', 'read'], top=2)
  [2, 0]
  """
  score = np.zeros(len(index.passages))
  for word in dict.fromkeys(words):
    if word in index.postings:
      rows, weights = index.postings[word]
      score[rows] += weights
  order = np.argsort(-score, kind='stable')[:top]
  return [int(i) for i in order if score[i] > 0]


def _part(passage: str, heading: int | None, sentences: int | None) -> str:
  """A passage with so many characters of its first line and sentences of what follows."""
  first, line_end, rest = passage.partition('\n')
  rest = builtin.told(rest) if sentences else rest
  ends = [found.end() for found in _SENTENCE_END.finditer(rest)]
  until = ends[sentences - 1] if sentences and len(ends) >= sentences else None
  return f'{first[:heading]}{line_end}{rest[:until]}'


def _terms(text: str) -> list[str]:
  text = text.lower()
  return _TERM.findall(text) + _DOTTED.findall(text)


_BUILDING = threading.Lock()


def _builtin_index() -> Index:
  with _BUILDING:  # the first thread builds, the others wait
    return _built_once()


@functools.cache
def _built_once() -> Index:
  texts = [text for split in builtin.SPLITS for text in builtin.documents(split)]
  index = build([part for text in texts for named in _names(text) for part in _passages(named)])
  lines = [one for split in builtin.SPLITS for one in builtin.listed(split)]
  lines = [*builtin.left_out(), *lines]
  pages = [page for one in lines for page in _names(f'{one.name}{one.signature}\n{one.doc}')]
  return with_titles(index, pages)


def _names(document: str) -> Iterator[str]:
  """A document under each name of what it is about, the one that programs use first.

  >>> [*_names('posixpath.join(a, *p)\\nJoin paths.')]
  ['os.path.join(a, *p)\\nJoin paths.', 'posixpath.join(a, *p)\\nJoin paths.']
  """
  for module, used in builtin.USED_AS.items():
    if document.startswith(f'{module}.'):
      yield used + document.removeprefix(module)
  yield document


def _passages(document: str) -> Iterator[str]:
  header, *paragraphs = (part.strip('\n') for part in re.split(r'\n\s*\n', document))
  if len(paragraphs) > 1 and builtin.is_form(paragraphs[0]):  # what it does is said behind it
    paragraphs[:2] = ['\n'.join(paragraphs[:2])]
  first, *others = paragraphs[0].split('\n') if paragraphs else ['']
  heading = joined = f'{header[:_PASSAGE]}\n{first[:_PASSAGE]}'
  for paragraph in ['\n'.join(others), *paragraphs[1:]]:
    for piece in [paragraph] if len(paragraph) <= _PASSAGE else paragraph.split('\n'):
      if len(joined) > len(heading) and len(joined) + len(piece) > _PASSAGE:
        yield joined
        joined = heading
      joined += '\n' + piece if piece else ''
  yield joined

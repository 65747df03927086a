"""Text that repeats itself: Gopher's rules, arXiv:2112.11446, table A1.

Two readings of them are offered, because the paper leaves much open: that of FineWeb, to the digit
of datatrove 0.10, and that of DCLM, arXiv:2406.11794.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Literal

from llm_jax.clean.page import Limit, Page, Rule, Value
from llm_jax.options import Share, checked

TOP, DUPLICATED = (2, 3, 4), (5, 6, 7, 8, 9, 10)


@checked(where='clean.repetition')
def make(
  *,
  reading: Literal['fineweb', 'dclm'] = 'fineweb',
  max_dup_para_frac: Share | None = 0.30,
  max_dup_para_char_frac: Share | None = 0.20,
  max_dup_line_frac: Share | None = 0.30,
  max_dup_line_char_frac: Share | None = 0.20,
  max_top_2_gram: Share | None = 0.20,
  max_top_3_gram: Share | None = 0.18,
  max_top_4_gram: Share | None = 0.16,
  max_dup_5_gram: Share | None = 0.15,
  max_dup_6_gram: Share | None = 0.14,
  max_dup_7_gram: Share | None = 0.13,
  max_dup_8_gram: Share | None = 0.12,
  max_dup_9_gram: Share | None = 0.11,
  max_dup_10_gram: Share | None = 0.10,
) -> Rule:
  """Shares of a page that repeat what is on it already. A limit of None is off.

  'fineweb' counts the later copies of a line, and the characters of an n-gram from its second
  occurrence on; the most frequent n-gram counts even if it occurs once, which drops short pages.
  'dclm' counts all copies, leaves blank lines and marks out, and takes what occurs once for 0.

  Args:
    reading: how shares are counted.
    max_dup_para_frac: copies among the paragraphs.
    max_dup_para_char_frac: characters of these copies among all.
    max_dup_line_frac: copies among the lines.
    max_dup_line_char_frac: characters of these copies among all.
    max_top_2_gram, max_top_3_gram, max_top_4_gram: characters of all occurrences of the most
      frequent sequence of so many words, among all.
    max_dup_5_gram, max_dup_6_gram, max_dup_7_gram: characters of sequences of so many words that
      occur more than once, among all.
    max_dup_8_gram, max_dup_9_gram, max_dup_10_gram: the same.
  """
  highs = {
    'dup_para_frac': max_dup_para_frac,
    'dup_para_char_frac': max_dup_para_char_frac,
    'dup_line_frac': max_dup_line_frac,
    'dup_line_char_frac': max_dup_line_char_frac,
    'top_2_gram': max_top_2_gram,
    'top_3_gram': max_top_3_gram,
    'top_4_gram': max_top_4_gram,
    'dup_5_gram': max_dup_5_gram,
    'dup_6_gram': max_dup_6_gram,
    'dup_7_gram': max_dup_7_gram,
    'dup_8_gram': max_dup_8_gram,
    'dup_9_gram': max_dup_9_gram,
    'dup_10_gram': max_dup_10_gram,
  }
  read = {'fineweb': _fineweb, 'dclm': _dclm}[reading]

  def measure(page: Page) -> tuple[Page, Mapping[str, Value]]:
    return page, {'characters': len(page.text), **(read(page) if page.text else {})}

  limits = [Limit(name, name, high=high) for name, high in highs.items()]
  return Rule(measure, (Limit('empty', 'characters', low=1), *limits))


def later_copies(items: Sequence[str]) -> tuple[int, int]:
  """How many items equal an earlier one, and their characters together.

  >>> later_copies(['ab', 'c', 'ab', 'ab'])
  (2, 4)
  """
  first = set(items)
  if len(first) == len(items):
    return 0, 0
  return len(items) - len(first), sum(map(len, items)) - sum(map(len, first))


def _fineweb(page: Page) -> dict[str, Value]:
  text, words = page.text, page.words
  size = len(text)
  values: dict[str, Value] = {}
  for name, items in {
    'para': re.split(r'\n{2,}', text.strip()),
    'line': re.split(r'\n+', text),
  }.items():
    count, characters = later_copies(items)
    values[f'dup_{name}_frac'] = count / len(items)
    values[f'dup_{name}_char_frac'] = characters / size
  spaced, glued = _grams(words, ' '), _grams(words, '')
  for n in TOP:
    counts = Counter(spaced(n))
    if counts:
      most = max(counts.values())
      gram = next(gram for gram, count in counts.items() if count == most)
      values[f'top_{n}_gram'] = len(gram) * most / size
  for n in DUPLICATED:
    values[f'dup_{n}_gram'] = _repeated(glued(n), n) / size
  return values


def _grams(words: Sequence[str], glue: str) -> Callable[[int], list[str]]:
  """From n to all sequences of n words, joined.

  They are slices of one text, which is several times faster than joining each. Such texts can be
  equal though their words are not; datatrove compares them as well.
  """
  text, size = glue.join(words), len(glue)
  starts = [0, *accumulate(len(word) + size for word in words)]
  return lambda n: [text[a : b - size] for a, b in zip(starts, starts[n:], strict=False)]


def _repeated(grams: Sequence[str], n: int) -> int:
  """Characters of the n-grams that were read before, where reading goes on behind such a one."""
  if len(set(grams)) == len(grams):
    return 0
  seen: set[str] = set()
  characters = at = 0
  while at < len(grams):
    gram = grams[at]
    if gram in seen:
      characters += len(gram)
      at += n
    else:
      seen.add(gram)
      at += 1
  return characters


def _dclm(page: Page) -> dict[str, Value]:
  text, values = page.text, {}
  for name, parts in {'para': re.split(r'\n{2,}', text), 'line': text.split('\n')}.items():
    items = [part for part in map(str.strip, parts) if part]
    copies = {item: count for item, count in Counter(items).items() if count > 1}
    characters = sum(len(item) * count for item, count in copies.items())
    alone = len(items) < 2  # nothing to repeat, even if there were a limit of 0
    values[f'dup_{name}_frac'] = 0.0 if alone else sum(copies.values()) / len(items)
    values[f'dup_{name}_char_frac'] = 0.0 if alone else characters / sum(map(len, items))
  words = [word for word in page.words if word[:1].isalnum()]
  sizes = [*map(len, words)]
  size, spaced = sum(sizes) or 1, _grams(words, ' ')
  for n in (*TOP, *DUPLICATED):
    grams = spaced(n)
    counts = Counter(grams)
    most = max(counts.values(), default=1)
    found = 0
    if n in TOP and most > 1:
      longest = max(len(gram) for gram, count in counts.items() if count == most)
      found = most * (longest - (n - 1))  # spaces do not count
    elif most > 1:
      marked = 0  # words before here are counted
      for at, gram in enumerate(grams):
        if counts[gram] > 1:
          found += sum(sizes[max(at, marked) : at + n])
          marked = at + n
    values[f'{"top" if n in TOP else "dup"}_{n}_gram'] = found / size
  return values

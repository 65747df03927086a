"""Pages dropped for words and phrases on a list of the user's, as in C4, arXiv:1910.10683, 2.2."""

import re
from collections.abc import Mapping

from llm_jax.clean.listed import Listed, entries
from llm_jax.clean.page import Limit, Page, Rule
from llm_jax.options import NotNegative, checked

_WORD = re.compile(r'\w+')
# Scripts without white space between words, where no word ends at a mark.
_UNPARTED = re.compile('[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]')


@checked(where='clean.blocked_words')
def make(*, words: Listed, most: NotNegative = 0) -> Rule:
  """Drops a page in which words or phrases of a list stand more than `most` times.

  Case does not count. A word has to stand alone, between characters that are no letters, digits or
  '_', except in scripts that do not part words; between those of a phrase there may be any white
  space and marks. The value `blocked` is how often they stand there.

  Args:
    words: a file, plain or `.gz`, with one word or phrase a line, or the words themselves. No list
      is shipped: what is to be blocked is for the user to say.
    most: how many of them are kept.

  Raises:
    BadInput: the file cannot be read.
  """
  single: set[str] = set()
  phrases: dict[str, set[tuple[str, ...]]] = {}  # by the first word
  inside = []
  for entry in entries(words, 'clean.blocked_words.words'):
    entry = entry.lower()
    parts = tuple(_WORD.findall(entry))
    if not parts or _UNPARTED.search(entry):
      inside.append(entry)
    elif len(parts) == 1:
      single.add(parts[0])
    else:
      phrases.setdefault(parts[0], set()).add(parts)

  def measure(page: Page) -> tuple[Page, Mapping[str, float]]:
    text = page.text.lower()
    found = _WORD.findall(text)
    count = sum(map(single.__contains__, found)) + sum(map(text.count, inside))
    if phrases:
      for i, word in enumerate(found):
        for phrase in phrases.get(word, ()):
          count += tuple(found[i : i + len(phrase)]) == phrase
    return page, {'blocked': count}

  return Rule(measure, (Limit('blocked_words', 'blocked', high=most),))

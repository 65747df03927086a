"""Lines of menus, counters and shouting: the edits of RefinedWeb as DCLM made them.

arXiv:2306.01116, appendix G.2, and arXiv:2406.11794. The other rules of DCLM are those of Gopher in
another reading: the preset 'dclm' of `clean.gopher`, on words parted by white space, and
`reading='dclm'` of `clean.repetition`. Two things differ: DCLM removes URLs from texts, which takes
a list of all top-level domains, and the dots of its 'Read more...' stand for any character.
"""

import re
from collections.abc import Mapping
from typing import Annotated

from llm_jax.clean.page import Limit, Page, Rule, Value
from llm_jax.options import Share, at_least, checked

_COUNTER = re.compile(
  r'\W*\d[\d,.]*+[kmb]?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes'
  r'|downvotes|downloads|views|followers)\W*'
)
_PHRASES = (
  re.compile(r'\s?items in cart', re.IGNORECASE),
  re.compile(r'\s?read more\.\.\.$', re.IGNORECASE),
  re.compile(r'^sign-in\s?', re.IGNORECASE),
)


@checked(where='clean.dclm')
def make(
  *,
  max_capitals: Share = 0.5,
  min_line_words: Annotated[int, at_least(0)] = 2,
  max_phrase_words: Annotated[int, at_least(0)] = 10,
  max_removed: Share | None = 0.05,
) -> Rule:
  """Removes lines, and phrases of shops and menus. The values say how many lines each edit took.

  Args:
    max_capitals: a line with a larger share of capital letters is removed.
    min_line_words: a line with fewer words is removed; blank lines stay.
    max_phrase_words: 'items in cart', 'Read more...' at the end and 'Sign-in' at the start are cut
      from lines of at most so many words.
    max_removed: a page that lost a larger share of its words is dropped; None is off.
  """

  def phrases(line: str) -> str | None:
    if len(line.split(maxsplit=max_phrase_words)) > max_phrase_words:
      return line
    for phrase in _PHRASES:
      rest = phrase.sub('', line)
      if line and (not rest or rest.isspace()):
        return None
      line = rest
    return line

  rules = {
    'capitals': lambda line: sum(map(str.isupper, line)) > max_capitals * len(line),
    'digits': str.isdigit,
    'counter': lambda line: _COUNTER.fullmatch(line.lower()) is not None,
    'few_words': lambda line: line != '' and len(line.split()) < min_line_words,
  }

  def measure(page: Page) -> tuple[Page, Mapping[str, Value]]:
    values: dict[str, Value] = {}
    text = page.text
    for name, removed in rules.items():
      lines = text.split('\n')
      kept = [line for line in lines if not removed(line)]
      values[name] = len(lines) - len(kept)
      text = '\n'.join(kept).strip()
    lines = text.split('\n')
    edited = [*map(phrases, lines)]
    values['phrase'] = sum(new != old for new, old in zip(edited, lines, strict=True))
    after = page.edited('\n'.join(line for line in edited if line is not None).strip())
    words, left = _count(page), _count(after)
    if words:
      values['removed'] = (words - left) / words
    return after, {**values, 'n_words': left}

  return Rule(
    measure, (Limit('empty', 'n_words', low=1), Limit('removed_words', 'removed', high=max_removed))
  )


def _count(page: Page) -> int:
  """How many words there are, without marks."""
  return sum(word[:1].isalnum() for word in page.words)

"""Text that is not prose: Gopher's quality rules, arXiv:2112.11446, appendix A.1.

Numbers and reasons are those of datatrove 0.10, which made FineWeb. Unlike the paper it counts
marks as words where a splitter gives them, as `simple` does, but for the number and the length of
words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

from llm_jax.clean.page import Limit, Page, Rule, Value
from llm_jax.clean.punctuation import PUNCTUATION
from llm_jax.options import NotNegative, Share, at_least, checked
from llm_jax.types import BadInput

STOP_WORDS = ('the', 'be', 'to', 'of', 'and', 'that', 'have', 'with')
# Options that go together: DCLM's reading, which is of words parted by white space.
PRESETS = {
  'dclm': {
    'max_hashes': None,
    'max_ellipses': None,
    'max_symbols': 0.1,
    'bullets': ('●', '•', '*', '-'),
    'ellipses': ('...', '. . .', '…'),
    'occurrences': True,
    'fold_case': True,
  }
}
_MARKS = ''.join(sorted(PUNCTUATION))

Number = Annotated[int, at_least(0)]


def ordered(where: str, **ranges: tuple[float | None, float | None]) -> None:
  """Refuses limits of which the lower one is above the upper one.

  >>> ordered('clean.gopher', words=(9, 5))
  Traceback (most recent call last):
  llm_jax.types.BadInput: clean.gopher: min_words 9 is above max_words 5, so no page would be kept
  """
  for name, (low, high) in ranges.items():
    if low is not None and high is not None and low > high:
      raise BadInput(
        f'{where}: min_{name} {low} is above max_{name} {high}, so no page would be kept'
      )


def _together(*, min_words, max_words, min_word_length, max_word_length, **_) -> None:
  ordered(
    'clean.gopher',
    words=(min_words, max_words),
    word_length=(min_word_length, max_word_length),
  )


@checked(_together, where='clean.gopher')
def make(
  *,
  min_words: Number | None = 50,
  max_words: Number | None = 100_000,
  min_word_length: NotNegative | None = 3.0,
  max_word_length: NotNegative | None = 10.0,
  max_hashes: NotNegative | None = 0.1,
  max_ellipses: NotNegative | None = 0.1,
  max_symbols: NotNegative | None = None,
  max_bullet_lines: Share | None = 0.9,
  max_ellipsis_lines: Share | None = 0.3,
  min_alpha_words: Share | None = 0.8,
  min_stop_words: Number | None = 2,
  bullets: Sequence[str] = ('•', '-'),
  ellipses: Sequence[str] = ('...', '…'),
  stop_words: Sequence[str] = STOP_WORDS,
  occurrences: bool = False,
  fold_case: bool = False,
) -> Rule:
  """Counts of words, marks and lines. A limit of None is off; 'real' words are not only marks.

  Args:
    min_words, max_words: real words.
    min_word_length, max_word_length: characters of a real word, on average.
    max_hashes: '#' by words.
    max_ellipses: ellipses by words.
    max_symbols: both together by words, as DCLM and RedPajama count them.
    max_bullet_lines: share of lines that begin with a bullet.
    max_ellipsis_lines: share of lines that end with an ellipsis.
    min_alpha_words: share of words with a letter.
    min_stop_words: stop words.
    bullets: what a bullet is; Dolma and DCLM have '*' besides.
    ellipses: what an ellipsis is.
    stop_words: what a stop word is.
    occurrences: whether each occurrence of a stop word counts, as in Dolma and DCLM; otherwise each
      stop word counts once.
    fold_case: whether 'The' is a stop word if 'the' is one.
  """
  stop = frozenset(word.lower() if fold_case else word for word in stop_words)
  starts, ends = tuple(bullets), tuple(ellipses)

  def measure(page: Page) -> tuple[Page, Mapping[str, Value]]:
    text, words, lines = page.text, page.words, page.text.splitlines()
    counts = Counter(words)
    real = characters = letters = 0
    for word, count in counts.items():
      if word.isalpha():
        real += count
        letters += count
        characters += count * len(word)
        continue
      if word.strip(_MARKS):  # some character is no mark
        real += count
        characters += count * len(word)
      if any(map(str.isalpha, word)):
        letters += count
    found = {word: n for word, n in counts.items() if (word.lower() if fold_case else word) in stop}
    distinct = {word.lower() for word in found} if fold_case else found
    values: dict[str, Value] = {
      'n_words': len(words),
      'n_real_words': real,
      'stop_words': sum(found.values()) if occurrences else len(distinct),
    }
    if real:
      values['mean_word_length'] = characters / real
    if words:
      hashes, dots = text.count('#'), sum(map(text.count, ends))
      values['hash_ratio'] = hashes / len(words)
      values['ellipsis_ratio'] = dots / len(words)
      values['symbol_ratio'] = (hashes + dots) / len(words)
      values['alpha_words'] = letters / len(words)
    if lines:
      values['bullet_lines'] = sum(line.lstrip().startswith(starts) for line in lines) / len(lines)
      values['ellipsis_lines'] = sum(line.rstrip().endswith(ends) for line in lines) / len(lines)
    return page, values

  return Rule(
    measure,
    (
      Limit('gopher_short_doc', 'n_real_words', low=min_words),
      Limit('gopher_long_doc', 'n_real_words', high=max_words),
      Limit('gopher_below_avg_threshold', 'mean_word_length', low=min_word_length),
      Limit('gopher_above_avg_threshold', 'mean_word_length', high=max_word_length),
      Limit('gopher_too_many_hashes', 'hash_ratio', high=max_hashes),
      Limit('gopher_too_many_ellipsis', 'ellipsis_ratio', high=max_ellipses),
      Limit('gopher_too_many_symbols', 'symbol_ratio', high=max_symbols),
      Limit('gopher_too_many_bullets', 'bullet_lines', high=max_bullet_lines),
      Limit('gopher_too_many_end_ellipsis', 'ellipsis_lines', high=max_ellipsis_lines),
      Limit('gopher_below_alpha_threshold', 'alpha_words', low=min_alpha_words),
      Limit('gopher_enough_stop_words', 'stop_words', low=min_stop_words),
    ),
  )

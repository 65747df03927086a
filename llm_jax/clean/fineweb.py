"""Lists, menus and boilerplate: the rules that FineWeb added, arXiv:2406.17557, section 3.5.

In FineWeb they see the text that `clean.c4` has edited.
"""

from collections.abc import Mapping
from typing import Annotated

from llm_jax.clean.page import Limit, Page, Rule, Value
from llm_jax.clean.punctuation import END_MARKS
from llm_jax.clean.repetition import later_copies
from llm_jax.options import NotNegative, Share, at_least, checked

_END_MARKS = tuple(END_MARKS)


@checked(where='clean.fineweb')
def make(
  *,
  min_line_punct: Share | None = 0.12,
  max_short_lines: Share | None = 0.67,
  max_char_dup: Share | None = 0.01,
  max_newline_per_word: NotNegative | None = 0.3,
  short_line_length: Annotated[int, at_least(0)] = 30,
) -> Rule:
  """Shares of the lines that are not blank. A limit of None is off.

  Args:
    min_line_punct: lines whose last character ends a sentence; a quotation mark behind it, or a
      space, hides it.
    max_short_lines: lines of at most `short_line_length` characters.
    max_char_dup: characters in later copies of lines, among all but line feeds.
    max_newline_per_word: line feeds by words.
    short_line_length: characters.
  """

  def measure(page: Page) -> tuple[Page, Mapping[str, Value]]:
    text = page.text
    lines = [line for line in text.split('\n') if line and not line.isspace()]
    values: dict[str, Value] = {'lines': len(lines)}
    if lines:
      feeds = text.count('\n')
      values['line_punct'] = sum(line.endswith(_END_MARKS) for line in lines) / len(lines)
      values['short_lines'] = sum(len(line) <= short_line_length for line in lines) / len(lines)
      values['char_dup'] = later_copies(lines)[1] / (len(text) - feeds)
      values['newline_per_word'] = feeds / max(len(page.words), 1)
    return page, values

  return Rule(
    measure,
    (
      Limit('empty', 'lines', low=1),
      Limit('line_punct_ratio', 'line_punct', low=min_line_punct),
      Limit('short_line_ratio', 'short_lines', high=max_short_lines),
      Limit('char_dup_ratio', 'char_dup', high=max_char_dup),
      Limit('list_ratio', 'newline_per_word', high=max_newline_per_word),
    ),
  )

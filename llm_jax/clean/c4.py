"""Lines that are no sentences, and pages with too few of them: C4, arXiv:1910.10683, section 2.2.

Numbers and reasons are those of datatrove 0.10. FineWeb uses them without the rule on end marks,
which is the default here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from llm_jax.clean.page import Limit, Page, Rule, Value
from llm_jax.options import at_least, checked

# Options that go together: what the paper says, and what the code does that made the data set.
PRESETS = {
  'paper': {'end_marks': ('.', '?', '!', '"', "'")},
  'tfds': {
    'end_marks': ('.', '?', '!', '"'),
    'min_line_words': 5,
    'min_sentences': 3,
    'count_citations': False,
  },
}
# The rules that remove lines.
LINE_RULES: tuple[str, ...] = (
  'too_long_word',
  'no_terminal_punc',
  'too_few_words',
  'javascript',
  'curly_bracket',
  'policy',
)
_CITATION = re.compile(r'\[\d*\]|\[edit\]|\[citation needed\]')
_POLICY = re.compile(
  'terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies'
)
# A run of end marks with closing quotes before white space. It is looked for at the first mark of a
# run alone, so that a million dots take no longer than a million letters.
_END = re.compile(r"""(?<![.!?])[.!?]++["'”’)\]]*+(?!\S)""")


def sentences(line: str) -> int:
  """How many sentences a line has; the last may lack its end mark.

  spaCy's sentencizer, which FineWeb asks, differs where an abbreviation ends with a full stop.

  >>> sentences('It is. "Is it?" Yes... And'), sentences(' ')
  (4, 0)
  """
  ends = [*_END.finditer(line)]
  rest = line[ends[-1].end() :] if ends else line
  return len(ends) + (rest != '' and not rest.isspace())


@checked(where='clean.c4')
def make(
  *,
  end_marks: Sequence[str] = (),
  min_line_words: Annotated[int, at_least(0)] = 3,
  max_word_length: Annotated[int, at_least(1)] = 1000,
  curly_bracket: Literal['page', 'line', 'off'] = 'page',
  min_sentences: Annotated[int, at_least(0)] | None = 5,
  count_citations: bool = True,
) -> Rule:
  """Removes lines, and marks such as [1] and [edit] from the others. Words are parted by spaces.

  The values say how many lines each rule removed. A page with 'lorem ipsum' is dropped; it and one
  with '{' are read no further than to that line and left unedited, so that values are those of the
  lines before.

  Args:
    end_marks: a line that does not end with one of these is removed, and one that ends with three
      dots; () is off.
    min_line_words: a line with fewer words is removed.
    max_word_length: a line with a word of more characters is removed.
    curly_bracket: what is dropped for a '{': the page, the line or nothing; pages with code or TeX
      have them.
    min_sentences: a page of which fewer remain is dropped; None is off.
    count_citations: whether a mark such as [1] is a word of its line.
  """
  marks = tuple(end_marks)

  def removed(line: str, words: int) -> str:
    """The rule that removes a line without citation marks, or that drops the page."""
    if marks and (not line.endswith(marks) or line.endswith('...')):
      return 'no_terminal_punc'
    if words < min_line_words:
      return 'too_few_words'
    lower = line.lower()
    if 'lorem ipsum' in lower:
      return 'lorem_ipsum'
    if 'javascript' in lower:
      return 'javascript'
    if curly_bracket != 'off' and '{' in line:
      return 'curly_bracket'
    return 'policy' if _POLICY.search(lower) else ''

  def measure(page: Page) -> tuple[Page, Mapping[str, Value]]:
    kept: list[str] = []
    counts = dict.fromkeys(LINE_RULES, 0)
    total = 0
    lines = page.text.splitlines()
    values: dict[str, Value] = {'lines': len(lines), 'lorem_ipsum': 0, 'curly_page': 0}
    for line in map(str.strip, lines):
      words = line.split()
      if len(line) > max_word_length and max(map(len, words)) > max_word_length:
        counts['too_long_word'] += 1
        continue
      if '[' in line:
        line = _CITATION.sub('', line)
        words = words if count_citations else line.split()
      rule = removed(line, len(words))
      if rule == 'lorem_ipsum' or (rule == 'curly_bracket' and curly_bracket == 'page'):
        values['lorem_ipsum' if rule == 'lorem_ipsum' else 'curly_page'] = 1
        return page, {'sentences': total, **counts, **values}
      if rule:
        counts[rule] += 1
        continue
      total += sentences(line)
      kept.append(line)
    return page.edited('\n'.join(kept).strip()), {'sentences': total, **counts, **values}

  return Rule(
    measure,
    (
      Limit('lorem_ipsum', 'lorem_ipsum', high=0),
      Limit('curly_bracket', 'curly_page', high=0),
      Limit('too_few_sentences', 'sentences', low=min_sentences),
    ),
  )

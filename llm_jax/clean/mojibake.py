"""Text that was once read in the wrong charset, such as 'itâ€™s', mended by ftfy."""

import re
from collections.abc import Mapping

from llm_jax.clean.extra import library
from llm_jax.clean.page import Page, Rule, Value

# What UTF-8 looks like when it is read as windows-1252 or as latin-1: the first byte of a character
# and one that continues it. Only lines with such a pair are looked at, as ftfy is slow.
_CONTINUES = '\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ'
_MARKS = re.compile(f'[\xc2-\xf4][{_CONTINUES}]')


def make() -> Rule:
  """Mends lines that hold the marks of a wrong charset; measures how many it changed."""
  ftfy = library('ftfy', 'rule mojibake')
  # Encoding alone: quotation marks, width and line breaks are the choice of rule `unicode`.
  config = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
  )

  def measure(page: Page) -> tuple[Page, Mapping[str, Value]]:
    if page.text.isascii() or not _MARKS.search(page.text):
      return page, {'mended_lines': 0}
    lines = page.text.split('\n')
    mended = [ftfy.fix_text(line, config) if _MARKS.search(line) else line for line in lines]
    count = sum(a != b for a, b in zip(lines, mended, strict=True))
    return page.edited('\n'.join(mended)), {'mended_lines': count}

  return Rule(measure)

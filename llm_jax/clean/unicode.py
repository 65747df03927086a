"""One spelling for what looks the same: Unicode forms, signs nobody sees, line ends and blanks."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Literal

from llm_jax.clean.page import Page, Rule, Value
from llm_jax.options import within

_LINE_ENDS = re.compile('\r\n?|[\x0b\x0c\x85\u2028\u2029]')
_CONTROL = re.compile('[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufff0-\ufffb\ufffe\uffff]')
# Zero-width space, word joiner, byte order mark, soft hyphen, and what turns the direction of text.
_ZERO_WIDTH = re.compile('[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\xad]')
_BLANKS = re.compile('[ \t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]+$', re.M)


def make(
  *,
  form: Literal['none', 'NFC', 'NFD', 'NFKC', 'NFKD'] = 'NFC',
  control: bool = False,
  zero_width: bool = False,
  blank_lines: Annotated[int, within(0, 100)] = 2,
) -> Rule:
  """Brings a text to one spelling; measures how many signs of each sort were removed.

  The joiners U+200C and U+200D stay in any case, as words and emoji are spelt with them.

  Args:
    form: of Unicode. NFC changes nothing that can be seen; NFKC also makes 'ﬁ' two letters and 'x²'
      'x2'.
    control: keep control characters. Tabs and line breaks stay in any case, and every line ends
      with '\\n' afterwards.
    zero_width: keep signs without a width.
    blank_lines: at most so many stand together; more become so many.
  """
  too_many = re.compile(f'\n{{{blank_lines + 2},}}')

  def measure(page: Page) -> tuple[Page, Mapping[str, Value]]:
    text = _LINE_ENDS.sub('\n', page.text)
    removed = {'control': 0, 'zero_width': 0}
    if not control:
      text, removed['control'] = _CONTROL.subn('', text)
    if not zero_width and not text.isascii():
      text, removed['zero_width'] = _ZERO_WIDTH.subn('', text)
    if form != 'none' and not text.isascii():
      text = unicodedata.normalize(form, text)
    text = too_many.sub('\n' * (blank_lines + 1), _BLANKS.sub('', text)).strip('\n')
    return page.edited(text), removed

  return Rule(measure)

r"""Text that is safe to show: what a terminal would obey, or nobody would see, appears as a symbol.

Control characters act on a terminal (ESC ] 52 writes its clipboard), overrides of direction show
text in an order that it does not have (CVE-2021-42574), and characters without a width or a shape
hide text in text. C0 controls and DEL become Unicode's pictures of them, such as ␛; the others are
spelled as Python spells them, such as \u202e. Letters, marks, spaces and symbols stay.

Some invisible characters are part of how people write, and stay where they are used so:
- a joiner (U+200C, U+200D) or a Mongolian variation selector behind a letter or mark of a script in
  SCRIPTS, one at a time: Persian, Hindi and Sinhala cannot be spelled without;
- U+200D between two pictographs, U+FE0E and U+FE0F behind one, and in keycaps: emoji;
- the tag characters of the three flags in use, of England, Scotland and Wales;
- U+FE00 to U+FE02 behind a mathematical symbol or a Chinese character.
Marks of direction (U+200E, U+200F, U+061C) are shown, also in Arabic and Hebrew text.
"""

import re
import unicodedata

# Controls but newline and tab, and line separators, surrogates, Cf without those that have a shape,
# and all else that Unicode calls default-ignorable; the test compares this with `unicodedata`.
HIDDEN = (
  '\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f'
  '\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb'
  '\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff'
)
# Scripts that are written with joiners, as the names of their characters begin.
SCRIPTS = (
  *('ARABIC', 'SYRIAC', 'NKO', 'MANDAIC', 'MONGOLIAN', 'ADLAM', 'MANICHAEAN', 'PHAGS-PA'),
  *('DEVANAGARI', 'BENGALI', 'GURMUKHI', 'GUJARATI', 'ORIYA', 'TAMIL', 'TELUGU', 'KANNADA'),
  *('MALAYALAM', 'SINHALA', 'THAI', 'LAO', 'TIBETAN', 'MYANMAR', 'KHMER', 'BALINESE'),
  *('JAVANESE', 'SUNDANESE'),
)  # fmt: skip
_FLAGS = [
  ''.join(chr(0xE0000 + ord(c)) for c in f'{name}\x7f') for name in ('gbeng', 'gbsct', 'gbwls')
]
_SKIN = '\U0001f3fb-\U0001f3ff'
_SEARCH = re.compile(f'(?<=\U0001f3f4)(?:{"|".join(_FLAGS)})|[{HIDDEN}]')


def visible(text: object, *, lines: bool = True) -> str:
  r"""The text with symbols in the place of what acts or hides; what is shown stays as it is.

  >>> visible('\x1b[2J\u202egnp.exe\x9b')
  '␛[2J\\u202egnp.exe\\x9b'
  >>> visible('👩‍🔬 می‌خواهم') == '👩‍🔬 می‌خواهم'
  True

  Args:
    text: or anything else, as `str` shows it.
    lines: whether newline and tab are kept; else they are shown too, and the result is one line.
  """
  shown = _SEARCH.sub(_shown, str(text))
  return shown if lines else shown.replace('\n', '␊').replace('\t', '␉')


def settled(text: str) -> str:
  """The beginning of a text that grows whose form does not depend on what comes; for streams."""
  return re.sub(f'[{HIDDEN}\ufffd]+\\Z', '', text)  # `$` would also be before a last newline


def _shown(match: re.Match[str]) -> str:
  char, text, at = match[0], match.string, match.start()
  if len(char) > 1 or _belongs(char, text[max(at - 2, 0) : at], text[at + 1 : at + 2]):
    return char
  code = ord(char)
  if code < 0x20:
    return chr(0x2400 + code)
  if code == 0x7F:
    return '␡'
  return (
    f'\\x{code:02x}' if code < 0x100 else f'\\u{code:04x}' if code < 0x10000 else f'\\U{code:08x}'
  )


def _belongs(char: str, before: str, after: str) -> bool:
  """Whether an invisible character is part of how the character before it is written."""
  last = before[-1:]
  if not last or (re.match(f'[{HIDDEN}\n\t]', last) and last not in '\ufe0e\ufe0f'):
    return False
  if char in '\ufe0e\ufe0f':
    if last in '0123456789#*':
      return after == '\u20e3'
    return last not in '\ufe0e\ufe0f' and (_pictograph(last) or last in '‼⁉ℹ〰')
  if '\ufe00' <= char <= '\ufe02':
    return unicodedata.category(last) == 'Sm' or unicodedata.name(last, '').startswith('CJK UNI')
  if char == '\u200d' and _pictograph(before[-2:-1] if last in '\ufe0e\ufe0f' else last):
    return _pictograph(after)
  script = unicodedata.name(last, '').split(' ')[0]
  if '\u180b' <= char <= '\u180f':
    return script == 'MONGOLIAN'
  return char in '\u200c\u200d' and script in SCRIPTS


def _pictograph(char: str) -> bool:
  """Whether it may be a part of an emoji; U+2194 and U+2195 are arrows in faces that shake."""
  return bool(char) and (unicodedata.category(char) == 'So' or bool(re.match(f'[{_SKIN}↔↕]', char)))

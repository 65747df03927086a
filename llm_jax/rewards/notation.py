"""One way to write what is the same: characters, digits, thousands, and styles of LaTeX.

Words in roman type, such as units, come out between ‹ and ›, which no other text has.
"""

import re
import unicodedata

_CHARACTERS = str.maketrans({
  **dict.fromkeys('−–‑﹣－', '-'), **dict.fromkeys('×·∙⋅✕＊', '*'), **dict.fromkeys('÷∕⁄／', '/'),
  **dict.fromkeys('\xa0\u2007\u2008\u2009\u200a\u202f\u3000', ' '),
  **dict.fromkeys('\u200b\u200c\u200d\u200e\u200f\u2060\u2066\u2067\u2068\u2069\ufeff', ''),
  **dict.fromkeys('‹›⦃⦄', ''), **dict.fromkeys('，٬﹐', ','), '．': '.', '٫': '.', '：': ':',
  '；': ';', '’': "'", '（': '(', '）': ')',
  '［': '[', '］': ']', '｛': '{', '｝': '}', '＝': '=', '＋': '+', '％': '%',
  '٪': '%', '！': '!', '＜': '<', '＞': '>', '＄': '$', '≦': '≤', '≧': '≥', '½': '\\frac12',
  '⅓': '\\frac13', '⅔': '\\frac23', '¼': '\\frac14', '¾': '\\frac34', '⅛': '\\frac18',
})  # fmt: skip
_SUPERSCRIPT = re.compile('[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+')
_FOREIGN_DIGIT = re.compile(r'(?![0-9])\d')

_STYLE = re.compile(
  r'\\(?P<style>text(?:bf|it|rm|sf|tt|up|normal|sc)?|math(?:rm|bf|it|sf|tt|bb|cal)|boldsymbol|bm'
  r'|pmb|emph|underline|operatorname|[mh]box|boxed|fbox|(?:text)?color(?:box)?)(?![A-Za-z])\*? ?\{'
)
_ITALIC = ('mathbf', 'mathit', 'boldsymbol', 'bm', 'pmb', 'boxed', 'fbox', 'underline')
_SWITCH = re.compile(
  r'\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|bf|it|rm|bfseries|large|Large|huge|Huge'
  r'|limits|hfill|phantom\{[^{}]*\})(?![A-Za-z])|\\!'
)
_SPACE = re.compile(r'(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|\\(?:thin|nob)space(?![A-Za-z])|~|\s+')
_GROUPED = re.compile(
  r"(?<![\w.,'^/])\d{1,3}(?:(?: \d{3})+|(?:'\d{3})+|(?:\{,\}\d{3})+)(?![\d/]|\{,\}\d| \d)"
)


def characters(text: str) -> str:
  """The same text with the characters of ASCII where it has others for digits, signs and spaces.

  >>> characters('４６，２５０ − x²')
  '46,250 - x^{2}'
  """
  text = text.translate(_CHARACTERS)
  text = _SUPERSCRIPT.sub(lambda m: f'^{{{_digits(m[0].replace("⁻", "-"))}}}', text)
  return _FOREIGN_DIGIT.sub(lambda m: str(unicodedata.decimal(m[0])), text)


def _digits(text: str) -> str:
  return ''.join(str(unicodedata.digit(c)) if c != '-' else c for c in text)


def uniform(text: str) -> str:
  """LaTeX without styles, brackets' sizes, special spaces and spaces between thousands.

  >>> uniform('\\\\mathbf{46\\\\,250}~\\\\text{cm}')
  '46250 ‹cm›'
  """
  text = unstyled(_SWITCH.sub('', characters(text)))
  text = _SPACE.sub(' ', text)
  return _GROUPED.sub(lambda m: re.sub(r"[ ']|\{,\}", '', m[0]), text)


def unstyled(text: str) -> str:
  """`text` without commands for fonts, colours and frames; words in these stand between ‹ and ›."""
  for match in reversed([*_STYLE.finditer(text)][:100]):
    end = closing(text, match.end() - 1)
    if end is None:
      continue
    inner, style = text[match.end() : end], match['style']
    if 'color' in style:
      inner = ''
    elif not (re.search(r'[\d\\]', inner) or (style in _ITALIC and len(inner.strip()) < 2)):
      inner = f'‹{inner.translate(_NO_MARKS)}›' if style not in ('boxed', 'fbox') else inner
    elif match.start() and text[match.start() - 1] in '^_':
      inner = f'{{{inner}}}'
    text = text[: match.start()] + inner + text[end + 1 :]
  return text


_NO_MARKS = str.maketrans({'‹': '', '›': ''})


def closing(text: str, start: int) -> int | None:
  """Where the brace that opens at `start` is closed, or None."""
  depth = 0
  for i in range(start, len(text)):
    if text[i] in '{}' and text[i - 1 : i] != '\\':
      depth += 1 if text[i] == '{' else -1
      if depth == 0:
        return i
  return None

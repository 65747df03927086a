"""1 where a solution ends in the right answer, in the sense of MATH, arXiv:2103.03874, and GSM8K.

rewards/final_answer.py finds the final answer. The gold answer may be bare, a solution that ends in
it, or a list of one in a text, such as '["34"]'.

Two answers are equal if they are the same number, however written (1/2, 0.5, \\frac12, 5e-1); the
same formula after multiplying out; tuples, intervals or matrices with the same brackets and
elements; sets, lists of solutions or unions with the same elements in any order; the same equation
or inequality up to a factor; or the same words. As in MATH, units, currencies and percent signs are
ignored: 50% is 50 and not 0.5. 'x = 5' is the same as '5'.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple

from llm_jax.options import MinP
from llm_jax.rewards.arithmetic import BadExpression, approximate, constant, expand, monic
from llm_jax.rewards.final_answer import (
  LONGEST,
  OTHER_NUMBER,
  final_answer,
  marked,
  number_of,
  plain_markdown,
  stated,
)
from llm_jax.rewards.notation import closing, uniform
from llm_jax.rewards.thoughts import said
from llm_jax.types import BadInput

_MOST_PARTS = 64
_DEEPEST = 8  # a set of tuples of ...
_MOST_BOXES = 8  # that are tried, from the last one


def reward(answer: str, gold: str, *, tolerance: MinP = 1e-6, any_number: bool = True) -> float:
  """1.0 if the final answer of `answer` equals that of `gold`, else 0.0.

  >>> reward(r'So the probability is \\boxed{\\frac{2}{4}}.', '0.5')
  1.0
  >>> reward('The answer is 3 or -2.', '-2, 3'), reward('The answer is (1, 2).', '(2, 1)')
  (1.0, 0.0)

  Args:
    answer: a solution in words, Markdown or LaTeX.
    gold: the right answer, or a solution that ends in it.
    tolerance: the relative error allowed where the gold number has a decimal point. All other
      comparisons are exact.
    any_number: whether the last number counts if no answer is marked as the final one.

  Raises:
    BadInput: the gold answer is empty.
  """
  wanted = gold_answer(gold)
  if not wanted:
    raise BadInput('math_equal: the gold answer is empty; give every prompt an answer')
  found = final_answer(answer, any_number=any_number)
  if found is None:
    return 0.0
  if max(len(found), len(wanted)) > LONGEST:  # right only if it is the same text
    return float(found.split() == wanted.split())
  right = _read(wanted)
  found = _inner(found)
  if right.kind == 'number' and constant(right.terms) is not None:
    found = _LETTER_UNIT.sub('', found)  # beside a formula, the m of '5 m' may be its variable
  if right.kind == 'text' and len(right.text) == 1 and (choice := _CHOICE.match(found)):
    found = choice[1] or choice[2]
  ours = _parsed(found)
  if _has_words(ours) and not _has_words(right) and (one := number_of(found)):
    ours = _parsed(one)
  return float(_same(ours, right, tolerance))


def gold_answer(gold: str) -> str:
  """The answer in a gold text: of a solution the final one, of a list in a text its only element.

  >>> gold_answer('2 + 3 = 5. The answer is: 5'), gold_answer('["34"]'), gold_answer('[3, 4]')
  ('5', '34', '[3, 4]')
  """
  text = gold.strip()
  if re.match(r"\[ *['\"]", text):
    try:
      listed = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
      listed = ()
    if len(listed) == 1 and isinstance(listed[0], str):
      text = listed[0].strip()
  text = said(text).answer or text
  return marked(text) or stated(text) or text


def number(text: str) -> Fraction | None:
  """The rational number that an answer is, with units or not, or None.

  >>> number('$2,500$ apples'), number('7/8'), number('about 7')
  (Fraction(2500, 1), Fraction(7, 8), Fraction(7, 1))
  """
  if len(text) > LONGEST:
    return None
  inner = _LETTER_UNIT.sub('', _inner(text))
  value = _parsed(inner)
  if _has_words(value) and (found := number_of(inner)):
    value = _parsed(found)
  if value.kind == '=' and _is_name(value.text):
    value = value.parts[1]
  return constant(value.terms) if value.kind == 'number' else None


def _inner(found: str) -> str:
  """An answer without the words and styles around it: \\text{The answer is 5}."""
  found = uniform(plain_markdown(found))
  return stated(found.translate(_NO_ROMAN)) or found


_LETTER_UNIT = re.compile(r'(?<=\d) +[CFJKLNVWghms]\.?$')
_NO_ROMAN = str.maketrans({'‹': '', '›': ''})
_CHOICE = re.compile(
  r'(?:.{0,20}(?:option|choice)(?: is)? )?(?:[(‹]+([A-J])[)›]|([A-J])(?:\)|[.:]*(?=\s|$)))',
  re.IGNORECASE,
)

# --- reading it --------------------------------------------------------------------------------


class Value(NamedTuple):
  """A parsed answer.

  `kind` is 'number' (any formula, in `terms`), 'text' (in `text`), '=' (`parts` are its sides and
  `terms` their difference, up to a factor), '<' or '≤' (`terms`, up to a positive factor), 'row',
  'matrix', the brackets of a tuple or interval such as '(]', or a kind whose `parts` have no order:
  'set', '∪' and 'all' (of a chain of inequalities).
  """

  kind: str
  parts: Sequence['Value'] = ()
  terms: Mapping = MappingProxyType({})
  text: str = ''
  decimal: bool = False  # the number was written with a decimal point


_ANY_ORDER = ('set', '∪', 'all')

_CLEANING = [
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    (r'(?<!\\)\\[()\[\]]', ''),
    (r'\\?[$%]|[€£¥₹₽₩]|\\(?:euro|pounds|yen)(?![a-z])', ''),
    (
      r'(?:°|\^ ?(?:\{ ?\\circ ?\}|\\circ(?![a-z]))|\\degree(?![a-z])) ?(?:‹?[CFK]›?(?![a-z]))?',
      '',
    ),
    (r'(?<=\d)\{,\}(?=\d)', '.'),
    (r'(?<=\d)(?:\.\.\.|…|\\[cl]?dots(?![a-z]))', '…'),
    (r'^ ?(?:\\(?:approx|simeq|sim)(?![a-z])|[≈~]) ?', ''),
    (
      r'^ ?‹? ?(?:about|approximately|roughly|exactly|around|only|USD|EUR|Rs\.?) ?›? ?(?=[-\d.\\])',
      '',
    ),
    (r'(?<=\d) x (?=\d)', '*'),
    (r'·', '*'),
    (r'√ ?(\d+(?:\.\d+)?)', r'\\sqrt{\1}'),
    (r'√', r'\\sqrt '),
    (r'π', r'\\pi '),
    (r'∞', r'\\infty '),
    (r'(?:\b(?:minus|negative) +|[负負])(?=[\d.\\])', '-'),
    (r'(?:\\approx|\\simeq)(?![a-z])|≈', '='),
    (r'(?<=\d) ?[万萬만](?!\d)', '*10^4 '),
    (r'(?<=\d) ?[亿億억](?!\d)', '*10^8 '),
    (r'(?<=\d)千(?![\d克米瓦])', '*10^3 '),
    (r'(?<=\d)百(?![\d分])', '*10^2 '),
    (r'\\(?:cdot|times|ast)(?![a-z])', '*'),
    (r'\\div(?![a-z])', '/'),
    (r'\\(?:le|leq|leqslant)(?![a-z])|<=', '≤'),
    (r'\\(?:ge|geq|geqslant)(?![a-z])|>=', '≥'),
    (r'\\lt(?![a-z])', '<'),
    (r'\\gt(?![a-z])', '>'),
    (r'\\[cdt]frac', r'\\frac'),
    (r'\\(?:\{|lbrace)', '⦃'),
    (r'\\(?:\}|rbrace)', '⦄'),
    (r'\\cup(?![a-z])', '∪'),
    (r'\\pm(?![a-z])', '±'),
    (r'^ *[A-Za-z] ?\\in(?![a-z])', ''),
    (r'‹ ?(?:and|or) ?›|\b(?:and|or)\b', ','),
    (r'(?<=\d) ?‹? ?thousand(?![a-z]) ?›?', '*10^3 '),
    (r'(?<=\d) ?‹? ?million(?![a-z]) ?›?', '*10^6 '),
    (r'(?<=\d) ?‹? ?billion(?![a-z]) ?›?', '*10^9 '),
  )
]
_THOUSANDS = re.compile(r'(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])')
_MATRIX = re.compile(r'\\begin\{([pb]matrix)\}(.*)\\end\{\1\}')
_NAME = re.compile(r'[A-Za-z\\‹› ]+(?:\([A-Za-z\d, ]+\))?(?:_\{?\w+\}?)?')
_WORDS = re.compile(r"(?=.*[A-Za-z])[A-Za-z‹›'. -]+|\([A-Za-z]\)|‹\([A-Za-z]\)›")
_SHORT_UNITS = (
  r'(?:cm|mm|km|dm|nm|m|mi|ft|yd|in|ha|kg|mg|g|lb|oz|ml|mL|cl|dl|hr|h|min|sec|ms|s|Hz|kHz|kW|kJ|kN'
  r'|Pa|kPa|mol|mph|rad|deg|Fr|Rs|kr|zł|Kč)'
)
_OTHER_CJK = (
  r'[十百半多余餘几幾兆万萬亿億만억천백조여]|千(?![克米瓦])|分之|以[上下]|未[满満]|이상|이하|미만'
)
_CJK = r'[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]'
_UNIT = re.compile(
  r'(?:‹(?! ?(?:st|nd|rd|th)›)[^‹›]*›'
  rf'|(?<=\d)(?!(?:[mghs])\b){_SHORT_UNITS}\b'
  rf'|(?<=[ ›])(?:{_SHORT_UNITS}/{_SHORT_UNITS}|(?![mghs]\b){_SHORT_UNITS})\b'
  rf'|(?<=[ ›])(?!(?:{OTHER_NUMBER})\b)[A-Za-zÀ-ɏ]{{3,}}\b'
  rf'|(?<=[ ›\d])(?!(?:{OTHER_NUMBER})\b)[Ѐ-ۿऀ-෿฀-๿]+\.?'
  rf'|(?<=[\d)›}} ])(?!{_OTHER_CJK}){_CJK}+'
  r') ?›?\.?(?: ?\^ ?\{? ?[23] ?\}?)? ?/? ?$'
)
# Letters that are words, and no product of variables.
_PROSE = re.compile(r'(?<![\\A-Za-z])(?!sqrt)(?:[A-Za-z]{4,}|[A-Za-z]{2,} [A-Za-z]{2,})')
_MIXED = re.compile(r'(?<![\w.)/^])(\d+) (\d+)/(\d+)(?![\w.])')
_WHOLE_BEFORE = re.compile(r'(?<![\w.)/^])(\d+) ?$')


def _read(text: str) -> Value:
  return _parsed(uniform(plain_markdown(text)))


def _parsed(text: str) -> Value:
  """What a text in uniform notation says."""
  for pattern, replacement in _CLEANING:
    text = pattern.sub(replacement, text)
  return _value(text, 0)


def _value(text: str, depth: int) -> Value:
  """What a cleaned text says."""
  text = text.strip().rstrip('.,').strip()
  while text.startswith('{') and closing(text, 0) == len(text) - 1:
    text = text[1:-1].strip()
  if depth > _DEEPEST:
    return _as_text(text)
  within = lambda pieces: tuple(_value(piece, depth + 1) for piece in pieces if piece.strip())
  if not re.search(r'[(\[⦃]', text):
    text = _THOUSANDS.sub(lambda match: match[0].replace(',', ''), text)
  if len(pieces := _split(text, ',')) > 1:
    return Value('set', within(pieces))
  if len(pieces := _split(text, '∪')) > 1:
    return Value('∪', within(pieces))
  if text.count('±') == 1:
    return Value('set', within([text.replace('±', '+'), text.replace('±', '-')]))
  if len(sides := _split(text, '=<>≤≥')) > 1:
    return _relation(text, sides, depth)
  if matrix := _MATRIX.fullmatch(text):
    rows = [row for row in matrix[2].split('\\\\') if row.strip()]
    return Value('matrix', [Value('row', within(row.split('&'))) for row in rows])
  if _is_one_group(text):
    pieces = _split(text[1:-1], ',')
    if text[0] == '⦃':
      parts = within(pieces)
      return parts[0] if len(parts) == 1 else Value('set', parts)
    if len(pieces) > 1:
      return Value(text[0] + text[-1], within(pieces))
  return _formula(text)


def _split(text: str, separators: str) -> list[str]:
  """`text` cut at the separators that no bracket encloses, or [text] if these are too many."""
  pieces, start, depth = [], 0, 0
  for i, character in enumerate(text):
    if character in '([{⦃':
      depth += 1
    elif character in ')]}⦄':
      depth -= 1
    elif depth == 0 and character in separators:
      pieces.append(text[start:i])
      start = i + 1
  pieces.append(text[start:])
  return pieces if len(pieces) <= _MOST_PARTS else [text]


def _is_one_group(text: str) -> bool:
  """Whether the bracket that `text` opens with is closed by its last character."""
  if len(text) < 2 or text[0] not in '([⦃' or text[-1] not in ')]⦄':
    return False
  depth = 0
  for character in text[:-1]:
    depth += (character in '([⦃') - (character in ')]⦄')
    if depth == 0:
      return False
  return True


def _relation(text: str, sides: list[str], depth: int) -> Value:
  """The value of an equation or inequality, or of a chain of these."""
  at, signs = -1, ''
  for side in sides[:-1]:
    at += len(side) + 1
    signs += text[at]
  left, right = sides[0].strip(), sides[-1].strip()
  if set(signs) == {'='}:
    parts = (_value(left, depth + 1), _value(right, depth + 1))
    try:
      terms = monic(expand(f'({_plain(left)})-({_plain(right)})'))[1]
    except BadExpression:
      terms = {}
    return Value('=', parts, terms, text=left)
  if len(sides) > 2:
    links = zip(sides, signs, sides[1:])
    return Value('all', tuple(_relation(a + sign + b, [a, b], depth) for a, sign, b in links))
  if signs in '>≥':
    left, right, signs = right, left, '<≤'['>≥'.index(signs)]
  try:
    lead, terms = monic(expand(f'({_plain(right)})-({_plain(left)})'))
  except BadExpression:
    return _as_text(text)
  return Value(signs, terms=terms if lead > 0 else {key: -value for key, value in terms.items()})


def _formula(text: str) -> Value:
  """The value of what has no commas, relations or brackets around it."""
  if _WORDS.fullmatch(text):
    return _as_text(text.strip('‹()›'))
  bare = _without_units(text)
  if _PROSE.search(bare):
    return _as_text(text)
  try:
    return Value('number', terms=expand(_plain(bare)), decimal='.' in bare)
  except BadExpression:
    return _as_text(text)


def _as_text(text: str) -> Value:
  return Value('text', text=re.sub(r"[\s‹›{}'\"]", '', text).lower().rstrip('.'))


def _without_units(text: str) -> str:
  while match := _UNIT.search(text):
    rest = text[: match.start()].rstrip(' /')
    if not re.search(r'\d|\\pi', rest):
      break
    text = rest
  return text


def _plain(text: str) -> str:
  """LaTeX as a formula for `expand`: \\frac, \\sqrt and braces become signs and parentheses."""
  out, i = '', 0
  while i < len(text):
    if text.startswith('\\frac', i):
      above, i = _argument(text, i + len('\\frac'))
      below, i = _argument(text, i)
      whole = _WHOLE_BEFORE.search(out)
      if whole and above.isdecimal() and below.isdecimal():
        out = f'{out[: whole.start()]}({whole[1]}+{above}/{below})'
      else:
        out += f'(({above})/({below}))'
    elif text.startswith('\\sqrt', i):
      index = re.compile(r' ?\[(\d+)\]').match(text, i + len('\\sqrt'))
      inner, i = _argument(text, index.end() if index else i + len('\\sqrt'))
      out += f'(({inner})^(1/{index[1]}))' if index else f'sqrt({inner})'
    else:
      out += {'{': '(', '}': ')'}.get(text[i], text[i])
      i += 1
  return _MIXED.sub(r'(\1+\2/\3)', out)


def _argument(text: str, start: int) -> tuple[str, int]:
  """The argument of a LaTeX command, as a formula, and where it ends."""
  while text[start : start + 1] == ' ':
    start += 1
  if text[start : start + 1] == '{':
    end = closing(text, start)
    if end is None:
      raise BadExpression('a brace is not closed')
    return _plain(text[start + 1 : end]), end + 1
  command = re.compile(r'\\[a-z]+|.').match(text, start)
  if command is None or command[0] in ('\\frac', '\\sqrt'):
    raise BadExpression('a command has no argument')
  return command[0], command.end()


# --- comparing ---------------------------------------------------------------------------------


def _has_words(value: Value) -> bool:
  return value.kind == 'text' or (value.kind != '=' and any(map(_has_words, value.parts)))


def _same(ours: Value, gold: Value, tolerance: float) -> bool:
  if ours.kind == '=' and gold.kind != '=':
    return _is_name(ours.text) and _same(ours.parts[1], gold, tolerance)
  if gold.kind == '=' and ours.kind != '=':
    return _is_name(gold.text) and _same(ours, gold.parts[1], tolerance)
  if ours.kind != gold.kind or len(ours.parts) != len(gold.parts):
    return False
  if gold.kind == 'number':
    return ours.terms == gold.terms or (gold.decimal and _close(ours, gold, tolerance))
  if gold.kind == '=' and gold.terms and ours.terms == gold.terms:
    return True
  if gold.kind in _ANY_ORDER:
    left = list(gold.parts)
    for part in ours.parts:
      match = next((i for i, other in enumerate(left) if _same(part, other, tolerance)), None)
      if match is None:
        return False
      left.pop(match)
    return True
  if gold.parts:
    return all(_same(a, b, tolerance) for a, b in zip(ours.parts, gold.parts))
  return ours.terms == gold.terms and ours.text == gold.text


def _is_name(side: str) -> bool:
  """Whether a side of an equation names what the other side is the value of, or computes it."""
  return bool(_NAME.fullmatch(side)) or not re.search(r'[A-Za-z\\]', side)


def _close(ours: Value, gold: Value, tolerance: float) -> bool:
  a, b = constant(ours.terms), constant(gold.terms)
  if a is not None and b is not None:
    return abs(a - b) <= tolerance * abs(b)
  near, wanted = approximate(ours.terms), approximate(gold.terms)
  if near is None or wanted is None:
    return False
  return abs(near - wanted) <= tolerance * abs(wanted)

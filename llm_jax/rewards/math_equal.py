"""1 where a solution ends in the right answer, in the sense of MATH, arXiv:2103.03874, and GSM8K.

The final answer is the first of these that exists: the content of the last \\boxed{...}; what
follows the last '####'; what follows the first 'The answer is' (`exact_answer` says why the first);
the last number. Thoughts are not read (rewards/thoughts.py), and if a text contains
<answer>...</answer>, only what the last of them holds. The gold answer may be bare or a solution.

Two answers are equal if they are the same number, however written (1/2, 0.5, \\frac12, 5e-1); the
same formula after multiplying out; tuples, intervals or matrices with the same brackets and
elements; sets, lists of solutions or unions with the same elements in any order; the same equation
or inequality up to a factor; or the same words. As in MATH, units, currencies and percent signs are
ignored: 50% is 50 and not 0.5. 'x = 5' is the same as '5'.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from llm_jax.rewards.arithmetic import BadExpression, approximate, constant, expand, monic
from llm_jax.rewards.thoughts import said
from llm_jax.types import BadInput

_LONGEST = 400  # characters; a longer final answer is right only if it is the same text
_MOST_PARTS = 64
_DEEPEST = 8  # a set of tuples of ...
_MOST_BOXES = 8  # that are tried, from the last one


def reward(answer: str, gold: str, *, tolerance: float = 1e-6, any_number: bool = True) -> float:
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
  wanted = _marked(gold) or gold.strip()
  if not wanted:
    raise BadInput('math_equal: the gold answer is empty; give every prompt an answer')
  found = final_answer(answer, any_number=any_number)
  if found is None:
    return 0.0
  if max(len(found), len(wanted)) > _LONGEST:
    return float(found.split() == wanted.split())
  right = _read(wanted)
  if right.kind == 'number' and constant(right.terms) is not None:
    found = _LETTER_UNIT.sub('', found)  # beside a formula, the m of '5 m' may be its variable
  return float(_same(_read(found), right, tolerance))


# --- finding the final answer ------------------------------------------------------------------

_BOX = re.compile(r'\\(?:boxed|fbox)(?![a-z])\s*')
_STATED = re.compile(
  r'[Tt]he (?:final |correct )?answer is\b'
  r'(?:[\s*_`:$]|\\[(\[]|(?:about|approximately|exactly|roughly)\b)*'
)
_SENTENCE_ENDS = re.compile(
  r'\n|[.!?](?=[\s*$]|$)|;| \((?=[a-z]{2})|,? (?:because|since|as|so|which|where|but|not|if|for)\b'
)
_NUMBER = re.compile(r'(?<![\w)])-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?')
_LETTER_UNIT = re.compile(r'(?<=\d) +[CFJKLNVWghms]\.?$')


def final_answer(text: str, *, any_number: bool = True) -> str | None:
  """The text of the final answer of a solution, or None."""
  text = said(text).answer
  inside = tagged(text)
  text = text if inside is None else inside
  found = _marked(text) or stated(text)
  if found is None and inside is not None and len(text) <= _LONGEST and '\n' not in text.strip():
    found = text.strip()
  if found is None and any_number and (numbers := _NUMBER.findall(text)):
    found = numbers[-1].rstrip(',')
  return found or None


def tagged(text: str) -> str | None:
  """What the last <answer>...</answer> holds, or None."""
  before, closed, _ = text.rpartition('</answer>')
  start = before.rfind('<answer>')
  return before[start + len('<answer>') :] if closed and start >= 0 else None


def stated(text: str) -> str | None:
  """What follows the first 'The answer is', to the end of its sentence, or None."""
  match = _STATED.search(text)
  if match is None:
    return None
  rest = text[match.end() :]
  if match[0].endswith(' **'):
    rest = rest.replace('**', '', 1)  # the end of what is printed in bold
  return _SENTENCE_ENDS.split(rest, maxsplit=1)[0].strip(' *_`')


def _marked(text: str) -> str | None:
  """What the last box holds, or what follows the last '####', or None."""
  starts = [match.end() for match in _BOX.finditer(text)]
  for start in starts[: -_MOST_BOXES - 1 : -1]:
    window = text[start : start + 4 * _LONGEST]
    if not window.startswith('{'):
      return re.split(r'[\s$]', window, maxsplit=1)[0]
    end = _closing(window, 0)
    if end is not None:
      return window[1:end].strip()
  _, marker, after = text.rpartition('####')
  return after.strip().partition('\n')[0] if marker else None


def _closing(text: str, start: int) -> int | None:
  """Where the brace that opens at `start` is closed, or None."""
  depth = 0
  for i in range(start, len(text)):
    if text[i] in '{}' and text[i - 1 : i] != '\\':
      depth += 1 if text[i] == '{' else -1
      if depth == 0:
        return i
  return None


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

_CHARACTERS = str.maketrans({
  '−': '-', '–': '-', '×': '*', '·': '*', '÷': '/', '√': '\\sqrt ', 'π': '\\pi ', '∞': '\\infty ',
  '²': '^2', '³': '^3', '°': '', '£': '', '€': '', '\xa0': ' ', '‹': '', '›': '', '⦃': '', '⦄': '',
})  # fmt: skip
_CLEANING = [
  (re.compile(pattern), replacement)
  for pattern, replacement in (
    (r'\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![a-z])|\\!|(?<!\\)\\[()\[\]]', ''),
    (r'(?<!\\)\\[,;:> ]|\\q?quad(?![a-z])|~|\s+', ' '),
    (r'\\?[$%]|\^ ?(?:\{ ?\\circ ?\}|\\circ(?![a-z]))|\\degree', ''),
    (r'\{,\}', ','),
    (r'\\(?:cdot|times|ast)(?![a-z])', '*'),
    (r'\\div(?![a-z])', '/'),
    (r'\\(?:le|leq|leqslant)(?![a-z])|<=', '≤'),
    (r'\\(?:ge|geq|geqslant)(?![a-z])|>=', '≥'),
    (r'\\lt(?![a-z])', '<'),
    (r'\\gt(?![a-z])', '>'),
    (r'\\[cdt]frac', r'\\frac'),
    (r'\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox) ?\{([^{}]*)\}', r'‹\1›'),
    (r'\\(?:\{|lbrace)', '⦃'),
    (r'\\(?:\}|rbrace)', '⦄'),
    (r'\\cup(?![a-z])', '∪'),
    (r'\\pm(?![a-z])', '±'),
    (r'^ *[A-Za-z] ?\\in(?![a-z])', ''),
    (r'‹ ?(?:and|or) ?›|\b(?:and|or)\b', ','),
    (r'(?<=\d) ?‹? ?thousand\b ?›?', '*10^3 '),
    (r'(?<=\d) ?‹? ?million\b ?›?', '*10^6 '),
    (r'(?<=\d) ?‹? ?billion\b ?›?', '*10^9 '),
  )
]
_THOUSANDS = re.compile(r'(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])')
_MATRIX = re.compile(r'\\begin\{([pb]matrix)\}(.*)\\end\{\1\}')
_NAME = re.compile(r'[A-Za-z\\‹› ]+(?:\([A-Za-z]\))?(?:_\{?\w+\}?)?')
_WORDS = re.compile(r"(?=.*[A-Za-z])[A-Za-z‹›'. -]+|\([A-Za-z]\)|‹\([A-Za-z]\)›")
_SHORT_UNITS = r'(?:cm|mm|km|m|mi|ft|yd|in|kg|mg|g|lb|oz|ml|mL|hr|h|min|sec|s)'
_UNIT = re.compile(
  r'(?:‹[^‹›]*›'
  rf'|(?<=\d)(?!(?:[mghs])\b){_SHORT_UNITS}\b'
  rf'|(?<=[ ›])(?:{_SHORT_UNITS}/{_SHORT_UNITS}|(?![mghs]\b){_SHORT_UNITS})\b'
  r'|(?<=[ ›])(?!(?:squared|cubed|factorial|choose|dozen|hundred|trillion|sqrt)\b)[A-Za-z]{3,}\b'
  r') ?›?\.?(?: ?\^ ?\{? ?[23] ?\}?)? ?/? ?$'
)
_MIXED = re.compile(r'(?<![\w.)/^])(\d+) (\d+)/(\d+)(?![\w.])')
_WHOLE_BEFORE = re.compile(r'(?<![\w.)/^])(\d+) ?$')


def _read(text: str) -> Value:
  text = text.translate(_CHARACTERS)
  for pattern, replacement in _CLEANING:
    text = pattern.sub(replacement, text)
  return _value(text, 0)


def _value(text: str, depth: int) -> Value:
  """What a cleaned text says."""
  text = text.strip().rstrip('.,').strip()
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
    end = _closing(text, start)
    if end is None:
      raise BadExpression('a brace is not closed')
    return _plain(text[start + 1 : end]), end + 1
  command = re.compile(r'\\[a-z]+|.').match(text, start)
  if command is None or command[0] in ('\\frac', '\\sqrt'):
    raise BadExpression('a command has no argument')
  return command[0], command.end()


# --- comparing ---------------------------------------------------------------------------------


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

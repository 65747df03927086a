"""Numbers of JSON, written digit by digit: whether what stands there can still become one.

There are at most DIGITS digits, so that every reader reads what was written: a float has 15 decimal
digits, and bounds that are compared as decimals hold for the floats as well.
"""

import functools
import re

from llm_jax.text.grammar import Number

DIGITS = 15
_WHOLE = re.compile(r'-?(?:0|[1-9]\d{0,14})')
_REAL = re.compile(r'-?(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?(?:[eE][+-]?\d{1,2})?')
_BEGUN = re.compile(
  r'-?(?:0|[1-9]\d{0,14})?|-?(?:0|[1-9]\d{0,14})(?:\.\d{0,15}|(?:\.\d{1,15})?[eE][+-]?\d{0,2})'
)
_PARTS = re.compile(r'(-?)(\d*)(?:(\.)(\d*))?')


def is_bounded(rule: Number) -> bool:
  """Whether it matters which digits a number has."""
  return not (rule.low is None and rule.high is None and rule.step is None)


def is_number(text: str, rule: Number) -> bool:
  """Whether a text is a number that a rule allows.

  >>> is_number('1.5', Number()), is_number('01', Number()), is_number('7', Number(True, step=2))
  (True, False, False)
  """
  if (_WHOLE if rule.whole else _REAL).fullmatch(text) is None:
    return False
  if not is_bounded(rule):
    return True
  if 'e' in text or 'E' in text or sum(c.isdigit() for c in text) > DIGITS:
    return False
  whole, _, fraction = text.partition('.')
  scale = len(fraction)
  value = int(whole + fraction)
  low, high, step = _limits(rule, scale)
  return low <= value <= high and value % step == 0


def can_become(text: str, rule: Number) -> bool:
  """Whether a text is a number that a rule allows, or the beginning of one.

  >>> [can_become(text, Number(True, 5, 17)) for text in ('2', '1', '-', '17')]
  [False, True, False, True]
  """
  if not is_bounded(rule):
    begun = _WHOLE.fullmatch(text) or text in ('', '-')
    return bool(begun if rule.whole else _BEGUN.fullmatch(text))
  parts = _PARTS.fullmatch(text)
  if parts is None or (rule.whole and parts[3]):
    return False
  minus, whole, dot, fraction = parts[1], parts[2], parts[3], parts[4] or ''
  if not whole:
    signs = [minus] if minus else ['', '-']
    return not dot and any(can_become(f'{s}{d}', rule) for s in signs for d in range(10))
  if len(whole) > 1 and whole[0] == '0':
    return False
  if dot:
    scale = DIGITS - len(whole)
    if len(fraction) > scale or scale == 0:
      return False
    least = 10 ** (scale - len(fraction))
    return _hits(int(whole + fraction) * least, least, scale, minus, rule)
  for more in range(DIGITS - len(whole) + 1 if whole != '0' else 1):
    scale = 0 if rule.whole else DIGITS - len(whole) - more
    if _hits(int(whole) * 10 ** (more + scale), 10 ** (more + scale), scale, minus, rule):
      return True
  return False


def shortened(text: str, rule: Number) -> str:
  """The same text, or another one after which just the same may follow.

  >>> shortened('-270.5', Number()), shortened('0', Number())
  ('-111.1', '0')
  """
  if is_bounded(rule):
    return text
  head, dot, tail = text.partition('.')
  head = head if head.lstrip('-') in ('', '0') else re.sub(r'\d', '1', head)
  return head + dot + re.sub(r'\d', '1', tail)


def _hits(first: int, count: int, scale: int, minus: str, rule: Number) -> bool:
  """Whether one of `count` numbers from `first` on, in units of 10^-scale, is allowed."""
  low, high, step = _limits(rule, scale)
  least, most = first, first + count - 1
  if minus:
    least, most = -most, -least
  least, most = max(least, low), min(most, high)
  return -(-least // step) * step <= most


@functools.lru_cache(maxsize=4096)
def _limits(rule: Number, scale: int) -> tuple[int, int, int]:
  """The least and the greatest number, and the step, in units of 10^-scale."""
  unit, edge = 10**scale, 10 ** (DIGITS + scale)
  low, high = -edge, edge
  if rule.low is not None:
    least = rule.low * unit
    low = max(low, -(-least.numerator // least.denominator))
    low += rule.above and low == least
  if rule.high is not None:
    most = rule.high * unit
    high = min(high, most.numerator // most.denominator)
    high -= rule.below and high == most
  return low, high, (rule.step or 0) * unit or 1


def possible(rule: Number) -> bool:
  """Whether there is such a number.

  >>> possible(Number(True, 7, 6)), possible(Number(step=7))
  (False, True)
  """
  return can_become('', rule)

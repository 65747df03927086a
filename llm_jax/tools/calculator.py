"""Exact arithmetic: a call is an expression such as `48 / 2 + 1,000`, the result its value."""

import decimal
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated

from llm_jax.options import checked, within
from llm_jax.rewards.arithmetic import evaluate

_LARGEST_IN_FULL = 10**30


@checked(where='calculator')
def make(*, digits: Annotated[int, within(1, 100)] = 10) -> Callable[[str], str]:
  """A function that works out `+ - * / // % **` with signs and parentheses.

  >>> calculate = make(digits=4)
  >>> calculate('2 * (3 + 4)'), calculate('10 / 3')
  ('14', '3.333')

  Args:
    digits: significant digits of a result that is not a whole number, rounded half to even. Whole
      numbers below 1e30 are written in full.

  Returns:
    A function from an expression to its value. It raises ValueError for a text that is not an
    expression, for a division by zero, and for numbers that grow too large.

  Raises:
    BadInput: `digits` is not between 1 and 100.
  """
  return lambda call: show(evaluate(call), digits)


def show(value: Fraction, digits: int) -> str:
  """A number in decimal notation, or with an exponent if it is very large or small."""
  if value.denominator == 1 and abs(value) < _LARGEST_IN_FULL:
    return str(value.numerator)
  context = decimal.Context(prec=digits, Emax=9999, Emin=-9999)
  rounded = context.divide(decimal.Decimal(value.numerator), decimal.Decimal(value.denominator))
  rounded = rounded.normalize(context)
  return f'{rounded:f}' if -7 < rounded.adjusted() < 30 else f'{rounded:e}'

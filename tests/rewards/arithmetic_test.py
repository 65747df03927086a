"""Values by hand and by Python's own arithmetic, and the limits."""

import contextlib
import random
import time
from fractions import Fraction

import pytest

from llm_jax.rewards.arithmetic import (
  BadExpression,
  approximate,
  constant,
  evaluate,
  expand,
  monic,
  parse,
)


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('1 + 2 * 3', 7),
    ('(1 + 2) * 3', 9),
    ('8 / 3', Fraction(8, 3)),
    ('0.1 + 0.2', Fraction(3, 10)),
    ('.5 * 4.', 2),
    ('1,250 + 1,000,000.5', Fraction(2002501, 2)),
    ('1.5e3', 1500),
    ('6 × 2 ÷ 3 − 1', 3),
    ('-2 ** 2', -4),
    ('2 ** -2', Fraction(1, 4)),
    ('2 ^ 3 ^ 2', 512),
    ('--3', 3),
    ('+-+3', -3),
    ('7 - 4 - 2', 1),
    ('16 / 4 / 2', 2),
    ('-7 // 2', -4),
    ('-7 % 3', 2),
    ('7.5 % 2', Fraction(3, 2)),
    ('8 / (3 - 8 / 3)', 24),
  ],
)
def test_the_value(text, wanted):
  assert evaluate(text) == wanted
  assert evaluate(parse(text)) == wanted


def test_any_formula_has_the_value_that_python_gives_it():
  rng = random.Random(0)

  def formula(depth):
    if depth == 0:
      return str(rng.randint(0, 20))
    left, right = formula(rng.randrange(depth)), formula(rng.randrange(depth))
    return rng.choice(['{} + {}', '({} - {})', '{} * {}', '{} // {}', '{} % {}', '-{}*{}']).format(
      left, right
    )

  for _ in range(500):
    text = formula(6)
    try:
      wanted = eval(text)  # our own text, whole numbers only
    except ZeroDivisionError:
      with pytest.raises(BadExpression, match='division by zero'):
        evaluate(text)
    else:
      assert evaluate(text) == wanted, text


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'breaks off'),
    ('1 +', 'breaks off'),
    ('(1 + 2', 'not closed'),
    ('1 + 2)', 'after a complete expression'),
    ('2(3)', 'after a complete expression'),
    ('2 3', 'after a complete expression'),
    ('12,34', 'no arithmetic'),
    ('* 3', 'stands where a number should'),
    ('x + 1', 'no arithmetic'),
    ('__import__("os")', 'no arithmetic'),
    ('1 / (2 - 2)', 'division by zero'),
    ('1 % 0', 'division by zero'),
    ('0 ** -1', 'division by zero'),
    ('2 ** 0.5', 'not whole'),
    ('9 ** 9 ** 9', 'too large'),
    ('2 ** 1001', 'too large'),
    ('*'.join(['9**999'] * 50), 'bits'),
    ('1+' * 200 + '1', '401 characters'),
    ('(' * 100 + '1' + ')' * 100, 'levels'),
    ('-' * 100 + '1', 'levels'),
  ],
)
def test_what_is_refused(text, message):
  with pytest.raises(BadExpression, match=message) as error:
    evaluate(text)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    ('2x(x + 1)', '2x^2 + 2x'),
    ('(a + b)(a - b)', 'a^2 - b^2'),
    ('sqrt(12)', '2sqrt(3)'),
    ('sqrt(2)sqrt(6)', '2sqrt(3)'),
    ('sqrt(1/2)', 'sqrt(2)/2'),
    ('1/(sqrt(5) - sqrt(2))', '(sqrt(5) + sqrt(2))/3'),
    ('sqrt(2)^3', '2sqrt(2)'),
    ('sqrt(-4)', '2i'),
    ('8^(1/3)', '2'),
    ('(-8)^(1/3)', '-2'),
    ('x^3/x', 'x^2'),
    ('x^0', '1'),
    ('1/(2x + 2)', '(1/2)/(x + 1)'),
    ('2^x * 3', '3 * 2^x'),
    ('sqrt(x + 1)', 'sqrt(1 + x)'),
    ('\\pi r^2', 'r * r * \\pi'),
    ('x - x', '0'),
  ],
)
def test_equal_formulas_expand_to_the_same(one, other):
  assert expand(one) == expand(other)


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    ('xy', 'x + y'),
    ('sqrt(2)', '1.41421356'),
    ('2^x', 'x^2'),
    ('sqrt(x)', 'x'),
    ('1/(x+1)', '1/x'),
  ],
)
def test_different_formulas_do_not(one, other):
  assert expand(one) != expand(other)


def test_expanding_a_sum_is_a_homomorphism():
  rng = random.Random(1)
  term = lambda: f'{rng.randint(-4, 4)}{rng.choice(["x", "y", "sqrt(2)", "sqrt(6)", "x^2", ""])}'
  for _ in range(50):
    a, b, c = ('+'.join(term() for _ in range(3)) for _ in range(3))
    assert expand(f'({a})*(({b})+({c}))') == expand(f'({a})*({b})+({c})*({a})')
    near = approximate(expand(f'({a})*({b})'.replace('x', '1.25').replace('y', '0.5')))
    parts = [approximate(expand(s.replace('x', '1.25').replace('y', '0.5'))) for s in (a, b)]
    assert near == pytest.approx(parts[0] * parts[1], abs=1e-9)


def test_constants_and_approximations():
  assert constant(expand('sqrt(2)sqrt(8)')) == 4
  assert constant(expand('0x')) == 0
  assert constant(expand('x')) is None
  assert approximate(expand('\\pi + sqrt(2)/2')) == pytest.approx(3.8486994)
  assert approximate(expand('x')) is None
  assert monic(expand('4x + 2')) == (2, expand('2x + 1'))


@pytest.mark.parametrize(
  'text',
  ['(a+b+c+d)^9', '(a+b)^11', 'x//2', '1/(x-x)', 'sqrt 2 3', '\\sin x', 'a' * 401],
)
def test_what_is_not_expanded(text):
  with pytest.raises(BadExpression):
    expand(text)


@pytest.mark.parametrize(
  'text',
  ['*'.join(['(x+y)^9'] * 40), 'sqrt(999999999989)+' * 20 + '1', '+'.join(['9^999'] * 60),
   'sqrt(' * 38 + 'x+1' + ')^9' * 38, '/'.join(['(a+b+c+d)'] * 40)],
)  # fmt: skip
def test_a_large_formula_takes_bounded_time(text):
  start = time.process_time()
  with contextlib.suppress(BadExpression):
    expand(text)
  assert time.process_time() - start < 2

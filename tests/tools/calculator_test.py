"""Calls and results by hand."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from llm_jax.find import call
from llm_jax.tools import calculator
from llm_jax.types import BadInput


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('48 / 2', '24'),
    (' 1,250 * 3 ', '3750'),
    ('1 / 3', '0.3333333333'),
    ('2 / 3', '0.6666666667'),
    ('1 / 8', '0.125'),
    ('-7 / 2', '-3.5'),
    ('0.1 + 0.2', '0.3'),
    ('5 - 5', '0'),
    ('100 * 1.0', '100'),
    ('2 ** 99', '633825300114114700748351602688'),
    ('10 ** 30', '1e+30'),
    ('1 / 3 / 10 ** 8', '3.333333333e-9'),
    ('12345678901 / 10', '1234567890'),  # ten digits, half to even
  ],
)
def test_the_result(text, wanted):
  assert calculator.make()(text) == wanted


def test_digits_are_significant_ones_of_what_is_not_whole():
  assert calculator.make(digits=3)('2 / 3') == '0.667'
  assert calculator.make(digits=3)('12345') == '12345'
  assert calculator.make(digits=3)('12345.5') == '12300'


@pytest.mark.parametrize(
  'text', ['', 'two + two', '1 / 0', '9 ** 9 ** 9', '(' * 300, '2 + 2 =', '20%']
)
def test_a_malformed_call_is_a_value_error(text):
  with pytest.raises(ValueError) as error:
    calculator.make()(text)
  assert str(error.value) and '\n' not in str(error.value)


def test_options_are_checked():
  with pytest.raises(BadInput, match='digits 0; choose a whole number from 1 to 100'):
    calculator.make(digits=0)
  with pytest.raises(BadInput, match="did you mean 'digits'"):
    call(calculator.make, {'digit': 3}, where='tools.calculator')


def test_threads_do_not_disturb_each_other():
  use = calculator.make()
  with ThreadPoolExecutor(4) as pool:
    assert list(pool.map(lambda n: use(f'{n} ** 2 / 4'), range(200))) == [
      use(f'{n * n} / 4') for n in range(200)
    ]

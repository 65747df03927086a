r"""Verdicts by hand on the notations of MATH and GSM8K, and properties of the comparison."""

import random
import time

import pytest

from llm_jax.rewards.final_answer import final_answer
from llm_jax.rewards.math_equal import reward
from llm_jax.types import BadInput

_MATRIX = '\\begin{pmatrix}'

# Each line: the final answer as it is boxed, the gold one, whether they are equal.
BOXED = [
  # numbers
  ('42', '42', 1),
  ('42', '43', 0),
  ('42', '4', 0),
  ('-7', '-7', 1),
  ('7', '-7', 0),
  ('−7', '-7', 1),
  ('+7', '7', 1),
  ('1,234', '1234', 1),
  ('10,000', '1000', 0),
  ('1{,}234', '1234', 1),
  ('10,\\!000', '10000', 1),
  ('12,34', '1234', 0),
  ('042', '42', 1),
  ('5.', '5', 1),
  ('.5', '0.5', 1),
  ('0.50', '\\frac12', 1),
  ('3.0', '3', 1),
  ('1.5e3', '1500', 1),
  ('1.5 \\times 10^3', '1500', 1),
  ('1.5 \\times 10^{-3}', '0.0015', 1),
  ('1.5 \\times 10^3', '1.5', 0),
  ('10^{100}', '10^{99}', 0),
  ('2^{10}', '1024', 1),
  ('5 million', '5', 0),
  ('3.5 \\text{ million dollars}', '3500000', 1),
  ('5 million', '5,000,000', 1),
  # tolerance only where the gold is a decimal
  ('0.333333', '\\frac{1}{3}', 0),
  ('\\frac{1}{3}', '0.3333333', 1),
  ('\\frac{1}{3}', '0.333', 0),
  ('3.14', '\\pi', 0),
  ('\\pi', '3.14159265', 1),
  ('99.9', '100', 0),
  ('1.0001', '1.0', 0),
  # fractions and mixed numbers
  ('\\frac{1}{2}', '1/2', 1),
  ('\\dfrac{2}{4}', '\\tfrac12', 1),
  ('\\frac{1}{2}', '\\frac{2}{1}', 0),
  ('\\frac1{72}', '\\frac{1}{72}', 1),
  ('-\\frac{3}{4}', '\\frac{-3}{4}', 1),
  ('-\\frac{3}{4}', '\\frac{-3}{-4}', 0),
  ('3\\frac{1}{2}', '3.5', 1),
  ('3 1/2', '\\frac{7}{2}', 1),
  ('-1\\frac12', '-1.5', 1),
  ('3\\frac{1}{2}', '\\frac{3}{2}', 0),
  ('\\frac{\\frac{1}{2}}{3}', '1/6', 1),
  # units, currencies, percent
  ('\\$18', '18', 1),
  ('18 dollars', '18', 1),
  ('5\\text{ cm}', '5', 1),
  ('5', '5\\text{ cm}^2', 1),
  ('5 m', '5', 1),
  ('5m', '5', 0),
  ('60 km/h', '60', 1),
  ('60 miles per hour', '60', 1),
  ('12 square feet', '12', 1),
  ('90^\\circ', '90', 1),
  ('90°', '90^{\\circ}', 1),
  ('50\\%', '50', 1),
  ('50%', '0.5', 0),
  ('5 squared', '5', 0),
  ('5 or 6', '5', 0),
  # roots and pi
  ('2\\sqrt{3}', '\\sqrt{12}', 1),
  ('\\sqrt2', '\\sqrt{2}', 1),
  ('\\frac{1}{\\sqrt{2}}', '\\frac{\\sqrt{2}}{2}', 1),
  ('\\frac{1}{1+\\sqrt{2}}', '\\sqrt{2}-1', 1),
  ('\\sqrt{16}', '4', 1),
  ('\\sqrt[3]{27}', '3', 1),
  ('\\sqrt{3}', '\\sqrt{2}', 0),
  ('\\sqrt{2}+\\sqrt{3}', '\\sqrt{5}', 0),
  ('2\\sqrt{3}', '3\\sqrt{2}', 0),
  ('1.414', '\\sqrt{2}', 0),
  ('4\\pi', '\\pi \\cdot 4', 1),
  ('4\\pi', '4', 0),
  # formulas
  ('x^2+2x+1', '(x+1)^2', 1),
  ('2x+1', '1 + 2 \\cdot x', 1),
  ('x^2', '2x', 0),
  ('x+1', 'x-1', 0),
  ('\\frac{1}{x+1}', '\\frac{2}{2x+2}', 1),
  ('\\frac{1}{x+1}', '\\frac{1}{x}+1', 0),
  ('3+4i', '4i+3', 1),
  ('3+4i', '3-4i', 0),
  ('2^x', 'x^2', 0),
  ('\\sin x\\cos y', '\\sin y\\cos x', 0),
  ('1011_2', '1011', 0),
  # equations and inequalities
  ('x = 5', '5', 1),
  ('5', 'x=5', 1),
  ('x = 5', 'y = 5', 0),
  ('-x = 5', '5', 0),
  ('2x = 10', '10', 0),
  ('2+3 = 5', '5', 1),
  ('y = 2x + 3', '2x - y = -3', 1),
  ('y = 2x + 3', 'y = 2x - 3', 0),
  ('f(x) = 2x', '2x', 1),
  ('x < 3', '3 > x', 1),
  ('x < 3', 'x > 3', 0),
  ('x < 3', 'x \\le 3', 0),
  ('1 < x \\leq 3', '3 \\geq x > 1', 1),
  ('x < 3', '3', 0),
  # tuples, intervals, sets, lists, matrices
  ('(1, 2)', '(1,2)', 1),
  ('(2, 1)', '(1,2)', 0),
  ('\\left(\\frac12, 3\\right)', '(0.5, 3)', 1),
  ('(1, 2, 3)', '(1, 2)', 0),
  ('(1, 2)', '12', 0),
  ('[0, 1)', '[0,1)', 1),
  ('[0, 1]', '[0,1)', 0),
  ('(-\\infty, 2]', '(-\\infty,2]', 1),
  ('(-\\infty, 2]', '(\\infty,2]', 0),
  ('x \\in [0, 1]', '[0,1]', 1),
  ('[2,3] \\cup (0,1)', '(0,1) \\cup [2,3]', 1),
  ('(0,1) \\cup (2,3)', '(0,1)', 0),
  ('\\{1, 2, 3\\}', '\\{3,2,1\\}', 1),
  ('\\{1, 2\\}', '\\{1,2,3\\}', 0),
  ('\\{1, 1\\}', '\\{1,2\\}', 0),
  ('1, -2', '-2, 1', 1),
  ('-2 \\text{ and } 1', '1,-2', 1),
  ('x=1 or x=-2', '1,-2', 1),
  ('1', '1,-2', 0),
  ('1 \\pm \\sqrt{2}', '1-\\sqrt{2}, 1+\\sqrt{2}', 1),
  (
    '\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}',
    '\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}',
    1,
  ),
  (
    '\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}',
    '\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}',
    0,
  ),
  # words
  ('\\text{Evelyn}', 'Evelyn', 1),
  ('\\text{(C)}', 'C', 1),
  ('B', 'C', 0),
  ('\\text{even}', 'odd', 0),
  ('listen', 'silent', 0),
  ('no solution', '0', 0),
]

# A whole answer, the gold one, whether it is right.
SOLUTIONS = [
  ('So 48/2 = 24 and 48+24 = 72.\n#### 72', 'Natalia sold 48/2 = <<48/2=24>>24.\n#### 72', 1),
  ('#### 1,200', '#### 1200', 1),
  ('#### 72', '#### 24', 0),
  ('First \\boxed{3}, then \\boxed{4}.', '4', 1),
  ('First \\boxed{3}, then \\boxed{4}.', '3', 0),
  ('\\boxed{\\frac{1}{\\sqrt{2}}} and 7', '\\boxed{\\frac{\\sqrt{2}}{2}}', 1),
  ('It is \\boxed{4}, or \\boxed{5 ', '4', 1),
  ('The answer is 4. No: the answer is 5.', '5', 0),
  ('The answer is 4. No: the answer is 5.', '4', 1),
  ('The answer is $2.50.', '2.5', 1),
  ('The answer is about 18.5 dollars (per day).', '18.5', 1),
  ('The answer is 3:30 pm.', '3', 0),
  ('\\boxed{\\angle ABC = 30^\\circ}', '30', 1),
  ('\\boxed{n!}', 'n', 0),
  ('\\boxed{2 \\text{ and } 3}', '(2,3)', 0),
  ('The answer is **18** apples because 9 + 9 = 18.', '18', 1),
  ('The final answer is: $\\frac{1}{2}$.', '0.5', 1),
  ('The answer is (3, 4).', '(3,4)', 1),
  ('He has 3 cars and 4 bikes, so 7', '7', 1),
  ('He has 7 cars, so 3', '7', 0),
  ('That costs $1,250, I think.', '1250', 1),
  ('It falls to -3 degrees', '-3', 1),
  ('10-3', '-3', 0),  # a dash after a digit is no sign
  ('10-3', '3', 0),  # and a part of a formula no answer
  ('It is \\boxed{4}, I mean \\boxed{}.', '4', 0),
  ('We get 3/4 of it.', '0.75', 1),
  ('<think>The answer is 4.</think> The answer is 5.', '5', 1),
  ('<think>\\boxed{4}</think><answer>5</answer>', '4', 0),
  ('<think>4</think><answer>\\frac{1}{2}</answer>', '1/2', 1),
  ('<answer>1</answer> <answer>2</answer>', '2', 1),
  ('I do not know.', '0', 0),
  ('', '0', 0),
]


@pytest.mark.parametrize(('boxed', 'gold', 'verdict'), BOXED)
def test_the_verdict_on_a_final_answer(boxed, gold, verdict):
  assert reward(f'Thus it is $\\boxed{{{boxed}}}$.', gold) == verdict


@pytest.mark.parametrize(('answer', 'gold', 'verdict'), SOLUTIONS)
def test_the_verdict_on_a_solution(answer, gold, verdict):
  value = reward(answer, gold)
  assert isinstance(value, float) and value == verdict


@pytest.mark.parametrize('gold', sorted({gold for _, gold, _ in BOXED}))
def test_every_answer_equals_itself(gold):
  assert reward(f'\\boxed{{{gold}}}', gold) == 1
  assert reward(f'\\boxed{{ {gold}. }}', f'${gold}$') == 1


def test_equality_has_no_direction_where_nothing_is_a_decimal():
  exact = [(a, b, v) for a, b, v in BOXED if '.' not in a + b]
  for ours, gold, verdict in exact:
    if ours != '5 m':  # beside a formula, m may be a variable
      assert reward(f'\\boxed{{{gold}}}', ours) == verdict, (gold, ours)


def test_options():
  assert reward('so 7', '7', any_number=False) == 0
  assert reward('The answer is 7', '7', any_number=False) == 1
  assert reward('The answer is 7.01', '7.0', tolerance=0.01) == 1
  assert reward('The answer is 7.01', '7', tolerance=0.01) == 0
  with pytest.raises(BadInput, match='gold answer is empty'):
    reward('7', ' ')


def test_a_number_in_a_long_text_is_not_the_tail_of_a_word():
  assert final_answer('see mp3') is None
  assert final_answer('in 2024, mp3') == '2024'


_PIECES = (
  '{', '\\boxed{', '(', '\\frac{', '\\sqrt{', '(x+y)^9', '9^', '1,', '[', '\\{', 'a', '- ',
  '\\text{', 'The answer is ', '</think><answer>', '####', '±', '=', '\\sqrt(1+', '1/(1+', '$',
  ' ', '9', '<x',
)  # fmt: skip


@pytest.mark.parametrize('piece', _PIECES)
@pytest.mark.parametrize('length', [40, 395, 50_000])
def test_hostile_text_takes_bounded_time(piece, length):
  text = piece * (length // len(piece) + 1)
  start = time.process_time()
  for answer in (text, f'\\boxed{{{text[:395]}}}', f'The answer is {text}'):
    reward(answer, '7')
    reward(answer, '2^{100}x')
  assert time.process_time() - start < 2


def test_random_symbols_never_raise():
  rng = random.Random(0)
  symbols = [
    *'{}12x^(),[]=<  +-/.&!0',
    '\\frac',
    '\\sqrt',
    '\\text{a}',
    '\\{',
    '\\}',
    '\\pm',
    '\\\\',
  ]
  for _ in range(3000):
    text = ''.join(rng.choices(symbols, k=rng.randint(1, 14)))
    assert reward(f'\\boxed{{{text}}}', '7') in (0, 1)
    reward('7', f'-{text}')

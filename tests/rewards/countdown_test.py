"""Games by hand."""

import time

import pytest

from llm_jax.rewards.countdown import reward
from llm_jax.types import BadInput

GOLD = '24; 3 3 8 8'


@pytest.mark.parametrize(
  ('answer', 'gold', 'wanted'),
  [
    ('8 / (3 - 8 / 3)', GOLD, 1),  # exact: with floats it is 23.99...
    ('8 / (3 - 8 / 3) = 24', GOLD, 1),
    ('I try 3 * 8.\n\n8 / (3 - 8 / 3) = 24', GOLD, 1),
    ('<think>3 * 8 = 24</think>\n<answer>8 ÷ (3 − 8 ÷ 3)</answer>', GOLD, 1),
    ('<answer>8 / (3 - 8 / 3)</answer> or 3 * 8', GOLD, 1),
    ('<answer>1</answer><answer> 8 / (3 - 8 / 3) = 24 </answer>', GOLD, 1),
    ('The answer is 8 / (3 - 8 / 3).', GOLD, 1),
    ('The answer is: `8 / (3 - 8 / 3)`. Good!', GOLD, 1),
    ('The answer is 3 * 8. No, the answer is 8 / (3 - 8 / 3).', GOLD, 0),
    ('3 * 8', GOLD, 0),  # 3 and 8 are left over
    ('3 * 8 + 3 - 3', GOLD, 0),  # three times a 3
    ('24', GOLD, 0),
    ('24 = 8 / (3 - 8 / 3)', GOLD, 0),
    ('8 + 8 + 3 + 3', GOLD, 0),
    ('8 // (3 - 8 // 3)', GOLD, 0),
    ('-3 + 5', '2; 3 5', 1),
    ('5 - 3', '2; 3 5', 1),
    ('5 + 3', '2; 3 5', 0),
    ('35', '35; 3 5', 0),
    ('3 ** 2', '9; 3 2', 0),
    ('5 % 3', '2; 5 3', 0),
    ('10 - 25', '-15; 10 25', 1),
    ('(8 - 8) / (3 - 3)', GOLD, 0),
    ('2(3 + 4)', '14; 2 3 4', 0),
    ('__import__("os")', GOLD, 0),
    ('', GOLD, 0),
    ('\n\n', GOLD, 0),
  ],
)
def test_the_verdict(answer, gold, wanted):
  value = reward(answer, gold)
  assert isinstance(value, float) and value == wanted


def test_numbers_may_be_left_over():
  assert reward('3 * 8', GOLD, use_all=False) == 1
  assert reward('3 * 8 + 3 - 3', GOLD, use_all=False) == 0
  assert reward('8 / (3 - 8 / 3)', GOLD, use_all=False) == 1


@pytest.mark.parametrize(
  ('answer', 'wanted'),
  [('8 / (3 - 8 / 3)', 1), ('3 * 8', 0.1), ('1 + 1', 0.1), ('3 * x', 0), ('', 0), ('8 ** 8', 0)],
)
def test_part_of_the_reward_is_for_an_expression(answer, wanted):
  assert reward(answer, GOLD, partial=0.1) == wanted


@pytest.mark.parametrize(
  'gold', ['', '24', '24;', '; 3', '24; 3; 8', 'x; 3 8', '24; 3,8', '2.5; 3 8']
)
def test_a_gold_answer_of_another_form_is_bad_input(gold):
  with pytest.raises(BadInput, match=r"not of the form '24; 3 3 8 8'"):
    reward('3 * 8', gold)


@pytest.mark.parametrize('piece', ['(', '-', '9', '9*', '(8/', '<answer>', '=', 'The answer is '])
def test_hostile_text_takes_bounded_time(piece):
  start = time.process_time()
  for n in (30, 130, 100_000):
    assert reward(piece * n, GOLD) == 0
  assert time.process_time() - start < 2

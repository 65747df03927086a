"""Shapes by hand."""

import time

import pytest

from llm_jax.rewards.format import reward
from llm_jax.types import BadInput


@pytest.mark.parametrize(
  ('answer', 'wanted'),
  [
    ('<think>2 + 2</think><answer>4</answer>', 1),
    (' <think>\na\nb\n</think>\n\n<answer>4</answer>\n', 1),
    ('<think>a < b</think><answer>4</answer>', 1),
    ('<answer>4</answer><think>2 + 2</think>', 0),
    ('<think>2 + 2</think> so <answer>4</answer>', 0),
    ('<think>2 + 2</think><answer>4</answer>.', 0),
    ('<think>2 + 2</think><answer>4', 0),
    ('<think></think><answer>4</answer>', 0),
    ('<think>2 + 2</think><answer> </answer>', 0),
    ('<think>a</think><think>b</think><answer>4</answer>', 0),
    ('<think>a<answer>3</answer></think><answer>4</answer>', 0),
    ('<think>a<answer></think>4</answer>', 0),
    ('4', 0),
    ('', 0),
  ],
)
def test_thinking_comes_before_the_answer(answer, wanted):
  value = reward(answer, 'any gold')
  assert isinstance(value, float) and value == wanted


def test_other_tags():
  assert reward('<plan>a</plan><code>b</code>', tags=('plan', 'code')) == 1
  assert reward('<plan>a</plan>', tags=['plan']) == 1
  assert reward('<think>a</think><answer>b</answer>', tags=('plan',)) == 0


@pytest.mark.parametrize(
  ('pattern', 'answer', 'wanted'),
  [
    (r'.*The answer is -?\d+\.', 'One line.\nThe answer is 4.', 1),
    (r'.*The answer is -?\d+\.', 'The answer is 4. Good.', 0),
    (r'(yes|no)', 'yes', 1),
    (r'(yes|no)', 'yes no', 0),
    (r'(?:\d )+', '1 2 3 ', 1),
    (r'(?>\d+ )+', '12 3 ', 1),
    (r'(?:\d+ )*+', '12 3 ', 1),
    (r'[(+*]+(a)+', '(+*aa', 1),
  ],
)
def test_a_pattern_is_for_the_whole_answer(pattern, answer, wanted):
  assert reward(answer, pattern=pattern) == wanted


@pytest.mark.parametrize(
  'pattern',
  [r'(a+)+', r'(a|a)*', r'((a?)b)*', r'(a{2,})+b', r'(?:x*)+', r'((a+))*', r'(a*?){3,}', r'(\(+)*'],
)
def test_a_repeat_inside_a_repeat_is_refused(pattern):
  with pytest.raises(BadInput, match='exponential'):
    reward('a' * 40, pattern=pattern)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'tags': ('think',), 'pattern': '.*'}, 'both given'),
    ({'tags': ()}, 'different words'),
    ({'tags': ('a', 'a')}, 'different words'),
    ({'tags': ('<think>',)}, 'different words'),
    ({'pattern': '(a'}, 'no regular expression'),
    ({'pattern': 'a' * 1001}, 'at most 1000'),
  ],
)
def test_options_that_cannot_be_used(options, message):
  with pytest.raises(BadInput, match=message) as error:
    reward('a', **options)
  assert '\n' not in str(error.value)


def test_hostile_answers_take_bounded_time():
  start = time.process_time()
  for answer in ('<think>' * 100_000, '</think><answer>' * 100_000, ' ' * 1_000_000):
    assert reward(answer) == 0
    assert reward(answer, pattern=r'<think>[^<]*</think>') == 0
  assert time.process_time() - start < 2

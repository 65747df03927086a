"""What is thought is not judged, whatever its marks and wherever they stand."""

import pytest

from llm_jax.find import find
from llm_jax.rewards import columns
from llm_jax.rewards.thoughts import said

MARKS = [
  ('<THINK_START>', '<THINK_END>'),
  ('<think>', '</think>'),
  ('<think>\n', '\n</think>\n\n'),
  ('<Thinking>', '</Thinking>'),
  ('<thought>', '</thought>'),
  ('<thoughts lang="en">', '</thoughts>'),
  ('<reasoning>', '</reasoning >'),
  ('<seed:think>', '</seed:think>'),
  ('[THINK]', '[/THINK]'),
  ('◁think▷', '◁/think▷'),
  ('<|begin_of_thought|>', '<|end_of_thought|>'),
  ('<|START_THINKING|>', '<|END_THINKING|>'),
  (
    '<|channel|>analysis<|message|>',
    '<|end|><|start|>assistant<|channel|>final<|message|>',
  ),
]
# A reward, a thought, an answer, and the gold answer that this is right for.
JUDGED = [
  ('math_equal', 'The answer is 3. No, \\boxed{3}', 'The answer is 4.', '4'),
  ('exact_answer', 'The answer is 3. No.', 'The answer is 4.', '4'),
  ('countdown', 'The answer is 8 + 6.', 'The answer is 8 * 6 * 2 / 4', '24; 4 6 8 2'),
  ('same_text', 'Rome?', 'Paris', 'Paris'),
  ('word_overlap', 'Rome?', 'Paris', 'Paris'),
]


@pytest.mark.parametrize(('begin', 'end'), MARKS)
@pytest.mark.parametrize(('name', 'thought', 'answer', 'gold'), JUDGED)
def test_rewards_judge_the_answer_alone(begin, end, name, thought, answer, gold):
  reward = find('rewards', name).reward
  for text in (
    f'{begin}{thought}{end}{answer}',
    f'{thought}{end}{answer}',  # the prompt opened it
    f'{begin}{thought}{begin}{thought}{end}{answer}',
    f'{begin}{answer}{end}{thought}{end}{answer}',
    f'{begin}{end}{answer}',
  ):
    assert reward(text, gold) == 1, text
  for text in (f'{begin}{answer}', f'{begin}{thought}{end}{begin}{answer}', f'{answer}{end}'):
    assert reward(text, gold) == 0, text


@pytest.mark.parametrize(('begin', 'end'), MARKS)
def test_the_parts_of_a_completion(begin, end):
  found = said(f'{begin}a{end}b')
  assert (found.answer.strip(), found.thinking.strip()) == ('b', 'a')
  assert said(f'{begin}a').answer == said('a', before=f'Why? {begin}\n').answer == ''
  assert said('a', before=f'{begin}b{end}').answer == said('a', before=f'{begin} is a mark').answer
  for other, close in MARKS:
    if (other.strip(), close.strip()) != (begin.strip(), end.strip()):
      assert said(f'{begin}a{close}b').answer == '', 'a thought ends with its own mark'


def test_calls_are_no_part_of_the_answer():
  text = 'It is <SEARCH_START>The answer is 3<SEARCH_END><RESULT_START>3<RESULT_END>4.'
  assert said(text).answer == 'It is 4.'
  assert said('So <tool_call>\n{"name": "f"}\n</tool_call>').answer == 'So '
  assert said('So <SEARCH_START>The answer is 4.').answer == 'So '


def test_a_plain_text_stays_as_it_is():
  for text in ('', 'a < b > c', 'I think so.', 'A list [1, 2] of <b>thoughts</b>', 'x</b>'):
    assert said(text) == (text, '', text)


def test_what_judges_the_form_asks_for_the_whole():
  reward = {name: find('rewards', name).reward for name in ('format', 'length', 'reasons_first')}
  asked = {name: columns.asked(function) for name, function in reward.items()}
  assert asked == {
    'format': ('completion',),
    'length': ('completion',),
    'reasons_first': ('thinking', 'completion'),
  }
  found = said('<THINK_START>6 * 7 = 42<THINK_END> <answer>The answer is 42</answer>')
  assert reward['format'](found.answer, completion=found.completion) == 1
  assert reward['length'](found.answer, completion=found.completion, limit=5, buffer=0) == 0
  assert reward['reasons_first'](found.answer, thinking=found.thinking) == 1
  assert reward['reasons_first'](found.answer) == 0


@pytest.mark.parametrize(
  'piece', ['<think>', '</think>', '<think ', '<', '<|channel|>analysis', 'a:']
)
def test_hostile_text_takes_bounded_time(piece):
  said(piece * 50_000)

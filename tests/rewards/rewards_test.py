"""What each reward gives, by hand."""

import pytest

from llm_jax.find import find
from llm_jax.rewards.exact_answer import final_answer

REASONED = '2 oranges cost 2 * $2 = $4. $13 - $4 = $9 is left. $9 / 3 = $3. The answer is $3.'
STATED = 'The answer is $3. 2 oranges cost 2 * $2 = $4. $9 / 3 = $3.'


@pytest.mark.parametrize(
  'name, answer, gold, wanted',
  [
    ('exact_answer', REASONED, '3', 1),
    ('exact_answer', STATED, '3', 1),
    ('exact_answer', STATED, '4', 0),
    ('exact_answer', 'The answer is 1,250.', '1250', 1),
    ('exact_answer', 'the answer is: -7', '-7', 1),
    ('exact_answer', 'The answer is $2.50.', '2.5', 1),
    ('exact_answer', 'It is 3.', '3', 0),
    ('exact_answer', '', '3', 0),
    ('reasons_first', REASONED, '3', 1),
    ('reasons_first', STATED, '3', 0),
    ('reasons_first', 'I think so. The answer is 3.', '3', 0),
    ('reasons_first', '2 * 2 = 4.', '3', 0),  # it never states an answer
    ('same_text', 'It joins  paths.', 'it joins paths.', 1),
    ('same_text', 'It joins two paths.', 'It joins paths.', 0),
    ('word_overlap', 'It joins paths.', 'It joins the paths!', 1),
    ('word_overlap', 'it joins two paths', 'it splits paths', 2 * 2 / 7),
    ('word_overlap', 'no no no', 'no', 2 * 1 / 4),
    ('word_overlap', 'entirely else', 'it splits paths', 0),
    ('word_overlap', '', '', 0),
    ('mentions', 'I do not\nknow that.', 'do not know|cannot say', 1),
    ('mentions', 'I know that.', 'do not know|cannot say', 0),
    ('mentions', 'You pay $60.', '$6', 0),
    ('mentions', 'You pay $6.50.', '$6', 0),
    ('mentions', 'That is $6.', '$6', 1),
    ('mentions', '113', '13', 0),
    ('mentions', '', '13|', 0),
  ],
)
def test_the_value(name, answer, gold, wanted):
  value = find('rewards', name).reward(answer, gold)
  assert isinstance(value, float) and value == pytest.approx(wanted)


def test_the_first_answer_counts():
  assert final_answer('The answer is $4. No. The answer is $5.') == '4'
  assert final_answer('The answer is unknown.') is None

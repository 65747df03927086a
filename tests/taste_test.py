"""What the scores of a reward model say of right and wrong answers, by hand."""

import pytest

from experiments.speedrun.taste import taste

PROMPT = [{'role': 'user', 'content': 'How much?'}]
RIGHT, WRONG = '2 + 2 = 4. The answer is 4.', '2 + 2 = 5. The answer is 5.'


def test_it_counts_what_is_right_and_what_scores_best():
  answers = [RIGHT, WRONG, 'The answer is 4. 2 + 2 = 4.', 'The answer is 5. 2 + 2 = 5.']
  one = {'prompt': PROMPT, 'candidates': answers, 'scores': [1.0, 2.0, -50.0, -60.0]}
  other = {**one, 'prompt': [{'role': 'user', 'content': 'Who?'}]}
  found = taste([one, other, one], {'How much?': '4'})
  assert found == {
    'questions': 2,
    'right': 0.5,
    'right, best of each question': 0.0,
    'reason first': 0.5,
    'AUROC': pytest.approx(2 / 4),
    'AUROC of those that reason first': 0.0,
  }

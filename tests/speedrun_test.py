"""What the scripts of the speedrun read and tell, by hand."""

import subprocess
import sys

import pytest

from experiments.speedrun import record
from experiments.speedrun.taste import taste
from experiments.speedrun.turns import turns
from llm_jax.files import write_json

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


def test_a_row_of_the_records_is_read_from_what_a_pipeline_leaves(tmp_path):
  metrics = {record.SCORE: 0.5, 'text/bits_per_byte': 1.75}
  last = {'rollouts/kl': 2.0, 'tools/word_problems/exact_answer': 1.0}
  stages = {name: {'metrics': metrics} for name in ('pretrain', 'sft', 'ppo', 'compressed')}
  stages |= {'ppo': {'metrics': metrics | last}, 'reward': {}}
  facts = dict(recipe='gpt', commit='0123456789', device='gpu', devices=2, stages=stages)
  write_json(tmp_path / 'report.json', facts)
  write_json(tmp_path / 'seconds.json', {'pretrain': 60.5, 'sft': 20.0})
  _, _, *cells = record.row(tmp_path)
  known = ['0123456', '2 x gpu', '1:20', '1.750', '0.500', '0.500', '0.500', '1.000']
  assert cells == [*known, '–', '–', '–', '–', '–', '2.000']
  assert len(cells) + 2 == len(record.HEADER)


def test_a_run_that_has_no_report_yet_is_named_in_one_line(tmp_path):
  with pytest.raises(SystemExit, match=r'no report\.json here; a pipeline writes it at its end'):
    record.row(tmp_path)


def test_a_question_is_asked_alone_and_behind_another():
  questions = [
    {'prompt': [{'role': 'user', 'content': name}], 'answer': f'It is {name}.', 'family': ''}
    for name in ('rain', 'snow', 'wind')
  ]
  knows = lambda talk: f'It is {talk[-1]["content"]}.'
  assert turns(knows, questions) == {'alone': 3, 'second': 3, 'repeats': 0}
  copies = lambda talk: talk[1]['content'] if len(talk) > 1 else knows(talk)
  assert turns(copies, questions) == {'alone': 3, 'second': 0, 'repeats': 3}


@pytest.mark.parametrize('script', ['speedrun.record', 'speedrun.taste'])
def test_bad_input_ends_a_script_with_one_line(script):
  command = [sys.executable, '-m', f'experiments.{script}', '/nowhere']
  done = subprocess.run(command, capture_output=True, text=True)
  (line,) = done.stderr.splitlines()
  assert done.returncode == 1 and line.startswith('error: /nowhere')

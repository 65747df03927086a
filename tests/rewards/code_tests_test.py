"""Answers in all the shapes that models write, against the columns of HumanEval and MBPP."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm_jax.rewards import columns
from llm_jax.rewards.code_tests import beginning, program, reward
from llm_jax.rewards.sandbox import protections
from llm_jax.types import BadInput

# Four rows of HumanEval (github.com/openai/human-eval, MIT License), two of which call helpers of
# their prompts.
ROWS = json.loads((Path(__file__).parents[1] / 'fixtures' / 'humaneval.json').read_text())['rows']
NAMES = ('test', 'entry_point', 'test_list', 'test_setup_code', 'test_imports', 'tests', 'prompt')
NEED = ('seccomp',) if 'seccomp' in protections() else ()


def judged(answer, record, **options):
  record = columns.unpack(
    columns.pack(record, [{'role': 'user', 'content': record.get('prompt', '')}], NAMES)
  )
  return reward(answer, '', **record, **{'need': NEED, 'seconds': 5.0, **options})


def shapes(row, body):
  """A completion, and answers of a chat."""
  whole = row['prompt'] + body
  yield body
  yield body + f'\n\ndef main():\n  pass\n\nprint({row["entry_point"]}(1, 2, 3, 4))\n'
  yield whole
  yield f'<think>```python\n1 / 0\n```</think>As follows:\n```python\n{whole}\n```\nThis works.'
  yield f'First:\n```\n1 / 0\n```\nBut:\n```Python\n{body}```'


def all_judged(rows_and_answers):
  with ThreadPoolExecutor(4) as pool:
    return [*pool.map(lambda pair: judged(pair[1], pair[0]), rows_and_answers)]


def test_right_answers_pass_in_every_shape():
  pairs = [(row, answer) for row in ROWS for answer in shapes(row, row['canonical_solution'])]
  assert all_judged(pairs) == [1.0] * len(pairs)


def test_wrong_answers_fail():
  wrong = lambda body: ('    raise ValueError\n' + body, body.rstrip().rpartition('\n')[0], '', '#')
  pairs = [(row, answer) for row in ROWS for answer in wrong(row['canonical_solution'])]
  assert all_judged(pairs) == [0.0] * len(pairs)


def test_a_prompt_may_be_a_question_with_code():
  row = next(row for row in ROWS if row['task_id'] == 'HumanEval/38')
  asked = {**row, 'prompt': f'Complete this:\n```python\n{row["prompt"]}```\nIn Python, please.'}
  assert judged(row['canonical_solution'], asked) == 1.0


MBPP = {
  'prompt': 'Write a function to find the area of a circle.',
  'test_list': ['assert math.isclose(area(2), 4 * math.pi)', 'assert area(0) == 0'],
  'test_setup_code': '',
  'test_imports': ['import math'],
}


@pytest.mark.parametrize(
  ('answer', 'record', 'wanted'),
  [
    ('def area(r): return math.pi * r * r', MBPP, 1),
    ('```python\nimport math\ndef area(r):\n  return math.pi * r ** 2', MBPP, 1),
    ('def area(r): return 3.14 * r * r', MBPP, 0),
    ('I cannot.', MBPP, 0),
    ('def f(): return 3', {'tests': 'x = f()\nassert x == 3'}, 1),
    ('def f(): return 3', {'tests': ['assert f() == 3', 'assert f() == 4']}, 0),
    ('def f(): return k + 1', {'test_setup_code': 'k = 2', 'tests': 'assert f() == k + 1'}, 1),
    ('while True: pass', {'tests': 'assert f()'}, 0),
  ],
)
def test_columns(answer, record, wanted):
  assert judged(answer, record, seconds=0.5 if 'while' in answer else 5.0) == wanted


def test_what_a_program_is():
  assert program('```sql\nselect\n```\n```python\na\n```\n```text\nb\n```') == 'a\n'
  assert program('```python\na\n') == 'a\n'
  assert program('  ```py\n  a\n  ```') == '  a\n'
  assert program('\n\n  a\n\n# more') == '  a\n'
  assert program('def f():\n  pass\n\ndef g():\n  pass').endswith('pass')
  assert program('') == program('```python\n```') == ''
  assert beginning('Write f.') == '' and beginning('Write\n```\ndef f():\n  "x"\n```') != ''


def test_bad_input():
  for record in ({}, {'tests': ''}, {'test': 'def check(f): pass'}, {'test_list': []}):
    with pytest.raises(BadInput, match='neither test and entry_point'):
      judged('a', record)
  with pytest.raises(BadInput, match="no protection 'x'"):
    judged('a', MBPP, need=('x',))

"""What answers that are written are worth, and suites."""

import pytest

from llm_jax.data.tasks import humaneval, solutions, suites, wikitext
from llm_jax.data.tasks.task import Item
from llm_jax.evals.task import task_of
from tests.data.tasks import formats as f


def test_programs_are_run_behind_their_prompts():
  (item,) = humaneval.read(f.HUMANEVAL[0])
  assert item.context.endswith('"""Two."""\n')
  assert humaneval.judge('  return 2\n', item) == {'pass@1': 1.0}
  assert humaneval.judge('  return 3\n', item) == {'pass@1': 0.0}
  assert humaneval.judge('  raise ValueError\n', item) == {'pass@1': 0.0}


@pytest.mark.parametrize('said, gold, right', [
  ('3 + 3 = 6. The answer is 6.', '6', 1.0),
  ('It is $\\boxed{\\frac{2}{4}}$.', '\\frac{1}{2}', 1.0),
  ('I do not know.', '6', 0.0),
])  # fmt: skip
def test_solutions_are_compared_by_their_final_answer(said, gold, right):
  assert solutions.judge(said, Item('', gold=gold)) == {'acc': right}


def test_marks_of_a_page_of_wikipedia_are_joined():
  text = " = A = \n\n He said \" no \" ( in 1 @.@ 5 s ) : it 's Ann 's N ° 2 ; 'x ' ! \n"
  assert wikitext.running(text) == (
    " = A =\n\nHe said \"no\" (in 1.5 s): it's Ann's N°2; 'x'!\n"  # as lm-eval has it
  )


def test_suites_name_tasks_with_metrics_that_these_have():
  for name, listed in suites.SUITES.items():
    for entry in listed:
      task = task_of(entry.task, entry.variant)
      known = {*task.metrics, *(('acc_tokens',) if 'acc_norm' in task.metrics else ())}
      assert not entry.metric or entry.metric in known, (name, entry)

"""Questions of yours in one file of JSON lines, and in a Python file."""

import json

import pytest

from llm_jax.data.tasks import files, own
from llm_jax.data.tasks.task import example
from llm_jax.evals.task import task_of
from llm_jax.types import BadInput

ROWS = [
  {'context': '2 + 2 =', 'choices': ['3', '4'], 'gold': 1, 'subject': 'sums'},
  {'context': '3 - 1 =', 'choices': ['2', '9'], 'gold': 0, 'subject': 'differences'},
]


def written(path, head, rows=ROWS):
  lines = [json.dumps({'task': head}), *map(json.dumps, rows)]
  path.write_text('\n'.join(lines), encoding='utf-8')
  return str(path)


def test_a_file_says_what_its_task_is_and_holds_its_questions(tmp_path):
  (tmp_path / 'shown.jsonl').write_text(json.dumps(ROWS[0]) + '\n')
  head = {'metrics': ['acc'], 'chance': 0.5, 'examples': 'shown.jsonl', 'shots': 1,
          'description': 'Some {subject}.\n', 'draw': 'first'}  # fmt: skip
  name = written(tmp_path / 'mine.jsonl', head)
  task = task_of(name)
  assert (task.kind, task.metrics, task.chance, task.shots) == ('choices', ('acc',), 0.5, 1)
  assert task.description('sums') == 'Some sums.\n'
  first, second = files.items(name, task, 'validation', 'unused')
  assert (first.context, first.choices, first.gold) == ('2 + 2 =', ('3', '4'), 1)
  assert (first.key, second.key) == ('sums:0', 'differences:0')
  (shown,) = files.items(name, task, 'train', 'unused')
  assert example(shown, task) == '2 + 2 = 4'


def test_kinds_have_the_metrics_that_suit_them(tmp_path):
  for kind, rows, metric in (
    ('several', [{'context': 'x', 'choices': ['a', 'b'], 'gold': [0, 1]}], 'share'),
    ('text', [{'context': 'x', 'choices': ['a']}], 'acc'),
    ('rolling', [{'choices': ['A document.']}], 'bits_per_byte'),
  ):
    name = written(tmp_path / f'{kind}.jsonl', {'kind': kind}, rows)
    task = own.task(name)
    assert task.metrics[0] == metric
    assert len(files.items(name, task, 'validation', '')) == 1


def test_answers_that_are_written_are_judged_by_a_reward(tmp_path):
  rows = [{'context': 'Question: 6 * 7?\nAnswer:', 'gold': '42'}]
  name = written(tmp_path / 'mine.jsonl', {'kind': 'generate', 'judge': 'math_equal'}, rows)
  task = own.task(name)
  (item,) = files.items(name, task, 'validation', '')
  assert task.metrics == ('math_equal',)
  assert task.judge('It is 42.', item) == {'math_equal': 1.0}
  assert task.judge('It is 41.', item) == {'math_equal': 0.0}


@pytest.mark.parametrize('head, why', [
  ({'kind': 'choice'}, "line 1: no kind 'choice'; did you mean 'choices'"),
  ({'metric': ['acc']}, "unknown field 'metric'; did you mean 'metrics'"),
  ({'metrics': 'acc'}, "metrics is a list of texts, not 'acc'"),
  ({'stop': [1]}, 'stop is a list of texts'),
  ({'shots': 'two'}, "shots is a whole number, not 'two'"),
  ({'chance': True}, 'chance is a number, not True'),
  ({'kind': 'generate'}, 'needs a judge, such as "exact_answer"'),
  ({'judge': 'exact_answer'}, "kind 'choices' takes no judge"),
  ({'draw': 'lm_eval'}, "draw is 'first' or 'seeded'"),
  ({'kind': 'generate', 'judge': 'mine.spy'}, 'is no file of llm_jax/rewards and is not imported'),
])  # fmt: skip
def test_a_first_line_that_is_no_task_is_refused(head, why, tmp_path):
  with pytest.raises(BadInput, match=why) as found:
    task_of(written(tmp_path / 'mine.jsonl', head))
  assert '\n' not in str(found.value)


@pytest.mark.parametrize('text', ['', '[1]', '{"task": 1}', '{"task": {}, "gold": 1}', 'x'])
def test_a_file_without_a_first_line_is_refused(text, tmp_path):
  path = tmp_path / 'mine.jsonl'
  path.write_text(text)
  with pytest.raises(BadInput, match='line 1: '):
    task_of(str(path))


@pytest.mark.parametrize('row, why', [
  ({'context': 'x', 'choices': ['a', 'b'], 'gold': 2}, 'line 3: .*label 2 is none of its 2'),
  ({'context': 'x', 'choices': ['a', 'b']}, "no column 'gold'"),
  ({'context': 'x', 'gold': 0}, "no column 'choices'"),
  ({'context': 'x', 'choices': ['a', 1], 'gold': 0}, 'choices is a list of texts'),
  ({'context': 1, 'choices': ['a', 'b'], 'gold': 0}, 'context is a text, not 1'),
  ({'contxt': 'x', 'choices': ['a', 'b'], 'gold': 0}, "unknown field 'contxt'; did you mean"),
  ({'context': 'x', 'choices': ['a', ' '], 'gold': 0}, 'an answer to choose from is empty'),
  ({'context': 'x', 'choices': ['a', 'b'], 'gold': 0, 'about': 1}, 'about is an object'),
])  # fmt: skip
def test_a_question_that_is_none_is_refused(row, why, tmp_path):
  name = written(tmp_path / 'mine.jsonl', {}, [ROWS[0], row])
  with pytest.raises(BadInput, match=why) as found:
    files.items(name, task_of(name), 'validation', '')
  assert '\n' not in str(found.value)


def test_a_missing_file_and_variants_are_refused(tmp_path):
  with pytest.raises(BadInput, match='there is no such file'):
    task_of(str(tmp_path / 'mine.jsonl'))
  with pytest.raises(BadInput, match='have no variants'):
    task_of(written(tmp_path / 'mine.jsonl', {}), {'full': True})


def test_a_python_file_of_yours_is_a_task(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from llm_jax.data.tasks.task import Item, Task\n\n\n'
    "def make(*, name: str = 'x'):\n"
    "  return Task(read=lambda row: [Item(row['q'], ('a', 'b'), row['a'])],\n"
    "              files={'validation': (f'{name}.jsonl',)})\n"
  )
  (tmp_path / 'y.jsonl.gz').write_bytes(__import__('gzip').compress(b'{"q": "x", "a": 1}\n'))
  task = task_of(str(path), {'name': 'y'})
  assert [item.gold for item in files.items('mine', task, 'validation', str(tmp_path))] == [1]

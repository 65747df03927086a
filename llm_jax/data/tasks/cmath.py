"""CMATH (arXiv:2306.16636): Chinese word problems of primary school; grades are the subjects."""

from collections.abc import Iterator

from llm_jax.data.questions import gold_of
from llm_jax.data.tasks import columns, places, solutions
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = places.splits('cmath', validation='cmath_dev.jsonl', test='cmath_test.jsonl')
  stop = ('\n\n问题：',)
  return solutions.task(read, files, stop=stop, split='validation', source='arXiv:2306.16636')


def read(record: Record) -> Iterator[Item]:
  """A problem."""
  question, gold = (
    columns.text(record, 'question'),
    gold_of(columns.column(record, 'answer', 'golden')),
  )
  grade = str(columns.column(record, 'grade'))
  yield Item(f'问题：{question}\n答案：', gold=gold, answer=gold, subject=grade)

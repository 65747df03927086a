"""CommonsenseQA (arXiv:1811.00937): five answers, asked for the letter of one."""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, exams, places
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = places.splits(
    'commonsense_qa',
    train=('train_rand_split.jsonl', 'commonsense_qa_train.jsonl'),
    validation=('dev_rand_split.jsonl', 'commonsense_qa_val.jsonl'),
    test=('test_rand_split_no_answers.jsonl',),
  )
  return Task(
    read=read, files=files, metrics=('acc', 'acc_norm'), chance=0.2, source='arXiv:1811.00937'
  )


def read(record: Record) -> Iterator[Item]:
  """A question."""
  stem, texts, gold = exams.parts(record)
  letters = tuple(columns.LETTERS[: len(texts)])
  yield Item(
    f'Question: {stem.strip()}\n{columns.lettered(texts)}', letters, gold, stem=stem, options=texts
  )

"""ARC-Easy: questions of science exams (arXiv:1803.05457), asked as full answers."""

from collections.abc import Iterator

from llm_jax.data.tasks.task import Item, Record, Task

FILES = {
  'train': ('ARC-Easy/train-*.parquet', 'ARC-Easy-Train.jsonl', 'arc_easy_train.jsonl*'),
  'validation': ('ARC-Easy/validation-*.parquet', 'ARC-Easy-Dev.jsonl', 'arc_easy_val.jsonl*'),
  'test': ('ARC-Easy/test-*.parquet', 'ARC-Easy-Test.jsonl', 'arc_easy_test.jsonl*'),
}


def make() -> Task:
  """The task."""
  return Task(
    read=read, files=FILES, metrics=('acc', 'acc_norm'), chance=0.25, source='arXiv:1803.05457'
  )


def read(record: Record) -> Iterator[Item]:
  """A question of either set, in the format of the hub or in that of its authors."""
  stem, choices = record['question'], record
  if isinstance(stem, dict):  # of its authors
    stem, choices = stem['stem'], stem
  choices = choices['choices']
  if isinstance(choices, list):
    choices = {name: [choice[name] for choice in choices] for name in ('label', 'text')}
  texts = tuple(choices['text'])
  yield Item(
    f'Question: {stem}\nAnswer:',
    texts,
    choices['label'].index(record['answerKey']),
    stem=stem,
    options=texts,
  )

"""OpenBookQA (arXiv:1809.02789): elementary science, where the answer continues the question."""

from collections.abc import Iterator

from llm_jax.data.tasks import exams, places
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = {
    split: (
      *places.hub('openbookqa', 'main', split),
      f'openbookqa*/data/main/{name}.jsonl',
      f'openbookqa_{split}.jsonl',
    )
    for split, name in {'train': 'train', 'validation': 'dev', 'test': 'test'}.items()
  }
  metrics = ('acc_norm', 'acc')
  return Task(
    read=read, files=files, metrics=metrics, chance=0.25, split='test', source='arXiv:1809.02789'
  )


def read(record: Record) -> Iterator[Item]:
  """A question."""
  if 'question_stem' in record:
    record = {**record, 'question': record['question_stem']}
  stem, texts, gold = exams.parts(record)
  yield Item(stem, texts, gold, stem=stem, options=texts)

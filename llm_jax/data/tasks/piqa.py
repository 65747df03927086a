"""PIQA (arXiv:1911.11641): which of two ways leads to a goal."""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = places.splits(
    'piqa',
    train=('piqa*/train.jsonl+train-labels.lst', 'piqa_train.jsonl+piqa_train_labels.lst'),
    validation=(
      'piqa*/valid.jsonl+valid-labels.lst',
      'piqa_valid.jsonl+piqa_valid_labels.lst',
      'piqa_val.jsonl',
    ),
  )
  metrics = ('acc_norm', 'acc')
  return Task(read=read, files=files, metrics=metrics, chance=0.5, source='arXiv:1911.11641')


def read(record: Record) -> Iterator[Item]:
  """A goal with two ways."""
  goal = columns.text(record, 'goal')
  texts = tuple(columns.text(record, name) for name in ('sol1', 'sol2'))
  gold = columns.label(columns.column(record, 'label'))
  yield Item(f'Question: {goal}\nAnswer:', texts, gold, stem=goal, options=texts)

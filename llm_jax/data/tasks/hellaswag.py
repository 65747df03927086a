"""HellaSwag (arXiv:1905.07830): how a description goes on."""

import re
from collections.abc import Iterator

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = places.splits(
    'hellaswag',
    train=('hellaswag_train.jsonl',),
    validation=('hellaswag_val.jsonl', 'hellaswag_validation.jsonl', 'hellaswag_val_*.jsonl'),
  )
  metrics = ('acc_norm', 'acc')
  return Task(read=read, files=files, metrics=metrics, chance=0.25, source='arXiv:1905.07830')


def read(record: Record) -> Iterator[Item]:
  """A description with its endings; or, with `query`, one that was cleaned already, by OLMES."""
  gold = columns.label(columns.column(record, 'label', 'gold'))
  if 'query' in record:
    yield Item(columns.text(record, 'query'), tuple(record['choices']), gold)
    return
  label, first, second = (columns.text(record, x) for x in ('activity_label', 'ctx_a', 'ctx_b'))
  context = _clean(f'{label}: {first} {second.capitalize()}')
  yield Item(context, tuple(map(_clean, record['endings'])), gold)


def _clean(text: str) -> str:
  """Without the marks of WikiHow's headings and steps.

  >>> _clean(' Baking: Flour [title] Mix it. [step] Wait.')
  'Baking: Flour. Mix it. Wait.'
  """
  text = text.strip().replace(' [title]', '. ')
  return re.sub(r'\[.*?\]', '', text).replace('  ', ' ')

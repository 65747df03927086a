"""WinoGrande (arXiv:1907.10641): which of two names a sentence means.

Each name is put into the sentence, and what stands behind it is scored.
"""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = places.splits(
    'winogrande',
    'winogrande_xl',
    train=('winogrande*/train_xl.jsonl', 'winogrande_xl_train.jsonl'),
    validation=('winogrande*/dev.jsonl', 'winogrande_xl_val.jsonl'),
  )
  return Task(
    read=read, files=files, metrics=('acc', 'acc_norm'), chance=0.5, source='arXiv:1907.10641'
  )


def read(record: Record) -> Iterator[Item]:
  """A sentence."""
  before, gap, behind = columns.text(record, 'sentence').partition('_')
  if not gap:
    raise ValueError('the sentence has no _')
  contexts = tuple(f'{before}{columns.text(record, name)}' for name in ('option1', 'option2'))
  gold = columns.label(columns.column(record, 'answer', 'label')) - 1
  yield Item('', (behind.strip(),), gold, contexts)

"""BLiMP (arXiv:1912.00582): 67 sets of pairs of sentences, of which one is English.

The sets are the subjects. Sentences are scored behind the begin of a document.
"""

from collections.abc import Iterator, Sequence

from llm_jax.data.tasks import columns
from llm_jax.data.tasks.task import Item, Record, Task


def make(*, subjects: Sequence[str] = ()) -> Task:
  """The task, with all sets or some."""
  files = (
    'blimp/*/train-*.parquet',
    '*--blimp/snapshots/*/*/train-*.parquet',
    'blimp*/data/*.jsonl',
    'blimp*/*.jsonl',
  )
  return Task(
    read=columns.chosen(read, subjects),
    files={'validation': files},
    metrics=('acc',),
    chance=0.5,
    source='arXiv:1912.00582',
  )


def read(record: Record) -> Iterator[Item]:
  """A pair, of which the first is right."""
  pair = tuple(columns.text(record, f'sentence_{which}') for which in ('good', 'bad'))
  yield Item('', pair, 0, subject=columns.text(record, 'UID'))

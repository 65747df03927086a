"""Documents of yours, scored from their begin on: bits per byte need no common tokenizer."""

import functools
from collections.abc import Iterator

from llm_jax.data.tasks import columns
from llm_jax.data.tasks.task import Item, Record, Task

METRICS = ('bits_per_byte', 'byte_perplexity', 'word_perplexity')


def make(*, field: str = 'text') -> Task:
  """The task; `field` is the column of the texts."""
  return Task(
    read=functools.partial(read, field=field),
    files={
      split: (f'heldout_text/{split}.jsonl', f'heldout_text/{split}.txt')
      for split in ('validation', 'test', 'train')
    },
    kind='rolling',
    metrics=METRICS,
  )


def read(record: Record, field: str) -> Iterator[Item]:
  """A document."""
  text = columns.text(record, field)
  if text.strip():
    yield Item('', (text,))

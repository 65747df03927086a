"""Social IQa (arXiv:1904.09728): what people feel and do next."""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = {
    split: (
      *places.hub('social_i_qa', '', split),
      *places.hub('siqa', '', split),
      f'social*iqa*/{name}.jsonl+{name}-labels.lst',
      f'social_iqa_{split}.jsonl',
    )
    for split, name in {'train': 'train', 'validation': 'dev'}.items()
  }
  return Task(read=read, files=files, chance=1 / 3, source='arXiv:1904.09728')


def read(record: Record) -> Iterator[Item]:
  """A question; labels count from 1."""
  texts = tuple(columns.text(record, f'answer{letter}') for letter in 'ABC')
  context, question = columns.text(record, 'context'), columns.text(record, 'question')
  gold = columns.label(columns.column(record, 'label')) - 1
  stem = f'{context} {question}'
  yield Item(f'Q: {stem}\nA:', texts, gold, stem=stem, options=texts)

"""AQuA (arXiv:1705.04146): algebra with five answers, asked for the letter of one."""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = {
    split: (
      *places.hub('aqua_rat', 'raw', split),
      f'AQuA*/{name}.json',
      f'aqua_{name}.jsonl',
    )
    for split, name in {'train': 'train', 'validation': 'dev', 'test': 'test'}.items()
  }
  return Task(
    read=read,
    files=files,
    chance=0.2,
    split='test',
    examples='validation',
    source='arXiv:1705.04146',
  )


def read(record: Record) -> Iterator[Item]:
  """A question, whose options begin with their letters."""
  stem = columns.text(record, 'question')
  texts = tuple(option.partition(')')[2].strip() for option in record['options'])
  gold = columns.label(columns.text(record, 'correct'), tuple('abcde'))
  letters = tuple(columns.LETTERS[: len(texts)])
  context = f'Question: {stem}\n{columns.lettered(texts)}'
  yield Item(context, letters, gold, stem=stem, options=texts)

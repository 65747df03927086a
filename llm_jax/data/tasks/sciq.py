"""SciQ (arXiv:1707.06209): science questions behind a passage that supports the answer."""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task

WRONG = ('distractor1', 'distractor2', 'distractor3')


def make() -> Task:
  """The task."""
  files = {
    split: (*places.hub('sciq', '', split), f'SciQ*/{name}.json', f'sciq_{split}.jsonl')
    for split, name in {'train': 'train', 'validation': 'valid', 'test': 'test'}.items()
  }
  metrics = ('acc', 'acc_norm')
  return Task(
    read=read, files=files, metrics=metrics, chance=0.25, split='test', source='arXiv:1707.06209'
  )


def read(record: Record) -> Iterator[Item]:
  """A question; the right answer is the last one."""
  texts = tuple(columns.text(record, name) for name in (*WRONG, 'correct_answer'))
  support, question = columns.text(record, 'support').lstrip(), columns.text(record, 'question')
  yield Item(f'{support}\nQuestion: {question}\nAnswer:', texts, 3)

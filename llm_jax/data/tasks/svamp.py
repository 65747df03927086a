"""SVAMP (arXiv:2103.07191): word problems of one or two steps, some with numbers to ignore."""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places, solutions
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = places.splits('SVAMP', train=(), test='SVAMP.json')
  return solutions.task(read, files, source='arXiv:2103.07191')


def read(record: Record) -> Iterator[Item]:
  """A problem."""
  body, question = (columns.text(record, name).strip() for name in ('Body', 'Question'))
  yield solutions.item(f'{body} {question}', columns.column(record, 'Answer'))

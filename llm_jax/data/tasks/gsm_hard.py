"""GSM-Hard (arXiv:2211.10435): questions of GSM8K with larger numbers."""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places, solutions
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  others = ('gsm_hard*.jsonl', 'gsmhardv2.jsonl', 'gsm-hard.jsonl')
  files = {'test': (*places.hub('gsm-hard', '', 'train'), *others)}
  return solutions.task(read, files, source='arXiv:2211.10435')


def read(record: Record) -> Iterator[Item]:
  """A problem."""
  yield solutions.item(columns.text(record, 'input'), columns.column(record, 'target'))

"""SST-2 of GLUE (doi:10.18653/v1/D13-1170): whether a review of a film is positive."""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task


def make() -> Task:
  """The task."""
  return sentences.task(_ask, ('negative', 'positive'), places.glue('SST-2', 'sst2'))


def _ask(record: Record) -> str:
  asked = 'Is this sentence positive or negative?'
  return sentences.question(columns.text(record, 'sentence'), asked)

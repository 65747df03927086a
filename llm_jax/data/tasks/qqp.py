"""QQP of GLUE: whether two questions on Quora ask the same."""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task


def make() -> Task:
  """The task."""
  files, label = places.glue('QQP', 'qqp'), ('label', 'is_duplicate')
  return sentences.task(_ask, ('no', 'yes'), files, label=label, metrics=('f1', 'acc'))


def _ask(record: Record) -> str:
  both = '\n'.join(f'Question {i}: {columns.text(record, f"question{i}")}' for i in (1, 2))
  return sentences.question(both, 'Do both questions ask the same thing?')

"""RTE of GLUE (arXiv:1804.07461): whether one text follows from another."""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task

LABELS = ('entailment', 'not_entailment')


def make() -> Task:
  """The task."""
  return sentences.task(ask, ('True', 'False'), places.glue('RTE', 'rte'), labels=LABELS)


def ask(record: Record) -> str:
  """A question in the columns of GLUE or of SuperGLUE."""
  premise = columns.text(record, 'sentence1', 'premise')
  hypothesis = columns.text(record, 'sentence2', 'hypothesis')
  return sentences.question(premise, f'{hypothesis} True or False?')

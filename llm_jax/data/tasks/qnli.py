"""QNLI of GLUE (arXiv:1804.07461): whether a sentence of a passage answers a question."""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task


def make() -> Task:
  """The task."""
  files, labels = places.glue('QNLI', 'qnli'), ('entailment', 'not_entailment')
  return sentences.task(_ask, ('yes', 'no'), files, labels=labels)


def _ask(record: Record) -> str:
  both = f'{columns.text(record, "question")}\n{columns.text(record, "sentence")}'
  return sentences.question(both, 'Does this response answer the question?')

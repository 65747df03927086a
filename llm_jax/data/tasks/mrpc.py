"""MRPC of GLUE (Dolan and Brockett, 2005): whether two sentences mean the same."""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task


def make() -> Task:
  """The task."""
  files, label = places.glue('MRPC', 'mrpc'), ('label', 'Quality')
  return sentences.task(_ask, ('no', 'yes'), files, label=label, metrics=('f1', 'acc'))


def _ask(record: Record) -> str:
  first = columns.text(record, 'sentence1', '#1 String')
  second = columns.text(record, 'sentence2', '#2 String')
  both = f'Sentence 1: {first}\nSentence 2: {second}'
  return sentences.question(both, 'Do both sentences mean the same thing?')

"""WiC of SuperGLUE (arXiv:1808.09121): whether a word means the same in two sentences."""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task


def make() -> Task:
  """The task."""
  return sentences.task(
    _ask,
    ('no', 'yes'),
    places.super_glue('WiC', 'wic'),
    labels=('false', 'true'),
    source=sentences.SUPERGLUE,
  )


def _ask(record: Record) -> str:
  first, second = (columns.text(record, f'sentence{i}') for i in (1, 2))
  word = first[int(record['start1']) : int(record['end1'])]
  asked = f"Is the word '{word}' used in the same way in the two sentences above?"
  return sentences.question(f'Sentence 1: {first}\nSentence 2: {second}', asked)

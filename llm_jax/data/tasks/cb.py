"""CommitmentBank of SuperGLUE (arXiv:1905.00537): whether someone stands by what a clause says."""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task


def make() -> Task:
  """The task."""
  return sentences.task(
    _ask,
    ('True', 'False', 'Neither'),
    places.super_glue('CB', 'cb'),
    labels=('entailment', 'contradiction', 'neutral'),
    metrics=('acc', 'macro_f1'),
    source=sentences.SUPERGLUE,
  )


def _ask(record: Record) -> str:
  said = columns.text(record, 'hypothesis')
  return sentences.question(columns.text(record, 'premise'), f'{said}. True, False, or Neither?')

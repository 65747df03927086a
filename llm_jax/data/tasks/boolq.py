"""BoolQ of SuperGLUE (arXiv:1905.10044): questions with yes or no, behind a passage."""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task


def make() -> Task:
  """The task."""
  return sentences.task(
    _ask,
    ('no', 'yes'),
    {
      split: (*some, *places.hub('boolq', '', split))
      for split, some in places.super_glue('BoolQ', 'boolq', 'boolq/dev.jsonl').items()
    },
    labels=('false', 'true'),
    label=('label', 'answer'),
    source=sentences.SUPERGLUE,
  )


def _ask(record: Record) -> str:
  passage, asked = columns.text(record, 'passage'), columns.text(record, 'question')
  return sentences.question(passage, f'{asked}?')

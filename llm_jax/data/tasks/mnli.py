"""MNLI of GLUE (arXiv:1704.05426): whether one sentence follows from another.

With `mismatched` on genres that the training set does not have.
"""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task


def make(*, mismatched: bool = False) -> Task:
  """The task, on either of its validation splits."""
  files = places.glue(
    'MNLI',
    'mnli',
    train='train',
    validation_matched='dev_matched',
    validation_mismatched='dev_mismatched',
  )
  return sentences.task(
    _ask,
    ('True', 'Neither', 'False'),
    files,
    labels=('entailment', 'neutral', 'contradiction'),
    label=('label', 'gold_label'),
    split='validation_mismatched' if mismatched else 'validation_matched',
  )


def _ask(record: Record) -> str:
  premise = columns.text(record, 'premise', 'sentence1')
  said = columns.text(record, 'hypothesis', 'sentence2').strip()
  said += '' if said.endswith('.') else '.'
  return sentences.question(premise, f'{said} True, False or Neither?')

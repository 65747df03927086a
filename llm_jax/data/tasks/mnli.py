"""MNLI of GLUE (arXiv:1704.05426): whether one sentence follows from another.

With `mismatched` on genres that the training set does not have.
"""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task

_HELD_OUT = {'validation': 'dev', 'test': 'test'}


def make(*, mismatched: bool = False) -> Task:
  """The task, on genres of its training set or on others."""
  which = 'mismatched' if mismatched else 'matched'
  files = places.glue(
    'MNLI',
    'mnli',
    train='train',
    **{f'{split}_{which}': f'{name}_{which}' for split, name in _HELD_OUT.items()},
  )
  return sentences.task(
    _ask,
    ('True', 'Neither', 'False'),
    {split.partition('_')[0]: some for split, some in files.items()},
    labels=('entailment', 'neutral', 'contradiction'),
    label=('label', 'gold_label'),
    called={split: f'{split}_{which}' for split in _HELD_OUT},
  )


def _ask(record: Record) -> str:
  premise = columns.text(record, 'premise', 'sentence1')
  said = columns.text(record, 'hypothesis', 'sentence2').strip()
  said += '' if said.endswith('.') else '.'
  return sentences.question(premise, f'{said} True, False or Neither?')

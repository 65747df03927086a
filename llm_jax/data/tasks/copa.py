"""COPA of SuperGLUE (arXiv:1905.00537): which of two sentences is the cause or the effect.

As in lm-eval, a choice begins with a blank of its own, so that two stand before it.
"""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = places.super_glue('COPA', 'copa')
  return Task(
    read=read, files=files, metrics=('acc', 'acc_norm'), chance=0.5, source=sentences.SUPERGLUE
  )


def read(record: Record) -> Iterator[Item]:
  """A sentence with its two choices."""
  word = {'cause': 'because', 'effect': 'therefore'}[record['question']]
  premise = columns.text(record, 'premise').strip()[:-1]
  choices = (columns.text(record, name) for name in ('choice1', 'choice2'))
  lowered = tuple(f' {choice[:1].lower()}{choice[1:]}' for choice in choices)
  yield Item(f'{premise} {word}', lowered, columns.label(columns.column(record, 'label')))

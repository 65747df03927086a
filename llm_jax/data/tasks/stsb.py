"""STS-B of GLUE (doi:10.18653/v1/S17-2001): how similar two sentences are, from 0 to 5.

The answer is one of 0.0, 0.2, ... 5.0, as in T5 (arXiv:1910.10683), and is correlated with the
score that people gave.
"""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Item, Record, Task

CHOICES = tuple(f'{i / 5:.1f}' for i in range(26))


def make() -> Task:
  """The task."""
  return Task(
    read=read,
    files=places.glue('STS-B', 'stsb'),
    metrics=('pearson', 'spearman'),
    mean_of=('pearson', 'spearman'),
    source=sentences.GLUE,
  )


def read(record: Record) -> Iterator[Item]:
  """A pair; `about` has the score, and the gold answer is the one next to it."""
  value = columns.column(record, 'label', 'score')
  score = float(value) if value not in (None, '') else -1.0
  if not 0 <= score <= 5:
    raise ValueError('its label is hidden; choose a split whose labels are public')
  first, second = (columns.text(record, name) for name in ('sentence1', 'sentence2'))
  both = f'Sentence 1: {first}\nSentence 2: {second}'
  asked = 'How similar are both sentences, from 0.0 to 5.0?'
  about = {'said': tuple(map(float, CHOICES)), 'score': score}
  yield Item(sentences.question(both, asked), CHOICES, round(score * 5), about=about)

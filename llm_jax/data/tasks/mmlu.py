"""MMLU (arXiv:2009.03300): 57 subjects, four answers each, with five examples of the subject.

Three formats are in use, and they rank models differently. The default has the bytes of lm-eval.
`original` is that of the authors, github.com/hendrycks/test: two blanks in the header, and the
question as it is. `continuation` scores whole answers behind the bare question. Its first examples
are always the same ones.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Literal

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task

Variant = Literal['lm_eval', 'original', 'continuation']
COLUMNS = ('question', 'A', 'B', 'C', 'D', 'answer')


def make(*, variant: Variant = 'lm_eval', subjects: Sequence[str] = ()) -> Task:
  """The task in one of its formats, with all subjects or some."""
  full = variant == 'continuation'
  return Task(
    read=columns.chosen(functools.partial(read, variant=variant), subjects),
    files={
      split: _places(split, *others)
      for split, others in {'test': (), 'validation': ('val',), 'dev': ()}.items()
    },
    metrics=('acc', 'acc_norm') if full else ('acc',),
    chance=0.25,
    split='test',
    examples='dev',
    shots=5,
    draw='first',
    description=functools.partial(description, variant=variant),
    source='arXiv:2009.03300',
  )


def _places(split: str, short: str = '') -> tuple[str, ...]:
  short, names = short or split, ','.join(COLUMNS)
  each = (f'mmlu/*/{split}-*.parquet', f'*--mmlu/snapshots/*/*/{split}-*.parquet')
  return (
    *places.hub('mmlu', 'all', split),
    *each,
    f'data/{short}/*_{short}.csv?names={names}',
    f'mmlu/{short}/*_{short}.csv?names={names}',
  )


def description(subject: str, variant: Variant) -> str:
  """The header; that of the authors has two blanks before the subject."""
  what = 'questions' if variant == 'continuation' else 'multiple choice questions'
  blank = ' ' if variant == 'original' else ''
  return f'The following are {what} (with answers) about {blank}{subject.replace("_", " ")}.\n\n'


def read(record: Record, variant: Variant) -> Iterator[Item]:
  """A question of the hub, or of the original tables; these name the subject by their files."""
  if 'choices' in record:
    texts = tuple(record['choices'])
    subject = columns.text(record, 'subject')
  else:
    texts = tuple(columns.text(record, letter) for letter in COLUMNS[1:5])
    subject = record['file'].rpartition('_')[0]
  gold = columns.label(record['answer'], ('a', 'b', 'c', 'd'))
  question = columns.text(record, 'question')
  stem = question if variant == 'original' else question.strip()
  if variant == 'continuation':
    context, choices = f'Question: {stem}\nAnswer:', texts
  else:
    context, choices = f'{stem}\n{columns.lettered(texts)}', tuple('ABCD')
  yield Item(context, choices, gold, subject=subject, stem=stem, options=texts)

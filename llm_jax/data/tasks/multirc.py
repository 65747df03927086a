"""MultiRC of SuperGLUE (doi:10.18653/v1/N18-1023): which answers to a question are right.

Every answer is asked about on its own. F1a is the F1 over all answers, F1m its mean over questions,
and EM the share of questions whose answers are all judged right. In lm-eval the choices stand the
other way round, so that label 1, which means right, goes with 'no'; here it goes with 'yes'.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task; passages are clusters."""
  return Task(
    read=read,
    files=places.super_glue('MultiRC', 'multirc'),
    metrics=('f1a', 'em', 'f1m', 'acc'),
    mean_of=('f1a', 'em'),
    source=sentences.SUPERGLUE,
  )


def read(record: Record) -> Iterator[Item]:
  """An answer of the hub, or a passage with questions and answers of the original."""
  if 'paragraph' in record:
    where = record['idx']
    numbers = tuple(where[name] for name in ('paragraph', 'question', 'answer'))
    texts = tuple(columns.text(record, name) for name in ('paragraph', 'question', 'answer'))
    yield _item(texts, numbers, record)
    return
  passage = record['passage']
  for question in passage['questions']:
    for answer in question['answers']:
      numbers = (record['idx'], question['idx'], answer['idx'])
      yield _item((passage['text'], question['question'], answer['text']), numbers, answer)


def _item(
  texts: tuple[str, ...], numbers: tuple[int, ...], answer: Mapping[str, Any]
) -> Item:  # fmt: skip
  passage, question, said = texts
  group = f'{numbers[0]}.{numbers[1]}'
  return Item(
    sentences.question(passage, question),
    tuple(f'{said}\nIs the answer correct? {word}' for word in ('no', 'yes')),
    columns.label(columns.column(answer, 'label')),
    cluster=str(numbers[0]),
    about={'group': group},
    key=f'{group}.{numbers[2]}',
  )

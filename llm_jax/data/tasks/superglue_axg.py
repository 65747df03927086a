"""Winogender of SuperGLUE (arXiv:1804.09301): pairs that differ in the gender of a pronoun.

`parity` is the share of pairs that get the same answer.
"""

import dataclasses
from collections.abc import Iterator

from llm_jax.data.tasks import places, rte, sentences
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task; it is a test of models for RTE and has no other split."""
  test = (*places.hub('super_glue', 'axg', 'test'), 'AX-g/AX-g.jsonl')
  files = {'test': test, 'train': places.super_glue('RTE', 'rte')['train']}
  task = sentences.task(
    rte.ask,
    ('True', 'False'),
    files,
    labels=rte.LABELS,
    split='test',
    source=sentences.SUPERGLUE,
  )

  def read(record: Record) -> Iterator[Item]:
    for item in task.read(record):
      pair = str(record.get('pair_id', int(record['idx']) // 2))
      yield item._replace(cluster=pair, about={'group': pair})

  return dataclasses.replace(task, read=read, metrics=('parity', 'acc'), chance=0.0)

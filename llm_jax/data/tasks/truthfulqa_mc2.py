"""TruthfulQA with several true answers: their share of the probability (arXiv:2109.07958)."""

from collections.abc import Iterator

from llm_jax.data.tasks.task import Item, Record, Task
from llm_jax.data.tasks.truthfulqa_mc1 import FILES, asked, several


def make() -> Task:
  """The task; `share` is what others call MC2."""
  return Task(
    read=read,
    files=FILES,
    kind='several',
    metrics=('share',),
    chance=0.5,
    source='arXiv:2109.07958',
  )


def read(record: Record) -> Iterator[Item]:
  """A question."""
  texts, gold = several(record)
  yield Item(asked(record), texts, gold)

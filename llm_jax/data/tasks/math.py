"""MATH (arXiv:2103.03874): problems of competitions in LaTeX; its areas are the subjects."""

from collections.abc import Iterator

from llm_jax.data.questions import gold_of
from llm_jax.data.tasks import columns, solutions
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task; examples are whole solutions of the same area."""
  files = {
    split: (
      f'hendrycks_math/*/{split}-*.parquet',
      f'*--hendrycks_math/snapshots/*/*/{split}-*.parquet',
      f'competition_math/data/{split}-*.parquet',
      f'MATH/{split}/*/*.json',
      *(('MATH-500/test.jsonl', '*--MATH-500/snapshots/*/test.jsonl') if split == 'test' else ()),
      f'math_{split}.jsonl',
    )
    for split in ('train', 'test')
  }
  stop = ('\nProblem:',)
  return solutions.task(
    read, files, stop=stop, shots=4, max_new=512, source='arXiv:2103.03874'
  )  # fmt: skip


def read(record: Record) -> Iterator[Item]:
  """A problem."""
  problem, solution = (columns.text(record, name) for name in ('problem', 'solution'))
  gold = gold_of(record.get('answer') or solution)
  subject = columns.text(record, 'type', 'subject')
  yield Item(f'Problem:\n{problem}\n\nSolution:', gold=gold, answer=solution, subject=subject)

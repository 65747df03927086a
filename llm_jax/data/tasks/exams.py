"""Questions with lettered answers, in the format of the hub or that of AI2: ARC, CommonsenseQA."""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task


def arc(name: str, metrics: tuple[str, ...]) -> Task:
  """The set of ARC with this name."""
  plain = name.replace('-', '_')
  files = {
    split: (*places.hub('ai2_arc', name, split), f'{name}-{theirs}.jsonl', f'{plain}_{short}.jsonl')
    for split, theirs, short in (
      ('train', 'Train', 'train'),
      ('validation', 'Dev', 'val'),
      ('test', 'Test', 'test'),
    )
  }
  return Task(
    read=read, files=files, metrics=metrics, chance=0.25, split='test', source='arXiv:1803.05457'
  )


def parts(record: Record) -> tuple[str, tuple[str, ...], int]:
  """The question, its answers, and the number of the right one."""
  stem, choices = columns.column(record, 'question', 'question_stem'), record
  if isinstance(stem, dict):  # of AI2
    stem, choices = stem['stem'], stem
  labels, texts = columns.listed(choices['choices'])
  key = (columns.column(record, 'answerKey') or '').strip()
  if not key:
    raise ValueError('its label is hidden; choose a split whose labels are public')
  if key not in labels:
    raise ValueError(f'label {key!r} is none of {", ".join(labels)}')
  return stem, tuple(texts), labels.index(key)


def read(record: Record) -> Iterator[Item]:
  """A question whose answers are scored as they are."""
  stem, texts, gold = parts(record)
  yield Item(f'Question: {stem}\nAnswer:', texts, gold, stem=stem, options=texts)

"""Texts with a class each, from files of your own: reviews with stars, pairs that agree or not."""

import string
from collections.abc import Callable, Iterable, Sequence

from llm_jax.data.tasks.task import Item, Record, Task
from llm_jax.types import BadInput

FILES = {
  split: (f'{split}.jsonl', f'{split}.tsv', f'{split}.csv', f'{split}.parquet')
  for split in ('train', 'validation', 'test')
}


def make(
  *,
  prompt: str = '{text}',
  label: str = 'label',
  classes: Sequence[str] = ('no', 'yes'),
) -> Task:
  """The task.

  Args:
    prompt: what a model reads, with the names of columns in braces, such as
      '{sentence1}\\n{sentence2}\\nAnswer:'.
    label: the column with the class: its name, or else its number from 0.
    classes: their names, the first of number 0.

  Raises:
    BadInput: no column in the prompt, or fewer than two classes.
  """
  try:
    columns = [name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None]
  except ValueError as error:
    raise BadInput(f'prompt {prompt!r}: {error}') from None
  if not columns or not all(name.isidentifier() for name in columns):
    raise BadInput(f"prompt {prompt!r} names no column; write '{{text}}', or another in braces")
  if len(set(classes)) < 2:
    raise BadInput(f'classes {tuple(classes)}; give the names of two or more')
  return Task(
    read=_reader(prompt, label, tuple(classes)),
    files=FILES,
    metrics=('acc', 'mcc', 'f1') if len(classes) == 2 else ('acc',),
    chance=1 / len(classes),
  )


def _reader(
  prompt: str, label: str, classes: tuple[str, ...]
) -> Callable[[Record], Iterable[Item]]:
  def read(record: Record) -> Iterable[Item]:
    filled = prompt.format_map({name: str(value) for name, value in record.items()})
    yield Item(filled, classes, _number(record[label], classes))

  return read


def _number(value: object, classes: tuple[str, ...]) -> int:
  """Of a class, by its name or else its number.

  >>> _number('yes', ('no', 'yes')), _number(0, ('no', 'yes')), _number('3', ('1', '2', '3'))
  (1, 0, 2)
  """
  name = str(value).strip()
  if name in classes:
    return classes.index(name)
  if isinstance(value, float) and value.is_integer():
    name = str(int(value))
  if not (name.isdecimal() and int(name) < len(classes)):
    raise ValueError(f'label {value!r} is none of {classes}')
  return int(name)

"""What the columns of benchmarks hold: texts, labels and letters, as each format writes them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from llm_jax.data.tasks.task import Item, Record

LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'


def text(record: Record, *names: str) -> str:
  """The text of the first of these columns that is there; an empty cell is ''.

  >>> text({'premise': 'It rains.'}, 'sentence1', 'premise')
  'It rains.'

  Raises:
    KeyError: none of them is there.
    TypeError: it is no text.
  """
  value = column(record, *names)
  if value is not None and not isinstance(value, str):
    raise TypeError(f'{" or ".join(names)} is {type(value).__name__}, not a text')
  return value or ''


def column(record: Record, *names: str) -> Any:
  """The first of these columns that is there."""
  name = next((name for name in names if name in record), None)
  if name is None:
    raise KeyError(names[0])
  return record[name]


def label(value: Any, names: Sequence[str] = ()) -> int:
  """The number of a class, which is given by its number, by its name, or as true or false.

  >>> label('not_entailment', ('entailment', 'not_entailment')), label('1'), label(True)
  (1, 1, 1)

  Raises:
    ValueError: it is hidden, as those of test sets are, or none of the names.
  """
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  said = str(value).strip().lower()
  if value is None or said in ('', '-1'):
    raise ValueError('its label is hidden; choose a split whose labels are public')
  if isinstance(value, int):
    return int(value)
  if said in names:
    return names.index(said)
  if said.isdecimal():
    return int(said)
  raise ValueError(f'label {value!r} is none of {", ".join(names) or "0, 1, ..."}')


def lettered(texts: Sequence[str]) -> str:
  r"""Answers to choose from, a line each, and the question for the letter of one.

  >>> lettered(['red', 'blue'])
  'A. red\nB. blue\nAnswer:'
  """
  lines = (f'{letter}. {text}\n' for letter, text in zip(LETTERS, texts, strict=False))
  return f'{"".join(lines)}Answer:'


def listed(choices: Any) -> tuple[list[str], list[str]]:
  """Labels and texts of choices that are a record of lists, or a list of records.

  >>> listed({'label': ['A', 'B'], 'text': ['x', 'y']})
  (['A', 'B'], ['x', 'y'])
  >>> listed([{'label': 'A', 'text': 'x'}, {'label': 'B', 'text': 'y'}])
  (['A', 'B'], ['x', 'y'])
  """
  if isinstance(choices, list):
    choices = {name: [choice[name] for choice in choices] for name in ('label', 'text')}
  return [*choices['label']], [*choices['text']]


def chosen(
  read: Callable[[Record], Iterable[Item]], subjects: Collection[str]
) -> Callable[[Record], Iterable[Item]]:
  """Reads questions of these subjects alone; of all, where there are none."""

  def some(record: Record) -> Iterator[Item]:
    return (item for item in read(record) if item.subject in subjects)

  return some if subjects else read

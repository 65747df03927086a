"""A task of yours in one file of JSON lines: what it is, and then its questions.

  {"task": {"kind": "choices", "metrics": ["acc"], "chance": 0.25, "shots": 2}}
  {"context": "2 + 2 =", "choices": ["3", "4", "5", "6"], "gold": 1}

The first line has the fields of `Task` that are texts, numbers or lists of these, and the others
have those of `Item`. `description` is a text in which {subject} stands for the subject, `examples`
the file of those, beside this one, and `judge` names what compares answers that are written: a file
of rewards/.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_jax.data import json_text
from llm_jax.data.compression import lines
from llm_jax.data.tasks.task import Item, Kind, Record, Task
from llm_jax.find import find
from llm_jax.options import suggest
from llm_jax.types import BadInput

KINDS: tuple[Kind, ...] = ('choices', 'several', 'text', 'rolling', 'generate')
METRICS = {
  'choices': ('acc', 'acc_norm'),
  'several': ('share', 'acc'),
  'text': ('acc', 'perplexity'),
  'rolling': ('bits_per_byte', 'byte_perplexity', 'word_perplexity'),
}
_HEAD = {
  'kind': str, 'metrics': list, 'mean_of': list, 'chance': (int, float), 'examples': str,
  'shots': int, 'draw': str, 'description': str, 'delimiter': str, 'separator': str, 'judge': str,
  'stop': list, 'max_new': int, 'source': str,
}  # fmt: skip
_TEXTS = ('context', 'answer', 'subject', 'cluster', 'stem', 'key')
_LISTS = ('choices', 'contexts', 'options')


def is_own(name: str) -> bool:
  """Whether a task is named by such a file."""
  return name.partition('.json')[2] in ('l', 'l.gz', 'l.zst')


def task(path: str) -> Task:
  """The task in a file.

  Raises:
    BadInput: there is no such file, or its first line is no task.
  """
  file = Path(path).expanduser().resolve()
  if not file.is_file():
    raise BadInput(f'task {path}: there is no such file')
  head = _head(path, str(file))
  kind = head.get('kind', 'choices')
  if kind not in KINDS:
    raise BadInput(f'{path}, line 1: no kind {kind!r}; {suggest(str(kind), KINDS)}')
  judge = head.pop('judge', '')
  if (kind == 'generate') != bool(judge):
    why = 'needs a judge, such as "exact_answer"' if kind == 'generate' else 'takes no judge'
    raise BadInput(f'{path}, line 1: kind {kind!r} {why}')
  files = {'validation': (str(file),)}
  if examples := head.pop('examples', ''):
    files['train'] = (str(file.parent / examples),)
  shape: dict[str, Any] = {
    name: tuple(value) if isinstance(value, list) else value for name, value in head.items()
  }
  shape['metrics'] = shape.get('metrics') or METRICS.get(kind, (judge,))
  if 'description' in shape:
    shape['description'] = functools.partial(_described, shape['description'])
  if judge:
    shape['judge'] = _judge(path, judge)
  if shape.get('draw', 'first') not in ('first', 'seeded'):
    raise BadInput(f"{path}, line 1: draw is 'first' or 'seeded', not {shape['draw']!r}")
  return Task(read=functools.partial(read, kind=kind), files=files, **shape)


def _described(text: str, subject: str) -> str:
  return text.replace('{subject}', subject)


def _head(path: str, file: str) -> dict[str, Any]:
  _, first = next(iter(lines(file)), (1, ''))
  try:
    value = json_text.loads(first.strip())
  except BadInput as error:
    raise BadInput(f'{path}, line 1: {error}; it is {{"task": {{...}}}}') from None
  head = value.get('task') if isinstance(value, dict) and len(value) == 1 else None
  if not isinstance(head, dict):
    raise BadInput(f'{path}, line 1: not {{"task": {{...}}}}, which says what the questions are')
  for name, one in head.items():
    if name not in _HEAD:
      raise BadInput(f'{path}, line 1: unknown field {name!r}; {suggest(name, sorted(_HEAD))}')
    wrong = not isinstance(one, _HEAD[name]) or isinstance(one, bool)
    if wrong or (isinstance(one, list) and not all(isinstance(text, str) for text in one)):
      what = {str: 'a text', list: 'a list of texts', int: 'a whole number'}
      raise BadInput(f'{path}, line 1: {name} is {what.get(_HEAD[name], "a number")}, not {one!r}')
  return dict(head)


def _judge(path: str, name: str) -> Callable[[str, Item], Mapping[str, float]]:
  module = find('rewards', name, source=path)
  if not hasattr(module, 'reward'):
    raise BadInput(
      f'{path}, line 1: {name!r} judges many answers at once; a task needs one `reward`'
    )
  return lambda said, item: {name: module.reward(said, str(item.gold), **item.about)}


def read(record: Record, kind: str) -> Iterator[Item]:
  """A question; nothing of the first line."""
  fields = {name: value for name, value in record.items() if name not in ('file', 'folder')}
  if [*fields] == ['task']:
    return
  known = set(Item._fields)
  for name, value in fields.items():
    if name not in known:
      raise ValueError(f'unknown field {name!r}; {suggest(name, sorted(known))}')
    if name in _TEXTS and not isinstance(value, str):
      raise TypeError(f'{name} is a text, not {value!r}')
    texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
    if name in _LISTS and not texts:
      raise TypeError(f'{name} is a list of texts, not {value!r}')
    if name == 'about' and not isinstance(value, Mapping):
      raise TypeError(f'about is an object, not {value!r}')
  if kind != 'generate' and not fields.get('choices'):
    raise KeyError('choices')
  if kind in ('choices', 'several', 'generate') and 'gold' not in fields:
    raise KeyError('gold')
  if kind == 'several' and not isinstance(fields['gold'], list):
    raise TypeError(f'gold is a list of numbers, not {fields["gold"]!r}')
  made = {
    name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
  }
  yield Item(**{'context': '', **made})

"""What a model has answered, in a file that grows: what is there is not asked again.

Each answer is a line with a checksum, written as soon as it is known, so a killed evaluation loses
at most the batch that was running. How a batch is made up changes the last digits of its numbers.
That is why the file also says when a task began, and which answers were there by then: whoever goes
on makes the same batches as who was killed, and gets the same digits.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.files import json_line, read_lines, replacing

REMEDY = 'delete the file, and the questions are asked again'


# (what gives answers as they come, how many) -> the same, while somebody watches
Progress = Callable[[Iterable[tuple[int, Any]], int], Iterable[tuple[int, Any]]]


class Kept:
  """The answers of one model, by keys of `key_of`.

  >>> import tempfile
  >>> path = Path(tempfile.mkdtemp()) / 'kept.jsonl'
  >>> Kept(path).put({'a': 1.5})
  >>> Kept(path)['a'], 'b' in Kept(path)
  (1.5, False)
  """

  def __init__(self, path: Path) -> None:
    """Reads what is there.

    Raises:
      BadInput: a line is damaged; the message names it.
    """
    self._path = path
    self._answers: dict[str, Any] = {}
    self._places: dict[str, int] = {}  # how many answers are before one
    self._begun: dict[str, int] = {}  # how many there were when a list of questions began
    if path.is_file():
      lines = read_lines(path, REMEDY, grows=True)
      for _, record in lines:
        self._take(record)
      if not path.read_bytes().endswith(b'\n'):  # a kill has cut the last line short
        with replacing(path) as file:
          file.writelines(line for line, _ in lines)

  def __contains__(self, key: str) -> bool:
    return key in self._answers

  def __getitem__(self, key: str) -> Any:
    return self._answers[key]

  def begin(self, keys: Sequence[str]) -> frozenset[str]:
    """Those of the questions that had an answer when this list of them was begun first."""
    name = key_of(list(keys))
    if name not in self._begun:
      self._write([{'begun': name}])
    count = self._begun[name]
    return frozenset(key for key in keys if self._places.get(key, count) < count)

  def put(self, answers: Mapping[str, Any]) -> None:
    """Keeps answers; one that is there already stays as it is."""
    new = {key: value for key, value in answers.items() if key not in self._answers}
    self._write([{'key': key, 'answer': value} for key, value in new.items()])

  def _take(self, record: Mapping[str, Any]) -> None:
    if 'begun' in record:
      self._begun.setdefault(record['begun'], len(self._answers))
    elif 'key' in record:
      self._places.setdefault(record['key'], len(self._answers))
      self._answers.setdefault(record['key'], record.get('answer'))

  def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
    if not records:
      return
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with self._path.open('ab', buffering=0) as file:
      file.write(b''.join(map(json_line, records)))
    for record in records:
      self._take(record)


def asked_once(
  questions: Sequence[Any],
  ask: Callable[[Sequence[int], Collection[int]], Iterable[tuple[int, Any]]],
  kept: Kept | None,
  progress: Progress | None,
) -> Iterator[tuple[int, Any]]:
  """(number, answer) of each question, from what is kept or else from `ask`.

  Args:
    questions: as JSON has them.
    ask: gives (place, answer) for numbers of questions but for places whose answers are known.
    kept: answers from before; None for none.
    progress: called with what gives answers and how many it will give; gives it back.
  """
  keys = [key_of(one) for one in questions] if kept is not None else []
  before = kept.begin(keys) if kept is not None else frozenset()
  numbers = [i for i in range(len(questions)) if kept is None or keys[i] not in before]
  known = {place for place, i in enumerate(numbers) if kept is not None and keys[i] in kept}
  if kept is not None:
    yield from ((i, kept[key]) for i, key in enumerate(keys) if key in kept)
  if len(known) == len(numbers):
    return
  found = ask(numbers, known)
  for place, answer in progress(found, len(numbers) - len(known)) if progress else found:
    if place not in known:
      if kept is not None:
        kept.put({keys[numbers[place]]: answer})
      yield numbers[place], answer


def key_of(question: Any) -> str:
  """The name of what is asked, from its JSON.

  >>> key_of([[1, 2], 'x'])
  '0aa6a7ae8092abf5b419e9ce3713d144'
  """
  return hashlib.sha256(json.dumps(question).encode()).hexdigest()[:32]

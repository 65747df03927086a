"""Groups of encoded answers to one prompt, which are arranged as rows of one length.

Letters: G answers of a group, L tokens of a row.
"""

import hashlib
import operator
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_jax.data import kept
from llm_jax.types import BadInput


class Answer(NamedTuple):
  """Ids after the prompt, the stop token last, and a mask of those that the assistant said."""

  ids: Sequence[int]
  mask: Sequence[int]


class Group(NamedTuple):
  """Answers to one prompt, best first; `value` is the margin, or the label as 1 or 0."""

  prompt: list[int]
  answers: list[Answer]
  value: float


def has_twins(group: Group) -> bool:
  """Whether two of its answers are the same."""
  return len({tuple(answer.ids) for answer in group.answers}) < len(group.answers)


def _longest(group: Group) -> int:
  return max(len(answer.ids) for answer in group.answers)


def needed(group: Group, overlong: str, header: Sequence[int]) -> int:
  """The tokens of a row in which the group is not left out, as `fit` decides it."""
  prompt = header if overlong == 'cut_prompt' else group.prompt
  return len(prompt) + (1 if overlong == 'cut_answer' else _longest(group))


def fit(
  group: Group, length: int, overlong: str, header: Sequence[int], counts: Counter[str]
) -> Group | None:
  """The group in rows of `length` tokens, or None if it does not fit.

  Args:
    group: answers to one prompt.
    length: L.
    overlong: see `llm_jax.data.preferences.make`.
    header: the shortest possible prompt: what the template writes before an answer.
    counts: counts 'dropped', 'cut_prompt' and 'cut_answer', and why some could not be cut.
  """
  longest = _longest(group)
  if len(group.prompt) + longest <= length:
    return group
  if overlong == 'drop':
    counts['dropped'] += 1
    return None
  if overlong == 'cut_prompt':
    room = length - longest
    if room < len(header):
      counts['answer too long'] += 1
      return None
    begin = 1 if header[0] == group.prompt[0] else 0  # the first token opens every text
    tail = group.prompt[len(group.prompt) - (room - begin) :]
    fitted = group._replace(prompt=group.prompt[:begin] + tail)
  else:
    room = length - len(group.prompt)
    answers = [Answer(a.ids[:room], a.mask[:room]) for a in group.answers] if room > 0 else []
    fitted = group._replace(answers=answers)
    if not answers or not all(any(answer.mask) for answer in answers):
      counts['prompt too long'] += 1
      return None
    if has_twins(fitted):
      counts['identical after the cut'] += 1
      return None
  counts[overlong] += 1
  return fitted


def as_rows(groups: Sequence[Group], tallies: kept.Tallies) -> tuple[list[kept.Row], kept.Tallies]:
  """Groups as they are kept: the prompt is the first piece, of which nothing is trained on."""
  rows = []
  for prompt, answers, value in groups:
    rows.append(kept.Row([(prompt, [0] * len(prompt)), *answers], value))
  return rows, tallies


class Kept:
  """Groups in a folder, from what `as_rows` made."""

  def __init__(self, rows: kept.Rows) -> None:
    self._rows = rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Group:
    ((prompt, _), *answers), value = self._rows[range(len(self))[index]]
    return Group([*prompt], [Answer(*answer) for answer in answers], value)

  def __repr__(self) -> str:
    return repr(self._rows)


class Groups:
  """Rows of groups; `[i]` gives what `llm_jax.data.preferences.make` says.

  `repr` holds a digest of the content.
  """

  def __init__(
    self,
    groups: Sequence[Group] | Kept,
    *,
    length: int,
    size: int,
    value: str,
    mismatched: bool = False,
    pad: int = 0,
  ):
    if mismatched and len(groups) == 1:
      raise BadInput('data.mismatched needs two rows of a source at least; give it more data')
    self.groups = groups
    self._length, self._size, self._value, self._pad = length, size, value, pad
    self._mismatched = mismatched

  def mismatch(self, index: int) -> Group:
    """The prompt of row `index` with as much of the answer of the row before as fits."""
    prompt, (ids, mask) = self.groups[index].prompt, self.groups[index - 1].answers[0]
    room = self._length - len(prompt)
    return Group(prompt, [Answer(ids[:room], mask[:room])], 0.0)

  def cut_mismatches(self) -> int:
    """How many answers `mismatch` has to cut."""
    if not self._mismatched:
      return 0
    count, before = 0, len(self.groups[-1].answers[0].ids)
    for group in self.groups:
      count += len(group.prompt) + before > self._length
      before = len(group.answers[0].ids)
    return count

  def __len__(self) -> int:
    return len(self.groups)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'row {index} of {len(self)}')
    row = self._arrays(self.groups[index])
    if self._mismatched:
      row |= {f'kl_{k}': v for k, v in self._arrays(self.mismatch(index)).items()}
    return row | {self._value: np.array(self.groups[index].value, np.float32)}

  def _arrays(self, group: Group) -> dict[str, np.ndarray]:
    shape = (self._size, self._length)
    row: dict[str, np.ndarray] = {
      'tokens': np.full(shape, self._pad, np.int32),
      'segment': np.zeros(shape, np.int32),
      'position': np.zeros(shape, np.int32),
      'mask': np.zeros(shape, np.float32),
    }
    begin = len(group.prompt)
    for i, (ids, mask) in enumerate(group.answers):
      end = begin + len(ids)
      row['tokens'][i, :end] = [*group.prompt, *ids]
      row['segment'][i, :end] = 1
      row['position'][i, :end] = np.arange(end)
      row['mask'][i, begin:end] = mask
    return row

  def __repr__(self) -> str:
    shape = self._size, self._length, self._value, self._mismatched
    groups = self.groups if isinstance(self.groups, Kept) else list(self.groups)
    digest = hashlib.sha256(repr((shape, groups)).encode()).hexdigest()
    return f'Groups({len(self)}, sha256={digest[:12]!r})'

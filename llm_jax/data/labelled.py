"""Texts with a class, packed into rows: for a head of classes, or as text with the class behind it.

A text is the context of a question of `data/tasks`, and its classes are the answers to choose from.
So the same questions train a classifier, train a model of language, and are put to either.
"""

import hashlib
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from llm_jax.data import lengths, packed
from llm_jax.data.sources import open_records
from llm_jax.data.splits import hash_split
from llm_jax.data.tasks import files
from llm_jax.data.tasks.task import Item, Task
from llm_jax.find import call, find
from llm_jax.options import Count, MinP, at_least, checked
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, Tokenizer

WRITES = lambda o: (
  *('tokens', 'mask', 'position', 'segment'),
  *(('target',) if o['form'] == 'head' else ()),
)


class Labelled(NamedTuple):
  """A text as ids, its class, and how many of its last ids are trained on."""

  ids: Sequence[int]
  target: int
  trained: int = 1


@checked(where='data')
def make(
  tokenizer: Tokenizer,
  *,
  task: str,
  path: str,
  classes: Sequence[str],
  split: str = 'train',
  variant: Mapping[str, Any] | None = None,
  form: Literal['head', 'text'] = 'head',
  length: Annotated[int, at_least(2)] = 128,
  pack: bool = True,
  max_texts: Count | None = None,
  validation_fraction: MinP = 0.1,
) -> 'Rows':
  """Rows of texts, as a random-access sequence; prints one line about them.

  A text is begin + context + end, and its class is read at the end. By text it is begin + context +
  delimiter + name of the class + end, and all behind the context is predicted. What is longer than
  a row loses its beginning, which is counted.

  Args:
    tokenizer: of the model.
    task: a file of data/tasks whose questions all have the same choices, or one of yours;
      'labelled' reads files with a text and a label.
    path: the folder of all benchmarks, or the files of this one, see data/tasks/files.py.
    classes: names of the classes, as the task calls its choices, in the order of
      `config.model.classes`.
    split: 'train' or 'validation', or another that the task has.
    variant: keyword arguments of the task's `make`; `classes` need not be said again.
    form: whether the class is a target for a head of classes, or text.
    length: L, tokens of a row.
    pack: whether a row holds several texts, or one and padding.
    max_texts: the first so many texts; None for all.
    validation_fraction: share of the texts held out of files that are the same for all splits.

  Returns:
    A sequence of dicts of arrays [L]: `tokens`, `segment` (0 = padding), `position` int32, `mask`
    float32, 1 where something is predicted, and `target` int32, the class there.

  Raises:
    BadInput: an option, file or record cannot be used, or a choice is none of `classes`.
  """
  benchmark: Task = call(
    find('data.tasks', task).make,
    dict(variant or {}),
    where='data.variant',
    offered={'classes': classes},
  )
  items = _held(files.items(task, benchmark, split, path), path, split, validation_fraction)
  items = items[:max_texts]
  if not items:
    raise BadInput(f'data: no texts are left in the {split} split of {path}')
  numbers = [_class_of(item, classes, task) for item in items]
  contexts = [item.context for item in items]
  if form == 'head':
    ids = encoded(tokenizer, contexts)
    texts = [Labelled(*both) for both in zip(ids, numbers, strict=True)]
  else:
    answers = [f'{benchmark.delimiter}{classes[number]}' for number in numbers]
    texts = spelled(tokenizer, contexts, answers)
  rows = Rows.of(texts, length, pack=pack, pad=tokenizer.pad_id, targets=form == 'head')
  _report(split, texts, rows, numbers, classes, length)
  return rows


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
  """Each text between the begin and the end of a document, as a classifier reads it."""
  end = tokenizer.eos_id
  return [[*tokenizer.begin, *ids, end] for ids in tokenizer.encode_batch(list(texts))]


def spelled(
  tokenizer: Tokenizer, contexts: Sequence[str], answers: Sequence[str]
) -> list[Labelled]:
  """Contexts with answers behind them; what differs from the context alone is trained on."""
  wholes = encoded(tokenizer, [a + b for a, b in zip(contexts, answers, strict=True)])
  found = []
  for context, whole in zip(encoded(tokenizer, contexts), wholes, strict=True):
    same = next(i for i, (a, b) in enumerate(zip(context, whole, strict=False)) if a != b)
    found.append(Labelled(whole, 0, len(whole) - same))
  return found


def _class_of(item: Item, classes: Sequence[str], task: str) -> int:
  """The number of a question's right answer among the classes."""
  if item.contexts or not isinstance(item.gold, int):
    raise BadInput(f'data.task {task}: its questions have no class; choose another')
  name = item.choices[item.gold]
  if set(item.choices) != set(classes):
    raise BadInput(
      f'data.classes {tuple(classes)}: the choices of {task} are {item.choices}; set '
      f'config.data.classes="{item.choices}"'
    )
  return list(classes).index(name)


def _held(items: list[Item], path: str, split: str, fraction: float) -> list[Item]:
  """Those of a split, where its files do not say: a hash of the text divides them."""
  if split not in ('train', 'validation') or not files.is_source(path) or '{split}' in path:
    return items
  if open_records(path).splits:
    return items
  split_of = hash_split(fraction, 0)
  return [item for item in items if split_of(item.context) == split]


class Rows:
  """Rows in memory; `[i]` gives one as in `make`, and `repr` holds a digest of the content."""

  def __init__(
    self,
    tokens_RL: np.ndarray,
    segment_RL: np.ndarray,
    mask_RL: np.ndarray,
    target_RL: np.ndarray | None,
  ):
    self.tokens_RL, self.segment_RL = tokens_RL, segment_RL
    self.mask_RL, self.target_RL = mask_RL, target_RL

  @classmethod
  def of(
    cls,
    texts: Sequence[Labelled],
    length: int,
    *,
    pack: bool = True,
    pad: int = 0,
    targets: bool = True,
  ) -> 'Rows':
    """Rows that hold every text once; the last ids of a text are what does not get lost.

    >>> rows = Rows.of([Labelled([1, 7, 2], 1), Labelled([1, 8, 9, 2], 0)], 8)
    >>> rows[0]['tokens'].tolist(), rows[0]['mask'].tolist()
    ([1, 7, 2, 1, 8, 9, 2, 0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    >>> rows[0]['target'].tolist()
    [0, 0, 1, 0, 0, 0, 0, 0]
    """
    ids = [text.ids[-length:] for text in texts]
    sizes_D = np.array([len(some) for some in ids], np.int64)
    trained_D = np.minimum([text.trained for text in texts], np.maximum(sizes_D - 1, 1))
    left_T = np.repeat(np.cumsum(sizes_D), sizes_D) - np.arange(sizes_D.sum())  # of its text
    mask_T = (left_T <= np.repeat(trained_D, sizes_D)).astype(np.uint8)
    target_T = np.repeat(np.array([text.target for text in texts], np.int32), sizes_D) * mask_T
    one_D = np.arange(len(texts))
    alone = packed.Pieces(one_D, np.zeros_like(one_D), sizes_D, one_D)
    pieces = packed.best_fit(sizes_D, length) if pack else alone
    tokens_T = np.fromiter((i for some in ids for i in some), np.int32)
    tokens_RL, segment_RL = packed.fill(tokens_T, sizes_D, pieces, length, pad=pad)
    both = (packed.fill(some_T, sizes_D, pieces, length)[0] for some_T in (mask_T, target_T))
    mask_RL, target_RL = both
    return cls(tokens_RL, segment_RL, mask_RL, target_RL if targets else None)

  def __len__(self) -> int:
    return len(self.tokens_RL)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'row {index} of {len(self)}')
    row = packed.row_of(self.tokens_RL[index], self.segment_RL[index])
    row['mask'] = self.mask_RL[index].astype(np.float32)
    return row if self.target_RL is None else {**row, 'target': self.target_RL[index]}

  def __repr__(self) -> str:
    arrays = (self.tokens_RL, self.mask_RL, self.target_RL)
    data = b''.join(array.tobytes() for array in arrays if array is not None)
    return f'Rows({len(self)}, sha256={hashlib.sha256(data).hexdigest()[:12]!r})'


def _report(
  split: str,
  texts: Sequence[Labelled],
  rows: Rows,
  numbers: Iterable[int],
  classes: Sequence[str],
  length: int,
) -> None:
  """Prints one line, which also counts what was cut."""
  sizes = [len(text.ids) for text in texts]
  counts = np.bincount(list(numbers), minlength=len(classes))
  both = zip(counts / len(texts), classes, strict=True)
  shares = ', '.join(f'{share:.1%} {name}' for share, name in both)
  line = (
    f'texts: {split}, {len(texts):,} in {len(rows):,} rows of {length}, {sum(sizes):,} tokens, '
    f'{1 - min(sum(min(size, length) for size in sizes) / (len(rows) * length), 1):.1%} padding; '
    f'{shares}'
  )
  if cut := sum(size > length for size in sizes):
    line += f'; {cut:,} too long, whose beginning is cut' + lengths.advice(
      split, length, Counter(sizes)
    )
  say(line)

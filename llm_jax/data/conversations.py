"""Conversations packed into rows of one length; the template says which tokens are trained on.

Packing is best-fit decreasing as in `llm_jax.data.packed`. So a conversation stays whole unless
`overlong` says otherwise, and attention stays inside of it.
"""

import hashlib
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np

from llm_jax.data import formats, lengths, packed, records
from llm_jax.data.formats import BadRow
from llm_jax.data.mixture import Mixture
from llm_jax.data.repeats import mixed
from llm_jax.options import MinP, at_least, checked
from llm_jax.text import chat
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, Tokenizer

WRITES = ('tokens', 'mask', 'position', 'segment')
_BATCH = 4096  # conversations encoded at once


class Encoded(NamedTuple):
  """One conversation, or a part of one."""

  ids: Sequence[int]
  mask: Sequence[int]


@checked(where='data')
def make(
  tokenizer: Tokenizer,
  *,
  sources: Mapping[str, str],
  split: str = 'train',
  length: Annotated[int, at_least(2)] = 256,
  template: str = 'llm_jax',
  date: str = '',
  train_on: Literal['all', 'last'] = 'all',
  overlong: Literal['drop', 'cut', 'split'] = 'drop',
  pack: bool = True,
  weights: Mapping[str, float] | None = None,
  validation: Mapping[str, str] | None = None,
  validation_fraction: MinP = 0.01,
  map: str = '',
  repeats: MinP = 0.0,
) -> Mixture:
  """Rows of packed conversations, as a random-access sequence; prints one line about them.

  Args:
    tokenizer: one that has the control tokens of the template.
    sources: name -> 'builtin', 'builtin:<family>', files or a dataset, as in
      `llm_jax.data.records`; an empty text leaves the source out.
    split: 'train' or 'validation'; also another that the sources have, as builtin ones have 'test'.
    length: L, tokens of a row.
    template: one of `chat.TEMPLATES`, 'folder' for the one that came with the tokenizer, or a file
      in Jinja.
    date: what a template in Jinja takes for today, such as 2026-01-31; see `chat.find_template`.
    train_on: whether 'all' answers of a conversation are trained on, or the 'last' one.
    overlong: what becomes of conversations of more than L tokens: 'drop' leaves them out, 'cut'
      keeps the first L tokens, and 'split' continues in another segment. A part without a trained
      token is left out, and an answer that was cut gets no stop token. All of this is counted.
    pack: whether a row holds several conversations, or one and padding.
    weights: source -> share of the rows; see `llm_jax.data.mixture`.
    validation: source -> what to read for its validation split.
    validation_fraction: share of the prompts held out of sources without a validation split.
    map: a module or file of yours with a function `record(record)`, which makes of each record one
      in a format that is read, or None to leave it out.
    repeats: share of the rows of train that are random tokens repeated, see
      `llm_jax.data.repeats`; they keep a small model able to copy.

  Returns:
    A sequence of dicts of arrays [L]: `tokens`, `segment` (0 = padding), `position` (from 0 in each
    segment) int32, and `mask` float32: 1 on trained tokens, never on the first of a segment.

  Raises:
    BadInput: an option, source or record cannot be used, or no rows are left.
  """
  written = chat.find_template(template, tokenizer, date)
  chosen = records.chosen(sources, validation, validation_fraction)
  counts: Counter[str] = Counter()
  rows, sizes = {}, []
  for name in chosen:
    found = records.read(
      name,
      chosen,
      partial(_conversation, calls=written == 'llm_jax' or not records.is_builtin(chosen[name])),
      lambda messages: messages,
      kind='conversations',
      split=split,
      counts=counts,
      validation=validation,
      validation_fraction=validation_fraction,
      map=map,
    )
    encoded = _encode(tokenizer, found, written, train_on, counts)
    fitting = [part for whole in encoded for part in fit(whole, length, overlong, counts)]
    sizes += [len(whole.ids) for whole in encoded]
    if fitting:
      rows[name] = Conversations(*arrange(fitting, length, pack=pack, pad=tokenizer.pad_id))
  _report(split, length, rows, sizes, counts)
  if not rows:
    raise records.none_left('conversations', split, chosen, counts)
  if weights is not None:
    weights = {n: w for n, w in weights.items() if n in rows or n not in sources}
  return mixed(rows, weights, repeats if split == 'train' else 0.0, tokenizer, length)


def _conversation(record: formats.Record, *, calls: bool) -> formats.Messages:
  """The messages of a record; without `calls` one in which a tool is called is left out."""
  messages = formats.conversation(record)
  if not calls and any(not isinstance(message['content'], str) for message in messages):
    raise BadRow('the template has no form for its calls')
  return messages


def _encode(
  tokenizer: Tokenizer,
  found: Iterable[tuple[str, formats.Messages | BadRow]],
  template: chat.ChatTemplate,
  train_on: str,
  counts: Counter[str],
) -> list[Encoded]:
  """The ids and masks of the conversations that have an answer."""
  waiting, encoded = [], []
  for where, messages in found:
    counts['conversations'] += 1
    if isinstance(messages, BadRow):
      counts[messages.reason] += 1
      continue
    try:
      pieces = chat.pieces(messages, template=template, train_on=train_on)
    except BadInput as error:
      raise BadInput(f'{where}: {error}') from error
    if not any(piece.trainable and not piece.control for piece in pieces):
      counts['no answer'] += 1
      continue
    waiting.append(pieces)
    if len(waiting) == _BATCH:
      encoded += chat.encode_all(tokenizer, waiting)
      waiting = []
  encoded += chat.encode_all(tokenizer, waiting)
  for ids, mask in encoded:
    chat.check(ids, mask, tokenizer)
  return [Encoded(*one) for one in encoded]


def fit(whole: Encoded, length: int, overlong: str, counts: Counter[str]) -> list[Encoded]:
  """A conversation as parts of at most `length` tokens, each with something to learn.

  Args:
    whole: ids and mask of the conversation.
    length: L.
    overlong: see `make`.
    counts: counts 'dropped', 'cut' or 'split' conversations, and 'no trained token' parts.

  >>> fit(Encoded([1, 2, 3, 4, 5], [0, 1, 1, 0, 1]), length=3, overlong='cut', counts=Counter())
  [Encoded(ids=[1, 2, 3], mask=[0, 1, 1])]
  """
  if len(whole.ids) <= length:
    return [whole]
  counts[{'drop': 'dropped'}.get(overlong, overlong)] += 1
  last = {'drop': 0, 'cut': length, 'split': len(whole.ids)}[overlong]
  starts = range(0, last, length)
  parts = [Encoded(*(part[start : start + length] for part in whole)) for start in starts]
  kept = [part for part in parts if any(part.mask[1:])]  # nothing comes before the first token
  counts['no trained token'] += len(parts) - len(kept)
  return kept


def arrange(
  parts: Sequence[Encoded], length: int, *, pack: bool = True, pad: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """tokens_RL, segment_RL and mask_RL of rows that hold every part once.

  Args:
    parts: of at most `length` tokens each.
    length: L.
    pack: several parts a row, best-fit decreasing; else one.
    pad: the id that fills a row after its last part.
  """
  lengths_D = np.array([len(part.ids) for part in parts], np.int64)
  tokens_T = np.fromiter((i for part in parts for i in part.ids), np.int32)
  mask_T = np.fromiter((m for part in parts for m in part.mask), np.uint8)
  mask_T[np.cumsum(lengths_D) - lengths_D] = 0  # nothing comes before the first token
  one_D = np.arange(len(parts))
  alone = packed.Pieces(one_D, np.zeros_like(one_D), lengths_D, one_D)
  pieces = packed.best_fit(lengths_D, length) if pack else alone
  tokens_RL, segment_RL = packed.fill(tokens_T, lengths_D, pieces, length, pad=pad)
  mask_RL, _ = packed.fill(mask_T, lengths_D, pieces, length)
  return tokens_RL, segment_RL, mask_RL


class Conversations:
  """Rows in memory; `[i]` gives one as in `make`, and `repr` holds a digest of the content."""

  def __init__(self, tokens_RL: np.ndarray, segment_RL: np.ndarray, mask_RL: np.ndarray):
    self.tokens_RL, self.segment_RL, self.mask_RL = tokens_RL, segment_RL, mask_RL

  def __len__(self) -> int:
    return len(self.tokens_RL)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'row {index} of {len(self)}')
    row = packed.row_of(self.tokens_RL[index], self.segment_RL[index])
    return {**row, 'mask': self.mask_RL[index].astype(np.float32)}

  def __repr__(self) -> str:
    digest = hashlib.sha256(self.tokens_RL.tobytes() + self.mask_RL.tobytes()).hexdigest()
    return f'Conversations({len(self)}, sha256={digest[:12]!r})'


def _report(
  split: str,
  length: int,
  rows: Mapping[str, Conversations],
  sizes: Sequence[int],
  counts: Counter[str],
) -> None:
  """Prints one line, which also counts what was left out and why."""
  number = sum(map(len, rows.values()))
  tokens = sum(int((some.segment_RL > 0).sum()) for some in rows.values())
  trained = sum(int(some.mask_RL.sum()) for some in rows.values())
  line = (
    f'conversations: {split}, {counts.pop("conversations", 0):,} conversations in {number:,} rows '
    f'of {length}, {tokens:,} tokens, {trained / max(tokens, 1):.1%} trained, '
    f'{1 - tokens / max(number * length, 1):.1%} padding'
  )
  words = {
    'dropped': 'too long and dropped' + lengths.advice(split, length, sizes),
    'cut': 'too long and cut',
    'split': 'too long and split',
    'no trained token': 'parts of these without a trained token left out',
  }
  for reason, count in counts.items():
    if count:
      line += f'; {count:,} ' + words.get(reason, f'left out: {reason}')
  say(line)

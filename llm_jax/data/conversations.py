"""Conversations packed into rows of one length; the template says which tokens are trained on.

Packing is best-fit decreasing as in `llm_jax.data.packed`. So a conversation stays whole unless
`overlong` says otherwise, and attention stays inside of it.
"""

import contextlib
import hashlib
import itertools
import operator
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np

from llm_jax.data import formats, kept, lengths, packed, records
from llm_jax.data.formats import BadRow
from llm_jax.data.mixture import Mixture
from llm_jax.data.repeats import mixed
from llm_jax.options import MinP, PlaceOrNone, at_least, checked
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
  joined: MinP = 0.0,
  repeats: MinP = 0.0,
  cache: PlaceOrNone = '',
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
    joined: share of the conversations of train that go on with the next one of their source, as far
      as a row holds both, their system messages agree, and the template writes both in full. It
      costs no token, and who learns from single questions alone answers the second question of a
      conversation as if it were the first.
    repeats: share of the rows of train in which tokens or text repeat, see
      `llm_jax.data.repeats`; they keep a small model able to copy.
    cache: a folder that keeps the rows of files and datasets once they are encoded, in shards of
      10,000 conversations, of which each is packed by itself; so there may be more of them than
      memory holds, and a run that starts again has them at once. '' keeps them in memory. Hosts of
      a job share it, as do runs side by side. Messages of trees are read into memory all the same.

  Returns:
    A sequence of dicts of arrays [L]: `tokens`, `segment` (0 = padding), `position` (from 0 in each
    segment) int32, and `mask` float32: 1 on trained tokens, never on the first of a segment.

  Raises:
    BadInput: an option, source or record cannot be used, or no rows are left.
  """
  written = chat.find_template(template, tokenizer, date)
  chosen = records.chosen(sources, validation, validation_fraction)
  joined = joined if split == 'train' else 0.0
  encode = partial(_encode, tokenizer, written, train_on, length, overlong, joined)
  which = dict(split=split, validation=validation, validation_fraction=validation_fraction, map=map)
  rows, tallies = records.by_source(
    chosen,
    lambda spec, record: _conversation(
      record, calls=written == 'llm_jax' or not records.is_builtin(spec)
    ),
    lambda messages: messages,
    kind='conversations',
    which=which,
    rows=lambda found: _in_memory(*encode(found), length, pack, tokenizer.pad_id),
    cache=cache,
    made_from={
      'tokenizer': tokenizer.fingerprint,
      'template': getattr(written, 'text', written),
      'options': [train_on, length, overlong, pack, *([joined] if joined else [])],
    },
    encode=lambda some: _packed(*encode(some), length, pack),
    opened=lambda shards: Kept(shards, length, tokenizer.pad_id),
  )
  left_out = tallies['left out']
  _report(split, length, rows, tallies['sizes'], left_out)
  if not rows:
    raise records.none_left('conversations', split, chosen, left_out)
  weights = records.weights_left(weights, rows, sources)
  return mixed(rows, weights, repeats if split == 'train' else 0.0, tokenizer, length)


def _conversation(record: formats.Record, *, calls: bool) -> formats.Messages:
  """The messages of a record; without `calls` one in which a tool is called is left out."""
  messages = formats.conversation(record)
  if not calls and any(not isinstance(message['content'], str) for message in messages):
    raise BadRow('the template has no form for its calls')
  return messages


def _encode(
  tokenizer: Tokenizer,
  template: chat.ChatTemplate,
  train_on: str,
  length: int,
  overlong: str,
  joined: float,
  found: Iterable[tuple[str, formats.Messages | BadRow]],
) -> tuple[list[Encoded], kept.Tallies]:
  """The conversations that have an answer, or their parts, and what is counted of them."""
  counts: Counter[str] = Counter()
  waiting, encoded, talks = [], [], []
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
    if joined:
      talks.append(messages)
    if len(waiting) == _BATCH:
      encoded += chat.encode_all(tokenizer, waiting)
      waiting = []
  encoded += chat.encode_all(tokenizer, waiting)
  if joined:
    groups = join(talks, [len(ids) for ids, _ in encoded], joined, length)
    write = partial(chat.pieces, template=template, train_on=train_on)
    encoded = _together(tokenizer, talks, encoded, groups, length, write)
  for ids, mask in encoded:
    chat.check(ids, mask, tokenizer)
  whole = [Encoded(*one) for one in encoded]
  parts = [part for one in whole for part in fit(one, length, overlong, counts)]
  return parts, {'left out': counts, 'sizes': Counter(len(one.ids) for one in whole)}


def join(
  talks: Sequence[formats.Messages], sizes: Sequence[int], share: float, length: int
) -> list[list[int]]:
  """Which conversations become one: numbers of neighbours, each number once and in order.

  Args:
    talks: the conversations.
    sizes: their tokens.
    share: of them that go on with the next one, where both fit and have the same system message.
    length: L, most tokens together.

  >>> talk = [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello.'}]
  >>> join([talk, talk, talk], [3, 4, 2], share=1.0, length=8)
  [[0, 1], [2]]
  """
  rng, groups, tokens = random.Random('joined'), list[list[int]](), 0
  for i, size in enumerate(sizes):
    wanted = rng.random() < share
    if wanted and i and tokens + size <= length and _goes_on(talks[i - 1], talks[i]):
      groups[-1].append(i)
      tokens += size
    else:
      groups.append([i])
      tokens = size
  return groups


def _together(
  tokenizer: Tokenizer,
  talks: Sequence[formats.Messages],
  alone: Sequence[tuple[list[int], list[int]]],
  groups: Sequence[Sequence[int]],
  length: int,
  write: Callable[[formats.Messages], list[chat.Piece]],
) -> list[tuple[list[int], list[int]]]:
  """Ids and mask of each group as one conversation, or of each of its own as before.

  They stay apart where the template has no form for one behind another, or takes something out of
  it that was trained, such as what was thought before earlier answers.
  """
  longer = {}
  for group in groups:
    if len(group) > 1:
      with contextlib.suppress(BadInput):
        longer[group[0]] = write(_continued([talks[i] for i in group]))
  made = dict(zip(longer, chat.encode_all(tokenizer, longer.values()), strict=True))
  found = []
  for group in groups:
    parts = [alone[i] for i in group]
    ids, mask = made.get(group[0], ([], []))
    whole = 0 < len(ids) <= length and sum(mask) == sum(sum(mask) for _, mask in parts)
    found += [(ids, mask)] if whole else parts
  return found


def _system(messages: formats.Messages) -> list[dict]:
  """The messages before the first of the user."""
  return list(itertools.takewhile(lambda message: message['role'] == 'system', messages))


def _goes_on(talk: formats.Messages, following: formats.Messages) -> bool:
  """Whether it ends with an answer, and the user asks on under the same system message."""
  system = _system(following)
  asks = [message['role'] for message in following[len(system) :][:1]] == ['user']
  return talk[-1]['role'] == 'assistant' and asks and _system(talk) == system


def _continued(talks: Sequence[formats.Messages]) -> formats.Messages:
  """Conversations of one system message, as one."""
  first, *others = talks
  return [*first, *(message for talk in others for message in talk[len(_system(talk)) :])]


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
  lengths_D, pieces = _places(parts, length, pack)
  tokens_T = np.fromiter((i for part in parts for i in part.ids), np.int32)
  mask_T = np.fromiter((m for part in parts for m in part.mask), np.uint8)
  mask_T[np.cumsum(lengths_D) - lengths_D] = 0  # nothing comes before the first token
  tokens_RL, segment_RL = packed.fill(tokens_T, lengths_D, pieces, length, pad=pad)
  mask_RL, _ = packed.fill(mask_T, lengths_D, pieces, length)
  return tokens_RL, segment_RL, mask_RL


def _in_memory(
  parts: Sequence[Encoded], tallies: kept.Tallies, length: int, pack: bool, pad: int
) -> tuple['Conversations | Kept', kept.Tallies]:
  return Conversations(*arrange(parts, length, pack=pack, pad=pad)), tallies


def _places(parts: Sequence[Encoded], length: int, pack: bool) -> tuple[np.ndarray, packed.Pieces]:
  """The tokens of each part, and where it goes."""
  lengths_D = np.array([len(part.ids) for part in parts], np.int64)
  one_D = np.arange(len(parts))
  alone = packed.Pieces(one_D, np.zeros_like(one_D), lengths_D, one_D)
  return lengths_D, packed.best_fit(lengths_D, length) if pack else alone


def _packed(
  parts: Sequence[Encoded], tallies: kept.Tallies, length: int, pack: bool
) -> tuple[list[kept.Row], kept.Tallies]:
  """The same rows as those of `arrange`, as the parts that they hold; counts their tokens too."""
  _, places = _places(parts, length, pack)
  rows: list[list[Encoded]] = [[] for _ in range(int(places.row[-1]) + 1 if parts else 0)]
  for part, row in zip(places.document.tolist(), places.row.tolist(), strict=True):
    rows[row].append(parts[part])
  tokens = Counter(all=sum(len(part.ids) for part in parts))
  tokens['trained'] = sum(sum(part.mask[1:]) for part in parts)
  return [kept.Row(row) for row in rows], {**tallies, 'tokens': tokens}


class Conversations:
  """Rows in memory; `[i]` gives one as in `make`, and `repr` holds a digest of the content."""

  def __init__(self, tokens_RL: np.ndarray, segment_RL: np.ndarray, mask_RL: np.ndarray):
    self.tokens_RL, self.segment_RL, self.mask_RL = tokens_RL, segment_RL, mask_RL
    self.tokens, self.trained = int((segment_RL > 0).sum()), int(mask_RL.sum())

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


class Kept:
  """Rows in a folder; `[i]` gives one as in `make`."""

  def __init__(self, rows: kept.Rows, length: int, pad: int):
    self._rows, self._length, self._pad = rows, length, pad
    self.tokens, self.trained = (
      rows.tallies.get('tokens', {}).get(k, 0) for k in ('all', 'trained')
    )

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    tokens_L = np.full(self._length, self._pad, np.int32)
    segment_L, mask_L = np.zeros(self._length, np.int32), np.zeros(self._length, np.float32)
    begin = 0
    for number, (ids, mask) in enumerate(self._rows[index].pieces, 1):
      end = begin + len(ids)
      tokens_L[begin:end], segment_L[begin:end] = ids, number
      mask_L[begin + 1 : end] = mask[1:]  # nothing comes before the first token
      begin = end
    return {**packed.row_of(tokens_L, segment_L), 'mask': mask_L}

  def __repr__(self) -> str:
    return f'Kept({self._rows!r}, {self._length})'


def _report(
  split: str,
  length: int,
  rows: Mapping[str, Conversations | Kept],
  sizes: Mapping[int, int],
  counts: Counter[str],
) -> None:
  """Prints one line, which also counts what was left out and why."""
  number = sum(map(len, rows.values()))
  tokens = sum(some.tokens for some in rows.values())
  trained = sum(some.trained for some in rows.values())
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

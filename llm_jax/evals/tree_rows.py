"""Texts that begin alike, packed into rows where each beginning stands once.

Spans are sorted, so that those which begin alike stand side by side, and written as one walk
through their tree: of each span only what differs from the one before. A token is seen by the
tokens that come after it in its own spans. `segment` numbers the tokens of a row, and `until` is
the number of the last one that sees a token, as `models/attend` wants it.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

MERGE = 16  # spans that share so many tokens stand in one row, if they fit


class Span(NamedTuple):
  """Ids, of which some are to be scored.

  Attributes:
    ids: all of them; the last one is predicted and never read.
    first: where scoring begins, at least 1.
    owner: whose it is.
  """

  ids: np.ndarray
  first: int
  owner: int


class Tree(NamedTuple):
  """Spans as one run of tokens.

  Attributes:
    tokens, position, until: int [T]; `until` counts from 0 in the run.
    source, target, owner: int [N]: which token predicts, which id, and of whose span.
  """

  tokens: np.ndarray
  position: np.ndarray
  until: np.ndarray
  source: np.ndarray
  target: np.ndarray
  owner: np.ndarray


class Rows(NamedTuple):
  """Trees in rows [R, L] with N places for what is scored.

  Attributes:
    tokens, position, segment, until: int32 [R, L].
    source, target: int32 [R, N]: which token of the row predicts which id.
    owner: int32 [R, N]: of whose span; -1 where nothing is scored.
  """

  tokens: np.ndarray
  position: np.ndarray
  segment: np.ndarray
  until: np.ndarray
  source: np.ndarray
  target: np.ndarray
  owner: np.ndarray


def ordered(spans: Sequence[Span]) -> tuple[list[Span], list[int]]:
  """Spans in the order of their ids, and how many ids each shares with the one before.

  Of what is shared only tokens that are read count, and so never the last one of a span.
  """
  made = sorted(spans, key=lambda one: one.ids.astype('>u4').tobytes())
  both = itertools.pairwise(made)
  return made, [0, *(common(a.ids[:-1], b.ids[:-1]) for a, b in both)][: len(made)]


def common(a: np.ndarray, b: np.ndarray) -> int:
  """How many ids two spans begin with together.

  >>> common(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
  2
  """
  size = min(len(a), len(b))
  differs = np.flatnonzero(a[:size] != b[:size])
  return int(differs[0]) if len(differs) else size


def trees(spans: Sequence[Span], shared: Sequence[int], begun: int, most: int) -> list[Tree]:
  """Spans that begin alike, joined as long as they are no more than `most` tokens.

  Args:
    spans, shared: from `ordered`.
    begun: ids that all of them begin with and that are read elsewhere.
    most: tokens of a tree; a single span may have more, and so may spans that share a lot.
  """
  made, start, size = [], 0, 0
  for i, one in enumerate(spans):
    new, alike = len(one.ids) - 1 - shared[i], shared[i] - begun
    # What stands in two trees is read twice, so a long beginning makes longer rows instead.
    room = most if alike < most // 4 else 4 * most
    if i > start and (alike < MERGE or size + new > room):
      made.append(_tree(spans[start:i], shared[start:i], begun))
      start, size = i, 0
    size += new if i > start else len(one.ids) - 1 - begun
  return [*made, _tree(spans[start:], shared[start:], begun)] if spans else []


def _tree(spans: Sequence[Span], shared: Sequence[int], begun: int) -> Tree:
  tokens, position, until, path = [], [], [], []  # path: where the token of each depth stands
  source, target, owner = [], [], []
  for i, one in enumerate(spans):
    keep = shared[i] - begun if i else 0
    del path[keep:]
    ids = one.ids[begun:-1].tolist()
    path += range(len(tokens), len(tokens) + len(ids) - keep)
    tokens += ids[keep:]
    position += range(begun + keep, begun + len(ids))
    until += [0] * (len(ids) - keep)
    last = len(tokens) - 1
    for place in path:
      until[place] = last
    source += path[one.first - 1 - begun :]
    target += one.ids[one.first :].tolist()
    owner += [one.owner] * (len(one.ids) - one.first)
  return Tree(*map(np.array, (tokens, position, until, source, target, owner)))


def packed(made: Sequence[Tree], length: int) -> list[list[Tree]]:
  """Rows of trees: the largest first, each into the fullest row that has room for it.

  >>> tree = lambda n: Tree(*[np.zeros(n)] * 6)
  >>> [[len(one.tokens) for one in row] for row in packed([tree(3), tree(6), tree(5)], 8)]
  [[6], [5, 3]]
  """
  rows: list[list[Tree]] = []
  room: list[int] = []
  for tree in sorted(made, key=lambda one: -len(one.tokens)):
    size = len(tree.tokens)
    fits = [i for i in range(max(0, len(rows) - 256), len(rows)) if room[i] >= size]
    if fits:
      best = min(fits, key=room.__getitem__)
      rows[best].append(tree)
      room[best] -= size
    else:
      rows.append([tree])
      room.append(length - size)
  return rows


def divided(
  rows: Sequence[Sequence[Tree]], length: int
) -> Iterator[tuple[list[Sequence[Tree]], int]]:
  """Rows that fit into three fourths of the length, and the others; and the length of each."""
  size = lambda row: sum(len(tree.tokens) for tree in row)
  short = length * 3 // 4
  parts = [row for row in rows if size(row) <= short], [row for row in rows if size(row) > short]
  yield from ((part, some) for part, some in zip(parts, (short, length), strict=True) if part)


def batches(rows: Sequence[Sequence[Tree]], counts: Sequence[int], length: int) -> Iterator[Rows]:
  """Rows in batches, those with as many scored tokens together.

  Args:
    rows: from `packed`.
    counts: how many rows a batch may have, the most last; what fills none of these has the least.
    length: L.
  """
  scored = lambda row: sum(len(tree.target) for tree in row)
  order = sorted(rows, key=scored)
  start = 0
  while start < len(order):
    left = len(order) - start
    count = counts[-1] if left > counts[-1] // 2 else counts[0]
    some = order[start : start + count]
    most = max(map(scored, some))
    step = max(16, length // 4)
    yield _batch(some, count, length, -(-most // step) * step)
    start += count


def _batch(rows: Sequence[Sequence[Tree]], count: int, length: int, places: int) -> Rows:
  of_tokens = lambda: np.zeros((count, length), np.int32)
  of_places = lambda fill=0: np.full((count, places), fill, np.int32)
  made = Rows(
    of_tokens(), of_tokens(), of_tokens(), of_tokens(), of_places(), of_places(), of_places(-1)
  )
  made.segment[len(rows) :, 0] = made.until[len(rows) :, 0] = 1  # attention needs a token
  for i, row in enumerate(rows):
    at = there = 0
    for tree in row:
      end, last = at + len(tree.tokens), there + len(tree.target)
      made.tokens[i, at:end], made.position[i, at:end] = tree.tokens, tree.position
      made.segment[i, at:end] = np.arange(at, end) + 1
      made.until[i, at:end] = tree.until + at + 1
      made.source[i, there:last], made.target[i, there:last] = tree.source + at, tree.target
      made.owner[i, there:last] = tree.owner
      at, there = end, last
  return made

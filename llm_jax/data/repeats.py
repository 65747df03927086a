"""Rows of random tokens that repeat, from which a small model learns to copy.

A model copies with heads that look for what followed the same token before (induction heads,
arXiv:2209.11895). In text such places are rare, and a small run ends before it has them; here every
token after the first round is one.
"""

import operator
from collections.abc import Mapping

import numpy as np

from llm_jax.data.mixture import Mixture, Source
from llm_jax.types import BadInput, Tokenizer

NAME = 'repeats'  # of the source
PERIODS = 4, 40  # tokens of what is repeated, from and to; at most half a row


class Repeats:
  """`[i]` gives a row as `llm_jax.data.packed` has them, the same one every time.

  The mask is 1 on what was there before, so only copies are targets.

  >>> from types import SimpleNamespace
  >>> row = Repeats(SimpleNamespace(token_bytes=[0, 1, 1, 2, 3]), rows=1, length=9)[0]
  >>> row['tokens'].tolist(), row['mask'].astype(int).tolist()
  ([4, 3, 3, 2, 4, 3, 3, 2, 4], [0, 0, 0, 0, 1, 1, 1, 1, 1])

  Args:
    tokenizer: of the text; control tokens are never drawn.
    rows: how many.
    length: L, tokens of a row.
  """

  def __init__(self, tokenizer: Tokenizer, *, rows: int, length: int):
    self._ids = np.flatnonzero(np.asarray(tokenizer.token_bytes) > 0).astype(np.int32)
    self._rows, self._length = rows, length

  def __len__(self) -> int:
    return self._rows

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = operator.index(index)
    if not 0 <= index < self._rows:
      raise IndexError(f'row {index} of {self._rows}')
    draw = np.random.default_rng(index)
    shortest, longest = (min(period, self._length // 2) for period in PERIODS)
    period = int(draw.integers(shortest, longest + 1))
    column_L = np.arange(self._length, dtype=np.int32)
    return {
      'tokens': np.resize(draw.choice(self._ids, period), self._length),
      'segment': np.ones(self._length, np.int32),
      'position': column_L,
      'mask': (column_L >= period).astype(np.float32),
    }

  def __repr__(self) -> str:
    return f'Repeats({self._rows})'


def mixed(
  rows: Mapping[str, Source],
  weights: Mapping[str, float] | None,
  share: float,
  tokenizer: Tokenizer,
  length: int,
) -> Mixture:
  """A mixture of sources, of whose rows a share repeats.

  Args:
    rows: source -> its rows.
    weights: source -> its share of the others; see `Mixture`.
    share: of all rows, from 0 to below 1.
    tokenizer: of the text.
    length: L, tokens of a row.

  Raises:
    BadInput: a source has the name of these rows.
  """
  if not share:
    return Mixture(rows, weights)
  if NAME in rows:
    raise BadInput(
      f'data.repeats: {NAME!r} is the name of a source already; call that another name'
    )
  if weights is None:
    weights = {name: len(found) for name, found in rows.items()}
  more = share / (1 - share)
  drills = Repeats(
    tokenizer, rows=max(1, round(more * sum(map(len, rows.values())))), length=length
  )
  return Mixture({**rows, NAME: drills}, {**weights, NAME: more * sum(weights.values())})

"""Rows that repeat, half random tokens and half text, from which a small model learns to copy.

A model copies with heads that look for what followed the same token before (induction heads,
arXiv:2209.11895). In text such places are rare, and a small run ends before it has them; here every
token after the first round is one. Random tokens can be known from nothing else. In text a word
stands twice with other words after it, so more than the token before has to be compared.
"""

import operator
from collections.abc import Mapping

import numpy as np

from llm_jax.data.mixture import Mixture, Source
from llm_jax.types import BadInput, Tokenizer

NAME = 'repeats'  # of the source
PERIODS = 4, 40  # random tokens that are repeated, from and to; at most half a row
SHORTEST = 8  # tokens of text that are repeated; at most half a row


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
    text: rows of which every second one repeats a part; None for random tokens alone.
  """

  def __init__(self, tokenizer: Tokenizer, *, rows: int, length: int, text: Source | None = None):
    self._ids = np.flatnonzero(np.asarray(tokenizer.token_bytes) > 0).astype(np.int32)
    self._rows, self._length, self._text = rows, length, text

  def __len__(self) -> int:
    return self._rows

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = operator.index(index)
    if not 0 <= index < self._rows:
      raise IndexError(f'row {index} of {self._rows}')
    draw = np.random.default_rng(index)
    string = self._random(draw)
    if self._text is not None and index % 2 == 0:
      string = self._part(self._text, draw, string)
    column_L = np.arange(self._length, dtype=np.int32)
    return {
      'tokens': np.resize(string, self._length),
      'segment': np.ones(self._length, np.int32),
      'position': column_L,
      'mask': (column_L >= len(string)).astype(np.float32),
    }

  def _random(self, draw: np.random.Generator) -> np.ndarray:
    shortest, longest = (min(period, self._length // 2) for period in PERIODS)
    return draw.choice(self._ids, int(draw.integers(shortest, longest + 1)))

  def _part(self, text: Source, draw: np.random.Generator, other: np.ndarray) -> np.ndarray:
    """Neighbouring tokens of one segment of a row; the other string where they are too few."""
    longest = self._length // 2
    size = int(draw.integers(min(SHORTEST, longest), longest + 1))
    row = text[int(draw.integers(len(text)))]
    start = int(draw.integers(len(row['tokens']) - size + 1))
    part, segment = (row[name][start : start + size] for name in ('tokens', 'segment'))
    string = part[(segment == segment[size // 2]) & np.isin(part, self._ids)]
    return string if len(string) >= min(SHORTEST, longest) else other

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
  count = max(1, round(more * sum(map(len, rows.values()))))
  drills = Repeats(tokenizer, rows=count, length=length, text=Mixture(rows, weights))
  return Mixture({**rows, NAME: drills}, {**weights, NAME: more * sum(weights.values())})

"""Rows of several sources in fixed proportions, in one order that random access can compute.

Row r of a source with weight w stands at (r + 1/2) / w on a line, and the mixture reads the line
from left to right. So every prefix is apportioned by Webster's method
(en.wikipedia.org/wiki/Sainte-Lague_method): after n rows a source with share s has given s n of
them, plus or minus a row or two, at intervals as even as they can be.
"""

import heapq
import math
import operator
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Protocol

from llm_jax.options import suggest
from llm_jax.types import BadInput


class Source(Protocol):
  """What is mixed: any sequence with random access."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> Any: ...


class Mixture:
  """A random-access sequence over the rows of several sequences.

  A pass is the shortest one that has every row: a source with more weight than rows starts over.
  With the default weights, which are proportional to the rows, every row comes exactly once.

  >>> ''.join(Mixture({'text': 'aaaa', 'code': 'BB'}))
  'aBaaBa'
  >>> ''.join(Mixture({'text': 'aaaa', 'code': 'BB'}, weights={'text': 1, 'code': 1}))
  'BaBaBaBa'
  """

  def __init__(self, sources: Mapping[str, Source], weights: Mapping[str, float] | None = None):
    """`weights` maps each source to its share of the rows, in any unit; 0 leaves the source out.

    Raises:
      BadInput: a name is not a source, a source has no weight, a weight is negative or not finite,
        none is above zero, or an empty source has one.
    """
    if weights is None:
      weights = {name: len(rows) for name, rows in sources.items()}
    exact = _checked(sources, weights)
    self._names = sorted(exact)
    self._rows = [sources[name] for name in self._names]
    # Whole numbers in lowest terms: places on the line compare exactly.
    scale = math.lcm(*(w.denominator for w in exact.values()))
    whole = [int(exact[name] * scale) for name in self._names]
    divisor = math.gcd(*whole)
    self._weights = [w // divisor for w in whole]
    self._total = sum(self._weights)
    unit = math.lcm(*self._weights)
    self._steps = [unit // w for w in self._weights]  # row r stands at (2 r + 1) * step
    self._length = self._pass_length()

  def _pass_length(self) -> int:
    places = zip(self._rows, self._steps, strict=True)
    last, owner = max(((2 * len(rows) - 1) * step, s) for s, (rows, step) in enumerate(places))
    return sum(
      ((last - (s > owner)) // step + 1) // 2 for s, step in enumerate(self._steps)
    )  # rows up to that place; a tie goes to the earlier source

  def locate(self, index: int) -> tuple[str, int]:
    """The source at `index` and its row there, at a cost that does not grow with the rows.

    >>> Mixture({'text': 'aaaa', 'code': 'BB'}).locate(1)
    ('code', 0)
    """
    source, row = self._locate(index)
    return self._names[source], row

  def source(self, name: str) -> Source:
    """The sequence with that name, as it was given."""
    return self._rows[self._names.index(name)]

  def messages(self, index: int) -> Any:
    """The conversation that row `index` asks to go on, where its source knows it."""
    number, row = self._locate(index)
    source: Any = self._rows[number]
    return source.messages(row)

  def _locate(self, index: int) -> tuple[int, int]:
    # The pattern repeats after `total` rows. Start a few rows early, where the count of each source
    # follows from its share, and merge from there.
    period, index = divmod(index, self._total)
    early = max(index - len(self._rows), 0)
    given = [-((self._total - 2 * early * w) // (2 * self._total)) for w in self._weights]
    heap = [
      ((2 * n + 1) * step, s) for s, (n, step) in enumerate(zip(given, self._steps, strict=True))
    ]
    heapq.heapify(heap)
    for _ in range(index - sum(given)):
      place, s = heap[0]
      given[s] += 1
      heapq.heapreplace(heap, (place + 2 * self._steps[s], s))
    s = heap[0][1]
    return s, (period * self._weights[s] + given[s]) % len(self._rows[s])

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Any:
    index = operator.index(index)
    if not 0 <= index < self._length:
      raise IndexError(f'row {index} of {self._length}')
    source, row = self._locate(index)
    return self._rows[source][row]

  def __repr__(self) -> str:
    parts = zip(self._names, self._weights, self._rows, strict=True)
    inside = ', '.join(f'{name}: {w / self._total:.6g} of {rows!r}' for name, w, rows in parts)
    return f'Mixture({inside})'


def _checked(sources: Mapping[str, Source], weights: Mapping[str, float]) -> dict[str, Fraction]:
  """The weights above zero as exact decimals."""
  for name, weight in weights.items():
    if name not in sources:
      raise BadInput(f'weights: no source {name!r}; {suggest(name, sorted(sources))}')
    if not (math.isfinite(weight) and weight >= 0):
      raise BadInput(f'weights: {name} has {weight}; use a number of 0 or more')
  for name in sources:
    if name not in weights:
      raise BadInput(f'weights: source {name!r} has none; give it one, 0 leaves it out')
  exact = {name: Fraction(str(weight)) for name, weight in weights.items() if weight > 0}
  if not exact:
    raise BadInput('weights: every source has weight 0; give at least one a positive weight')
  for name in exact:
    if not len(sources[name]):
      raise BadInput(f'weights: source {name!r} has no rows; give it weight 0 or more data')
  return exact

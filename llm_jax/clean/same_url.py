"""One page a URL: later copies of a page are dropped, by `llm_jax.clean.url_key.key`."""

import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.clean.page import Across, Drop, Page, Signatures
from llm_jax.clean.url_key import key
from llm_jax.options import checked


@dataclasses.dataclass(frozen=True)
class _SameUrl:
  reads = False

  newest: bool
  date: str

  def sign(self, page: Page) -> np.ndarray:
    """[1, 3]: 128 bits of the key and the time; [0, 3] of a page without a URL."""
    name = key(page.url)
    if name is None:
      return np.zeros((0, 3), np.uint64)
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    time = _microseconds(page.meta.get(self.date)) if self.newest else 0
    return np.array([[*np.frombuffer(digest, '<u8'), time]], np.uint64)

  def join(
    self, signatures: Signatures, read: Callable[[Sequence[int]], Iterator[Page]]
  ) -> Mapping[int, Any]:
    return self.united(self.linked(signatures, read))

  def keys(self, signature: np.ndarray) -> Iterator[tuple[bytes, np.ndarray]]:
    for row in signature:
      yield row[:2].tobytes(), row[None]

  def linked(
    self, signatures: Signatures, read: Callable[[Sequence[int]], Iterator[Page]]
  ) -> np.ndarray:
    """[E, 3] positions of a page that goes and of the one that is kept instead, and 0."""
    rows = np.asarray(signatures.flat).reshape(-1, 3)
    if not len(rows):
      return np.zeros((0, 3), np.int64)
    positions = np.repeat(signatures.positions, np.diff(signatures.starts))
    high, low, time = rows.T
    # By key; inside of a key the latest comes first, and of those the one that comes first.
    order = np.lexsort((positions, ~time, low, high))
    high, low, positions = high[order], low[order], positions[order]
    begins = np.r_[True, (high[1:] != high[:-1]) | (low[1:] != low[:-1])]
    kept = positions[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
    return np.stack([positions, kept, np.zeros_like(kept)], 1)[~begins]

  def united(self, links_E3: np.ndarray) -> Mapping[int, Any]:
    """Position -> that of the page which is kept instead."""
    return dict(links_E3[:, :2].tolist())

  def apply(self, page: Page, found: Any) -> Drop:
    return Drop('same_url', {'kept': found})


@checked(where='clean.same_url')
def make(*, keep: Literal['first', 'newest'] = 'first', date: str = 'date') -> Across:
  """Drops all pages of a URL but one; a page without a URL is kept.

  Args:
    keep: the page that comes first, or the newest, of which the first if several are.
    date: the field of `meta` with the time of a page: seconds since 1970, or as ISO 8601 writes it.
      One that cannot be read is older than all others.
  """
  return _SameUrl(keep == 'newest', date)


def _microseconds(date: Any) -> int:
  """Since the year 1, in UTC unless a text says otherwise; 0 for what is no time.

  >>> _microseconds('1970-01-01T01:00:00+01:00') == _microseconds(0)
  True
  """
  try:
    if isinstance(date, str):
      date = datetime.datetime.fromisoformat(date.strip())
    elif not isinstance(date, datetime.datetime):
      date = datetime.datetime.fromtimestamp(date, datetime.UTC)
    if date.tzinfo is None:
      date = date.replace(tzinfo=datetime.UTC)
    first = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return 1 + (date - first) // datetime.timedelta(microseconds=1)
  except (TypeError, ValueError, OverflowError, OSError):
    return 0

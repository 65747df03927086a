"""Pages that say nearly the same, by MinHash with banding as FineWeb does it, arXiv:2406.17557.

The hash functions are datatrove's: h -> ((h a + c) mod 2^64) mod (2^61 - 1). The product wraps, so
that they are not the universal family of the textbook; they are kept for signatures equal to
theirs. Two pages whose shingles have a Jaccard similarity of s share a band with probability
1 - (1 - s^rows)^bands: 0.77 for s = 0.75 and 0.92 for 0.8 with 14 bands of 8 rows.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from llm_jax.clean.clusters import alike, links, merged, stands_for, survivor, united
from llm_jax.clean.hashes import HASHES, Hash
from llm_jax.clean.overlap import Sets, connected
from llm_jax.clean.page import Drop, Page, Signatures
from llm_jax.clean.simplified import simplified
from llm_jax.options import Share, checked, within

PRIME = np.uint64(2**61 - 1)
# Shingles and functions that are worked on together, so that their product stays in the cache.
SHINGLES, FUNCTIONS = 1024, 28


@functools.cache
def coefficients(count: int) -> tuple[np.ndarray, np.ndarray]:
  """a and c of so many hash functions, [count] each."""
  draw = np.random.RandomState(1)
  a_P = draw.randint(1, int(PRIME), dtype=np.uint64, size=count)
  return a_P, draw.randint(0, int(PRIME), dtype=np.uint64, size=count)


def minima(hash_N: np.ndarray, a_P: np.ndarray, c_P: np.ndarray) -> np.ndarray:
  """[P] the least of ((h a + c) mod 2^64) mod (2^61 - 1) over all h, of each function."""
  least_P = np.empty(len(a_P), np.uint64)
  for at in range(0, len(a_P), FUNCTIONS):
    part = slice(at, at + FUNCTIONS)
    x_PN = a_P[part, None] * hash_N
    x_PN += c_P[part, None]
    # Modulo the prime, 2^61 is 1: the high 3 bits are added to the low 61. From the sum, which may
    # be the prime or 7 more, the prime is taken; below 0 this wraps, and all that does keeps its
    # order and lies above what does not.
    high_PN = x_PN >> np.uint64(61)
    x_PN &= PRIME
    x_PN += high_PN
    x_PN -= PRIME
    x_PN.min(1, out=least_P[part])
  return np.where(least_P < 8, least_P, least_P + PRIME)


@dataclasses.dataclass(frozen=True)
class MinHash:
  """See `make`.

  A signature is [1, bands + 1]: a hash of each band, and what the page stands for; or it is [0,
  bands + 1] for a page without shingles.
  """

  bands: int
  rows: int
  shingle: int
  jaccard: float
  hash: Hash
  words: str

  def shingles(self, page: Page) -> Iterator[np.ndarray]:
    """The hashes of all shingles of a page in order, [N] at a time; none where there is none."""
    text = simplified(page.text)
    if self.words == 'page':
      # A space inside a word is no boundary.
      text = ' '.join(word.replace(' ', '\xa0') for word in page.split(text) if word)
    elif '  ' in text:  # where a line of accents alone has gone
      text = ' '.join(text.split())
    if not text:
      return
    data = text.encode('utf-8', 'surrogatepass')
    space = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(' '))
    start_W, end_W = np.append(0, space + 1), np.append(space, len(data))
    for at in range(0, len(start_W) - self.shingle + 1, SHINGLES):
      end_N = end_W[at + self.shingle - 1 : at + self.shingle - 1 + SHINGLES]
      start_N = start_W[at : at + len(end_N)]
      first = start_N[0]
      yield HASHES[self.hash](data[first : end_N[-1]], start_N - first, end_N - first)

  def signature(self, page: Page) -> np.ndarray | None:
    """[bands, rows] the least value of each hash function over the shingles; None without any."""
    coefficients_2P = coefficients(self.bands * self.rows)
    blocks = [minima(hash_N, *coefficients_2P) for hash_N in self.shingles(page)]
    return np.min(blocks, 0).reshape(self.bands, self.rows) if blocks else None

  def sign(self, page: Page) -> np.ndarray:
    least_BR = self.signature(page)
    if least_BR is None:
      return np.zeros((0, self.bands + 1), np.uint64)
    bands = [hashlib.sha1(band.tobytes()).digest()[:8] for band in least_BR.astype('<u8')]
    return np.array([[*np.frombuffer(b''.join(bands), '<u8'), stands_for(page)]], np.uint64)

  @property
  def reads(self) -> bool:
    """Whether pages that share a band are compared."""
    return bool(self.jaccard)

  def join(
    self, signatures: Signatures, read: Callable[[Sequence[int]], Iterator[Page]]
  ) -> Mapping[int, Any]:
    return self.united(self.linked(signatures, read))

  def keys(self, signature: np.ndarray) -> Iterator[tuple[bytes, np.ndarray]]:
    for row in signature:
      for band in range(self.bands):
        yield band.to_bytes(2, 'big') + row[band].tobytes(), row[None, [band, -1]]

  def linked(
    self, signatures: Signatures, read: Callable[[Sequence[int]], Iterator[Page]]
  ) -> np.ndarray:
    """See `links`; of signatures of all bands, or of one."""
    signed = np.flatnonzero(np.diff(signatures.starts))
    if not len(signed):
      return np.zeros((0, 3), np.int64)
    positions, flat = signatures.positions[signed], signatures.flat
    root_N = np.arange(len(signed))
    if self.jaccard:
      root_N = self._verified(flat, positions, read)
    else:
      for band_N in flat.T[:-1]:
        member_M, starts = alike(band_N)
        root_N = merged(root_N, np.repeat(member_M[starts[:-1]], np.diff(starts)), member_M)
    return links(positions, root_N, flat[:, -1].astype(np.int64))

  def united(self, links_E3: np.ndarray) -> Mapping[int, Any]:
    return united(links_E3)

  def _verified(
    self,
    flat: np.ndarray,
    positions: np.ndarray,
    read: Callable[[Sequence[int]], Iterator[Page]],
  ) -> np.ndarray:
    """[N] the components of pages that share a band and whose shingles overlap enough."""
    root_N = np.arange(len(positions))
    wanted_N = np.zeros(len(positions), bool)
    for band_N in flat.T[:-1]:
      wanted_N[alike(band_N)[0]] = True
    with Sets(np.flatnonzero(wanted_N)) as sets:
      wanted = positions[wanted_N].tolist()
      for _, page in zip(wanted, read(wanted), strict=True):
        sets.add(self.shingles(page))
      similar = lambda a, b: sets.jaccard(a, b, self.jaccard) >= self.jaccard
      for band_N in flat.T[:-1]:
        root_N = connected(root_N, *alike(band_N), similar)
    return root_N

  def apply(self, page: Page, found: Any) -> Page | Drop:
    return survivor(page, found)


Words = Annotated[int, within(1, 100)]
Functions = Annotated[int, within(1, 1000)]


@checked(where='clean.minhash')
def make(
  *,
  bands: Functions = 14,
  rows: Functions = 8,
  shingle: Words = 5,
  jaccard: Share = 0.7,
  hash: Hash = 'xxh64',
  words: Literal['whitespace', 'page'] = 'whitespace',
) -> MinHash:
  """Keeps one of the pages that are nearly the same, the one at the smallest position.

  A cluster is a component of the graph of pages that share a band, so that its first and its last
  page need not be alike. The meta of the page that stays gets `cluster`, its position, and
  `cluster_size`, the number of pages it stands for; the values of a dropped page tell which cluster
  it belonged to. Pages with fewer words than a shingle are never duplicates.

  Args:
    bands: of which one has to be equal; more find more.
    rows: hash functions of a band; more find less.
    shingle: words of a shingle, of the simplified text (`llm_jax/clean/simplified.py`).
    jaccard: two pages that share a band are connected only if this share of the shingles of both
      is common to them. 0 takes every shared band for a duplicate, as FineWeb does.
    hash: of a shingle: 'xxh64', FineWeb's now, or 'sha1', that of its first edition.
    words: what a word is: 'whitespace', what stands between white space, or 'page', what rules take
      for one, which languages without spaces need. FineWeb's are spaCy's, which takes "cant" and
      "10km" apart; other words make other signatures.
  """
  return MinHash(bands, rows, shingle, jaccard, hash, words)

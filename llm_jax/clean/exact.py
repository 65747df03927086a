"""Pages whose texts are the same: the first of them stays."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.clean.clusters import alike, links, merged, stands_for, survivor, united
from llm_jax.clean.page import Drop, Page, Signatures
from llm_jax.clean.simplified import simplified
from llm_jax.options import Count, checked


@dataclasses.dataclass(frozen=True)
class Exact:
  """See `make`.

  A signature is [1, 3]: 128 bits of the text's hash, and what the page stands for; or it is [0, 3]
  for a page without text.
  """

  reads = False  # `linked` compares hashes alone

  text: str
  min_words: int

  def sign(self, page: Page) -> np.ndarray:
    text, kind = page.text, b'raw'
    if not text.strip():
      return np.zeros((0, 3), np.uint64)
    if self.text == 'simplified':
      short = simplified(text)
      if len(short.split(maxsplit=self.min_words - 1)) >= self.min_words:
        text, kind = short, b'simplified'
    data = text.encode('utf-8', 'surrogatepass')
    digest = hashlib.blake2b(data, digest_size=16, person=kind).digest()
    return np.array([[*np.frombuffer(digest, '<u8'), stands_for(page)]], np.uint64)

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
    """See `links`."""
    signed = np.flatnonzero(np.diff(signatures.starts))
    if not len(signed):
      return np.zeros((0, 3), np.int64)
    member_M, starts = alike(signatures.flat[:, :2])
    first_M = np.repeat(member_M[starts[:-1]], np.diff(starts))
    root_N = merged(np.arange(len(signed)), first_M, member_M)
    return links(signatures.positions[signed], root_N, signatures.flat[:, 2].astype(np.int64))

  def united(self, links_E3: np.ndarray) -> Mapping[int, Any]:
    return united(links_E3)

  def apply(self, page: Page, found: Any) -> Page | Drop:
    return survivor(page, found)


@checked(where='clean.exact')
def make(*, text: Literal['simplified', 'raw'] = 'simplified', min_words: Count = 5) -> Exact:
  """Keeps one of the pages that say the same, the one at the smallest position.

  Its meta gets `cluster`, its position, and `cluster_size`, the number of pages it stands for; the
  values of a dropped page tell which cluster it belonged to.

  Args:
    text: what is compared: 'simplified', without case, figures, punctuation, accents and spacing
      (`llm_jax/clean/simplified.py`), or 'raw', character for character.
    min_words: texts with fewer words are compared raw all the same, because simplification leaves
      too little of them: '3 %' and '7 %' would be copies.
  """
  return Exact(text, min_words)

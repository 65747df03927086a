"""Lines or paragraphs that stand on several pages, such as menus: they go from all but the first.

Two lines are the same if they are after CC-Net's normalisation, arXiv:1911.00359, section 3.1:
lower case, every digit 0, no punctuation and no control characters; accents stay. They are known by
the first 8 bytes of their SHA-1.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from llm_jax.clean.page import Drop, Page, Signatures
from llm_jax.clean.punctuation import PUNCTUATION
from llm_jax.options import Count, Share, at_least, checked

# The breaks keep their place in the list, so that what stays can be put together as it was.
_BREAKS = {'line': re.compile(r'(\n)'), 'paragraph': re.compile(r'(\n\s*\n)')}
_DIGIT = re.compile(r'\d')
_CONTROL = ''.join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
_CC_NET = '，。、„”“«»１」「《》´∶：？！（）；–—．～’…━〈〉【】％►'
_GONE = {
  name: re.compile(f'[{re.escape(marks + _CONTROL)}]')
  for name, marks in (('all', ''.join(sorted(PUNCTUATION))), ('cc_net', _CC_NET))
}
# Lines that are sorted together: some 250 MB.
TOGETHER = 2**22


def normalized(line: str, marks: Literal['all', 'cc_net'] = 'all') -> str:
  """What a line is compared by.

  >>> normalized(' © 2024 Café, Ltd. '), normalized('Café, 24', 'cc_net')
  ('© 0000 café ltd', 'café, 00')
  """
  return _GONE[marks].sub('', _DIGIT.sub('0', line.strip().lower()))


class Removed(Mapping[int, Any]):
  """Position -> the numbers of the lines that go, among those of the page that were signed."""

  def __init__(self, signatures: Signatures, entry_M: np.ndarray):
    """From the ascending places of these lines in `signatures.flat`."""
    page_M = np.searchsorted(signatures.starts, entry_M, 'right') - 1
    page, first = np.unique(page_M, return_index=True)
    self._lines = entry_M - signatures.starts[page_M]
    self._position, self._starts = signatures.positions[page], np.append(first, len(entry_M))

  def __len__(self) -> int:
    return len(self._position)

  def __iter__(self) -> Iterator[int]:
    return map(int, self._position)

  def __getitem__(self, position: int) -> list[int]:
    at = int(np.searchsorted(self._position, position))
    if at == len(self) or self._position[at] != position:
      raise KeyError(position)
    return self._lines[self._starts[at] : self._starts[at + 1]].tolist()


@dataclasses.dataclass(frozen=True)
class Lines:
  """See `make`. A signature is [lines], a hash of each that is long enough, in order."""

  reads = False  # `join` needs signatures alone

  unit: str
  marks: Literal['all', 'cc_net']
  min_length: int
  min_pages: int
  keep: int
  min_characters: int
  min_share: float

  def units(self, text: str) -> tuple[list[str], list[tuple[int, str]]]:
    """The lines and the breaks between them, and the place and normal form of the long ones."""
    parts = _BREAKS[self.unit].split(text)
    normal = ((at, normalized(parts[at], self.marks)) for at in range(0, len(parts), 2))
    return parts, [(at, line) for at, line in normal if len(line) >= max(self.min_length, 1)]

  def sign(self, page: Page) -> np.ndarray:
    lines = (line.encode('utf-8', 'surrogatepass') for _, line in self.units(page.text)[1])
    digests = b''.join(hashlib.sha1(line).digest()[:8] for line in lines)
    return np.frombuffer(digests, '<u8').astype(np.uint64, copy=False)

  def join(
    self, signatures: Signatures, read: Callable[[Sequence[int]], Iterator[Page]]
  ) -> Mapping[int, Any]:
    """Sorts so many hashes at a time (`TOGETHER`) and keeps 8 bytes for each line that goes.

    A million pages of 20 lines have signatures of 160 MB, which may lie in a mapped file.
    """
    flat = signatures.flat
    parts = -(-len(flat) // TOGETHER)
    gone = [self._repeated(signatures, part, parts) for part in range(parts)]
    return Removed(signatures, np.sort(np.concatenate([*gone, np.zeros(0, np.int64)])))

  def _repeated(self, signatures: Signatures, part: int, parts: int) -> np.ndarray:
    """The places in `flat` of lines that go, of those whose hashes leave a remainder."""
    flat, found = signatures.flat, []
    for at in range(0, len(flat), TOGETHER):
      found.append(at + np.flatnonzero(flat[at : at + TOGETHER] % np.uint64(parts) == part))
    entry_M = np.concatenate(found)
    hash_M = flat[entry_M]
    order = np.argsort(hash_M, kind='stable')
    entry_M, hash_M = entry_M[order], hash_M[order]
    page_M = np.searchsorted(signatures.starts, entry_M, 'right')
    new_line_M, new_page_M = np.ones((2, len(entry_M)), bool)
    new_line_M[1:] = hash_M[1:] != hash_M[:-1]
    new_page_M[1:] = new_line_M[1:] | (page_M[1:] != page_M[:-1])
    first = np.flatnonzero(new_line_M)
    size = np.diff(np.append(first, len(entry_M)))
    # Of each line: how many pages it stands on up to here, and on how many it does in all.
    nth_M = np.cumsum(new_page_M)
    nth_M -= np.repeat(nth_M[first] - 1, size)
    pages_M = np.repeat(nth_M[first + size - 1], size)
    return entry_M[(pages_M >= self.min_pages) & (nth_M > self.keep)]

  def apply(self, page: Page, found: Any) -> Page | Drop:
    parts, signed = self.units(page.text)
    for line in found:
      at = signed[line][0]
      parts[at] = ''
      if at + 1 < len(parts):
        parts[at + 1] = ''
    text = ''.join(parts).strip()
    share = len(text) / len(page.text)
    if not text or len(text) < self.min_characters or share < self.min_share:
      return Drop('little_left', {'characters': len(text), 'share': share})
    return page.edited(text)


@checked(where='clean.lines')
def make(
  *,
  unit: Literal['line', 'paragraph'] = 'line',
  marks: Literal['all', 'cc_net'] = 'all',
  min_length: Annotated[int, at_least(0)] = 30,
  min_pages: Annotated[int, at_least(2)] = 2,
  keep: Annotated[int, at_least(0)] = 1,
  min_characters: Count = 200,
  min_share: Share = 0.3,
) -> Lines:
  """Removes lines that stand on several pages from all pages but the first.

  What a page repeats itself is left alone. Pages without such a line stay as they are.

  Args:
    unit: what is compared and removed: 'line', or 'paragraph', between blank lines.
    marks: which punctuation does not count: 'all', or 'cc_net', CC-Net's own list of typographic
      marks, which has none of ASCII.
    min_length: characters of a line after normalisation, below which it always stays; so answers
      in a dialogue and brackets in code do.
    min_pages: a line that stands on fewer pages always stays.
    keep: on how many pages it stays, those at the smallest positions; 0, as in CC-Net's paper, for
      none.
    min_characters: a page of which lines were removed is dropped if it has fewer left,
    min_share: or a smaller share of them.
  """
  return Lines(unit, marks, min_length, min_pages, keep, min_characters, min_share)

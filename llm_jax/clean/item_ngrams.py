"""N-grams of test items, and where a text has them: an index that is exact and looked up in bulk.

Tokens become numbers and windows of them 64-bit hashes, all windows of a text at once; what the
hashes find is compared token by token.
"""

import dataclasses
import itertools
import re
import string
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.clean.items import Item
from llm_jax.clean.simplified import simplified

Kind = Literal['words', 'simplified', 'characters']
_LOWER = bytes(ord(chr(i).lower()) if i < 128 else i for i in range(256))
_NUMBER = re.compile(r'\d+(?:[.,،٫⎖⎗⎘]\d+)?')
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def plain(text: str) -> str:
  """A text as GPT-3 compares texts: ASCII in lower case and without its punctuation.

  >>> plain('Well-known, isn’t it?')
  'wellknown isn’t it'
  """
  data = text.encode('utf-8', 'surrogatepass').translate(_LOWER, string.punctuation.encode())
  return data.decode('utf-8', 'surrogatepass')


def tokens_of(text: str, kind: Kind = 'words', *, zero_numbers: bool = False) -> list[str]:
  """The tokens that are compared.

  Args:
    kind: 'words', of `plain` text between white space (GPT-3, arXiv:2005.14165, appendix C);
      'simplified', those of `simplified` text (datatrove); 'characters', of the latter without
      white space, for languages that put none between words.
    zero_numbers: numbers are 0, as they always are in simplified text.
  """
  if kind == 'words':
    return plain(_NUMBER.sub('0', text) if zero_numbers else text).split()
  words = simplified(text).split()
  return words if kind == 'simplified' else list(''.join(words))


@dataclasses.dataclass(frozen=True)
class _Table:
  """The distinct n-grams of one length that count in one way.

  what: 'n' for training text, 'whole' for an item as a whole, 'share' for shares of an item.
  length: tokens of each.
  first: the number of the first one; the others follow.
  hashes: [G], ascending.
  begins: [G] where each begins in the tokens of all items.
  at: [T] the number of the n-gram that begins at each token of the items, or -1.
  """

  what: str
  length: int
  first: int
  hashes: np.ndarray
  begins: np.ndarray
  at: np.ndarray


class ItemNgrams:
  """The n-grams of items, numbered; one that several items have is one.

  Args:
    items: in order.
    kind: of their tokens, see `tokens_of`.
    n: how many tokens make a hit in training text.
    share_n: how many make a hit of which an item has a share.
    whole: the shortest item that is looked for as a whole if it has fewer tokens than `n`; None:
      no item is.
    zero_numbers: see `tokens_of`.
  """

  def __init__(
    self,
    items: Sequence[Item],
    *,
    kind: Kind = 'words',
    n: int = 13,
    share_n: int = 8,
    whole: int | None = None,
    zero_numbers: bool = False,
  ):
    self.items, self.n, self.share_n = items, n, share_n
    self.tokens_of = lambda text: tokens_of(text, kind, zero_numbers=zero_numbers)
    tokens = [self.tokens_of(item.text) for item in items]
    self.words = ['', *dict.fromkeys(itertools.chain.from_iterable(tokens))]
    self._vocabulary = {word: number for number, word in enumerate(self.words) if number}
    # A word that no text has ends each item, so that no n-gram leads from one to the next.
    self._ids = self._numbers([word for item in tokens for word in (*item, '')])
    self.sizes = np.array([len(item) for item in tokens], np.int64)
    self.starts = np.cumsum([0, *(self.sizes + 1)])[:-1]
    short = (self.sizes < n) & (self.sizes >= (n if whole is None else whole)) & (self.sizes > 0)
    self._tables: list[_Table] = []
    self._add('n', n, np.arange(len(self._ids)))
    self._add('share', share_n, np.arange(len(self._ids)))
    for size in sorted(set(self.sizes[short].tolist())):
      self._add('whole', size, self.starts[short & (self.sizes == size)])
    self._tables.sort(key=lambda table: table.length)
    self.count = sum(len(table.hashes) for table in self._tables)

  def _numbers(self, tokens: Sequence[str]) -> np.ndarray:
    """The numbers of tokens; 0 of one that no item has."""
    found = map(self._vocabulary.get, tokens, itertools.repeat(0))
    return np.fromiter(found, np.int64, len(tokens))

  def _add(self, what: str, length: int, begins: np.ndarray) -> None:
    [(hashes, known)] = _windows(self._ids, [length])
    begins = begins[begins < len(hashes)]
    begins = begins[known[begins]]
    distinct, first, which = np.unique(hashes[begins], return_index=True, return_inverse=True)
    before = sum(len(table.hashes) for table in self._tables)
    at = np.full(len(self._ids), -1, np.int64)
    at[begins] = before + which
    self._tables.append(_Table(what, length, before, distinct, begins[first], at))

  def hits(self, text: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """'n', 'share', 'whole' -> at which tokens of a text such n-grams begin, and their numbers.

    >>> grams = ItemNgrams([Item('quiz', '1', 'How old is the oldest tree?')], n=4, share_n=2)
    >>> grams.hits('Guess how old is the boy')['n'][0].tolist()
    [1]
    """
    ids = self._numbers(self.tokens_of(text))
    none = np.zeros(0, np.int64)
    found: dict[str, Any] = {what: (none, none) for what in ('n', 'share', 'whole')}
    lengths = [table.length for table in self._tables]
    for table, (hashes, known) in zip(self._tables, _windows(ids, lengths)):
      at = np.flatnonzero(known)
      where = np.searchsorted(table.hashes, hashes[at])
      likely = where < len(table.hashes)
      likely[likely] = table.hashes[where[likely]] == hashes[at[likely]]
      at, where = at[likely], where[likely]
      window = np.arange(table.length)
      theirs = self._ids[table.begins[where][:, None] + window]
      equal = (theirs == ids[at[:, None] + window]).all(1)
      at, grams = at[equal], where[equal] + table.first
      if len(at):
        found[table.what] = tuple(map(np.append, found[table.what], (at, grams)))
    return found

  def item_of(self, gram: int) -> Item:
    """The first item that has an n-gram."""
    begin = self._begin(gram)[0]
    return self.items[int(np.searchsorted(self.starts, begin, 'right')) - 1]

  def text_of(self, gram: int) -> str:
    """The tokens of an n-gram, as text that any file can hold."""
    begin, length = self._begin(gram)
    text = ' '.join(self.words[number] for number in self._ids[begin : begin + length])
    return text.encode('utf-8', 'replace').decode()

  def length_of(self, gram: int) -> int:
    """How many tokens an n-gram has."""
    return self._begin(gram)[1]

  def _begin(self, gram: int) -> tuple[int, int]:
    table = next(t for t in self._tables if 0 <= gram - t.first < len(t.hashes))
    return int(table.begins[gram - table.first]), table.length

  def drops(self, grams: np.ndarray) -> np.ndarray:
    """Which of n-grams count in training text, and are no mere share of an item."""
    share = next(table for table in self._tables if table.what == 'share')
    return (grams < share.first) | (grams >= share.first + len(share.hashes))

  def seen(self, grams: np.ndarray) -> list[dict[str, Any]]:
    """What is known of each item once n-grams were seen anywhere, as rows of a report.

    `share8` is the share of its tokens inside of an 8-gram that was seen (Llama 3,
    arXiv:2407.21783, section 5.1.4), `frac8` the share of its 8-grams (PaLM, arXiv:2204.02311,
    section 8), `any13` whether any 13-gram was, and `whole` whether a short item was as a whole.
    The numbers in the names are `share_n` and `n`.
    """
    mask = np.zeros(self.count + 1, bool)  # the last one stands for -1, no n-gram
    mask[grams] = True
    by = {what: np.zeros(len(self._ids), bool) for what in ('n', 'share', 'whole')}
    for table in self._tables:
      by[table.what] |= mask[table.at]
    # +1 where a seen n-gram begins and -1 where it ends: inside of one the sum is above 0.
    steps = np.zeros(len(self._ids) + 1, np.int64)
    begins = np.flatnonzero(by['share'])
    np.add.at(steps, begins, 1)
    np.add.at(steps, begins + self.share_n, -1)
    covered = np.cumsum(steps[:-1]) > 0
    rows = []
    for item, start, size in zip(self.items, self.starts.tolist(), self.sizes.tolist()):
      inside = slice(start, start + size)
      rows.append(
        {
          'task': item.task,
          'id': item.id,
          'tokens': size,
          f'share{self.share_n}': float(covered[inside].sum() / max(size, 1)),
          f'frac{self.share_n}': float(by['share'][inside].sum() / max(size - self.share_n + 1, 1)),
          f'any{self.n}': bool(by['n'][inside].any()),
          'whole': bool(by['whole'][inside].any()),
        }
      )
    return rows


def _windows(ids: np.ndarray, lengths: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
  """For each length, which ascend: hashes of all windows, and which hold known words only."""
  with np.errstate(over='ignore'):
    # Splitmix64, so that small numbers do not make similar hashes.
    values = ids.astype(np.uint64) * _MULTIPLIER
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    unknown = np.cumsum(np.r_[0, ids == 0])
    found, hashes, length = [], values, 1
    for wanted in lengths:
      while length < wanted:
        hashes = hashes[:-1] * _MULTIPLIER + values[length:]
        length += 1
      known = unknown[length:] == unknown[: max(len(unknown) - length, 0)]
      found.append((hashes, known))
  return found

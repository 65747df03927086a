"""Training text that holds items of tests: pages dropped, cut or marked, and items reported.

It looks at all pages together because the report is about items: what is seen of one is the union
over all pages. A page signs with the numbers of the n-grams it has, in any process; one place joins
them, which takes no more than a mark for each n-gram of the tests. A rule that counted while it
reads would know only what its own process read.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llm_jax.clean.item_ngrams import ItemNgrams, Kind, plain
from llm_jax.clean.items import read_items
from llm_jax.clean.page import Across, Drop, Page, Signatures
from llm_jax.files import write_lines
from llm_jax.options import Count, Place, PlaceOrNone, Share, checked
from llm_jax.types import BadInput

Mode = Literal['drop', 'cut', 'mark']
_TOKEN = re.compile(r'\S+')


def _rules(*, mode: Mode, tokens: Kind, **_: Any) -> None:
  if mode == 'cut' and tokens != 'words':
    raise BadInput(f"clean.decontaminate: mode 'cut' needs tokens 'words', not {tokens!r}")


@dataclasses.dataclass(frozen=True)
class _Decontaminate:
  reads = False  # `join` needs signatures alone

  grams: ItemNgrams
  mode: Mode
  report: str
  marks: Callable[[Mapping[str, Any]], list[str]]

  def sign(self, page: Page) -> np.ndarray:
    """[n] numbers of distinct n-grams: those that count in training text first, in their order."""
    hits = self.grams.hits(page.text)
    at, grams = map(np.concatenate, zip(hits['n'], hits['whole']))
    grams = np.r_[grams[np.argsort(at, kind='stable')], hits['share'][1]].astype(np.int32)
    return grams[np.sort(np.unique(grams, return_index=True)[1])]

  def join(
    self, signatures: Signatures, read: Callable[[Sequence[int]], Iterator[Page]]
  ) -> Mapping[int, Any]:
    """Position -> what was found first there: task, item and n-gram; and how many n-grams."""
    grams = np.asarray(signatures.flat, np.int64)
    if self.report:
      rows = self.grams.seen(np.unique(grams))
      write_lines(Path(self.report), ({**row, 'contaminated': self.marks(row)} for row in rows))
    counts = self.grams.drops(grams)
    page_of = np.repeat(np.arange(len(signatures)), np.diff(signatures.starts))[counts]
    pages, first, number = np.unique(page_of, return_index=True, return_counts=True)
    found = {}
    for page, gram, ngrams in zip(pages, grams[counts][first].tolist(), number.tolist()):
      item = self.grams.item_of(gram)
      found[int(signatures.positions[page])] = {
        'task': item.task,
        'item': item.id,
        'ngram': self.grams.text_of(gram),
        'ngrams': ngrams,
      }
    return found

  def apply(self, page: Page, found: Any) -> Page | Drop:
    if self.mode == 'mark':
      return page.edited(page.text, contaminated=found)
    kept = pieces(page.text, self.grams) if self.mode == 'cut' else []
    if not kept:
      return Drop('contaminated', found)
    return page.edited('\n\n'.join(kept), contaminated=found)


@checked(_rules, where='clean.decontaminate')
def make(
  *,
  items: Place,
  fields: Sequence[str] = (),
  mode: Mode = 'drop',
  tokens: Kind = 'words',
  n: Count = 13,
  share_n: Count = 8,
  shortest: Count | None = 5,
  zero_numbers: bool = False,
  report: PlaceOrNone = '',
  share: Share = 0.7,
  frac: Share = 0.7,
) -> Across:
  """Looks for items of tests in training text, by n-grams of their tokens.

  With `tokens='simplified'` and `n=12` it finds what datatrove does; with 'words', `n=13` and no
  `shortest` what GPT-3 and the Pile do, whose `mode` is 'cut'.

  Args:
    items: a file of items, `.jsonl` or `.txt`, or a folder of such files; see `items.read_items`.
    fields: of a record, whose texts are an item; all if none is named.
    mode: what is done to a page with an item: it is dropped from the first n-gram on; or 200
      characters on both sides of each n-gram are cut out, and it is dropped if more than ten
      n-grams are found or no piece of more than 200 characters is left; or `meta` only says so.
    tokens: what n-grams are of, see `item_ngrams.tokens_of`; 'characters', with n from 13 to 20,
      for Chinese and its like.
    n: tokens of an n-gram.
    share_n: tokens of an n-gram that counts for the report alone.
    shortest: an item of fewer than `n` tokens and at least so many is looked for as a whole; None:
      it is never found.
    zero_numbers: numbers are equal to all others.
    report: a file of JSON lines that is written with one for each item: how much of it was seen in
      any page, see `ItemNgrams.seen`, and by which rules it is contaminated.
    share: from which share of its tokens an item is contaminated by Llama 3's rule, which sets it
      for each test.
    frac: from which share of its n-grams it is by PaLM's.

  Raises:
    BadInput: there are no items, or a file of them is damaged.
  """
  read = read_items(items, fields, 'clean.decontaminate.items')
  grams = ItemNgrams(
    read, kind=tokens, n=n, share_n=share_n, whole=shortest, zero_numbers=zero_numbers
  )

  def marks(row: Mapping[str, Any]) -> list[str]:
    by = {
      'gpt3': row[f'any{n}'] or row['whole'],
      'llama3': row[f'share{share_n}'] > 0 and row[f'share{share_n}'] >= share,
      'palm': row[f'frac{share_n}'] > 0 and row[f'frac{share_n}'] >= frac,
    }
    return [rule for rule, holds in by.items() if holds]

  return _Decontaminate(grams, mode, report, marks)


def pieces(
  text: str, grams: ItemNgrams, *, around: int = 200, most: int = 10, shortest: int = 200
) -> list[str]:
  """What is left of a text once items are cut out, as GPT-3 did, arXiv:2005.14165, appendix C.

  Where characters are cut exactly is taken from `Janitor` of lm-evaluation-harness.

  Args:
    grams: n-grams of 'words'.
    around: characters that are cut on both sides of an n-gram.
    most: n-grams in a text; with one more nothing is left.
    shortest: pieces of so many characters or fewer are lost.
  """
  tokens = [found.span() for found in _TOKEN.finditer(text) if plain(found[0])]
  hits = grams.hits(text)
  spans = sorted(
    (tokens[at][0], tokens[at + grams.length_of(gram) - 1][1] - 1)
    for what in ('n', 'whole')
    for at, gram in zip(*(numbers.tolist() for numbers in hits[what]))
  )
  if len(spans) > most:
    return []
  kept, begin, end = [], 0, -1
  for first, last in spans:
    stop, end = max(0, first - around), min(len(text), last + around)
    if stop - begin > shortest:
      kept.append(text[begin:stop])
    begin = end
  if end < len(text) - shortest:
    kept.append(text[end + 1 :])
  return kept

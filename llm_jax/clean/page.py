"""A page on its way from the web to training text, and what a rule says of it.

A rule of this room is a file whose `make(**hyper)` gives a function from a page to the page, which
may be edited, or to a `Drop` with the reason. Most rules only compare numbers with limits. Such a
function is a `Rule`: it measures first and judges afterwards, so that every page keeps all of its
numbers, a report can draw them beside their limits, and limits can be moved without measuring anew.

What one page alone cannot tell, such as whether another page says the same, is told by `Across`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

Value = float | str
Split = Callable[[str], list[str]]


@dataclasses.dataclass(frozen=True)
class Page:
  """What rules read and edit.

  Attributes:
    url: where it comes from; '' if nobody knows.
    text: what has become of it so far; '' before the HTML in `body` is extracted.
    body: HTML as it was served; b'' for a source of plain text.
    meta: what else is known and travels with the page, such as `content_type` or `language`.
    split: from a text to its words, a choice of `llm_jax.clean.words`.
  """

  url: str
  text: str
  split: Split
  body: bytes = b''
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def words(self) -> list[str]:
    """The words of `text`, found once for all rules that read them."""
    return self.split(self.text)

  def edited(self, text: str, **meta: Any) -> 'Page':
    """The page with another text and more meta; itself where neither changes anything."""
    if text == self.text and not meta:
      return self
    page = dataclasses.replace(self, text=text, meta={**self.meta, **meta} if meta else self.meta)
    if text == self.text and 'words' in self.__dict__:
      page.__dict__['words'] = self.words
    return page


@dataclasses.dataclass(frozen=True)
class Drop:
  """That a page is not kept.

  Attributes:
    reason: one word, such as 'top_2_gram'.
    values: the numbers that led to it, and those measured with them.
  """

  reason: str
  values: Mapping[str, Value] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Limit:
  """A page is dropped for `reason` where `value` is below `low` or above `high`; equal is kept.

  >>> Limit('short', 'words', low=50).broken({'words': 49}), Limit('short', 'words', low=50).broken(
  ...   {'words': 50})
  (True, False)
  """

  reason: str
  value: str
  low: float | None = None
  high: float | None = None

  @property
  def ends(self) -> list[float]:
    """The numbers that a value is compared with; none where the limit is off."""
    return [end for end in (self.low, self.high) if end is not None]

  def broken(self, values: Mapping[str, Value]) -> bool:
    """Whether a page with these numbers is dropped; one whose number is missing is not."""
    value = values.get(self.value)
    if not isinstance(value, int | float):
      return False
    return (self.low is not None and value < self.low) or (
      self.high is not None and value > self.high
    )


@dataclasses.dataclass(frozen=True)
class Rule:
  """A function from a page to the page or a `Drop` that measures first and judges afterwards.

  Attributes:
    measure: from a page to the page, perhaps edited, and its numbers. The edit does not depend on
      the limits.
    limits: in order; the first that is broken gives the reason.
  """

  measure: Callable[[Page], tuple[Page, Mapping[str, Value]]]
  limits: tuple[Limit, ...] = ()

  def judge(self, values: Mapping[str, Value]) -> str | None:
    """The reason to drop a page with these numbers, or None."""
    return next((limit.reason for limit in self.limits if limit.broken(values)), None)

  def __call__(self, page: Page) -> Page | Drop:
    page, values = self.measure(page)
    reason = self.judge(values)
    return page if reason is None else Drop(reason, values)


@dataclasses.dataclass(frozen=True)
class Signatures:
  """What an `Across` noted of pages: all of them, or those among which it is to look.

  Attributes:
    flat: the signatures one after the other, along the first axis; perhaps a file that is mapped.
    starts: [pages + 1] where each begins in `flat`.
    positions: [pages] of the pages, ascending; there may be gaps between them.
  """

  flat: np.ndarray
  starts: np.ndarray
  positions: np.ndarray

  @classmethod
  def of(cls, signed: Mapping[int, np.ndarray]) -> 'Signatures':
    """Those of pages at positions, which may come in any order.

    >>> found = Signatures.of({7: np.array([1, 2]), 3: np.array([4])})
    >>> found.positions.tolist(), found.starts.tolist(), found[1].tolist()
    ([3, 7], [0, 1, 3], [1, 2])
    """
    positions = sorted(signed)
    starts = np.cumsum([0, *(len(signed[position]) for position in positions)])
    flat = np.concatenate([signed[p] for p in positions]) if positions else np.zeros(0, np.uint64)
    return cls(flat, starts, np.array(positions, np.int64))

  def __len__(self) -> int:
    return len(self.positions)

  def __getitem__(self, page: int) -> np.ndarray:
    """The signature of the page that comes at this place among them."""
    return self.flat[self.starts[page] : self.starts[page + 1]]


class Across(Protocol):
  """A step that looks at all pages together: what `make(**hyper)` of such a file gives.

  Every page is signed, apart from the others and in any process; then all signatures are joined in
  one place; then each page that was found is edited or dropped. A position is the number of a page
  in the order of the sources, so that nothing depends on who signed it, or when. A class whose
  `join` reads no page may say so, with `reads = False`.
  """

  def sign(self, page: Page) -> np.ndarray:
    """What `join` has to know of a page: [n, ...], with the same type and other sizes for all."""
    ...

  def join(
    self, signatures: Signatures, read: Callable[[Sequence[int]], Iterator[Page]]
  ) -> Mapping[int, Any]:
    """Position -> what was found of the page there, as JSON; pages without a finding are kept.

    Its result depends on nothing but the pages and the order of their positions. `read` gives the
    pages at positions, which must be ascending, for what a signature cannot tell.
    """
    ...

  def apply(self, page: Page, found: Any) -> Page | Drop:
    """The page after what was found of it."""
    ...


class Keyed(Across, Protocol):
  """A step whose pages belong together only where they share a key, so that nobody needs all pages.

  `join` is `united` of what `linked` gives of all pages. The same comes out where `linked` sees the
  pages of one key at a time, each key maybe somewhere else, and `united` all that it gave.

  Attributes:
    reads: whether `linked` reads pages.
  """

  @property
  def reads(self) -> bool: ...

  def keys(self, signature: np.ndarray) -> Iterator[tuple[bytes, np.ndarray]]:
    """The keys of a page, and its signature among the pages of each: [1, ...], of uint64."""
    ...

  def linked(
    self, signatures: Signatures, read: Callable[[Sequence[int]], Iterator[Page]]
  ) -> np.ndarray:
    """[E, 3] positions of two pages that belong together, and one more number of the first."""
    ...

  def united(self, links_E3: np.ndarray) -> Mapping[int, Any]:
    """What was found of each page, from all links in any order; some may come more than once."""
    ...


@dataclasses.dataclass(frozen=True)
class Fate:
  """What became of a page.

  Attributes:
    page: as the steps left it.
    step: the step that dropped it; '' if it is kept.
    reason: of the drop; '' if it is kept.
    values: '<step>.<value>' -> number, of every step that measured it.
  """

  page: Page
  step: str = ''
  reason: str = ''
  values: Mapping[str, Value] = dataclasses.field(default_factory=dict)


def follow(steps: Iterable[tuple[str, Callable[[Page], Page | Drop]]], page: Page) -> Fate:
  """Leads a page through named steps in order.

  A page that is dropped is measured by the `Rule`s behind all the same, so that the limit which
  dropped it can be moved without measuring anew. No other function sees it again. A page without
  text is of no use to any rule and goes no further. Where a step edits the text, the new length is
  among its values, as `characters`.
  """
  dropped, values = ('', ''), {}
  for name, step in steps:
    if dropped[0] and not (isinstance(step, Rule) and page.text):
      continue
    text = page.text
    if isinstance(step, Rule):
      page, found = step.measure(page)
      reason = step.judge(found)
    else:
      result = step(page)
      found, reason = (result.values, result.reason) if isinstance(result, Drop) else ({}, None)
      page = page if isinstance(result, Drop) else result
    values |= {f'{name}.{key}': value for key, value in found.items()}
    if page.text != text:
      values[f'{name}.characters'] = len(page.text)
    if reason is not None and not dropped[0]:
      dropped = (name, reason)
  return Fate(page, *dropped, values)

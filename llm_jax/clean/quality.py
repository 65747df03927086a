"""A quality classifier that is trained on the spot, on texts that the user trusts.

Logistic regression tells trusted texts from pages, and the pages most like them are kept. DCLM,
arXiv:2406.11794, section 4.4, did so with texts that are like instructions, and FineWeb-Edu,
arXiv:2406.17557, section 4, with pages that a model thinks good for teaching.
"""

import dataclasses
import typing
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from absl import logging

from llm_jax.clean.page import Across, Drop, Limit, Page, Rule, Signatures
from llm_jax.clean.quality_model import Model, features, load, save, train
from llm_jax.options import Count, PlaceOrNone, Positive, Share, TopP, at_least, checked, within
from llm_jax.types import BadInput

# Options that hold texts. A config names a source; whoever makes the step opens it.
TEXTS = ('texts',)
_WHERE = 'clean.quality'


def _rules(*, texts: Any, model: str, save: str, low: float | None, **_: Any) -> None:
  if (texts is None) == (not model):
    raise BadInput(f'{_WHERE}: give texts to train on, or the model of an earlier run')
  if isinstance(texts, str):
    raise BadInput(f'{_WHERE}: texts {texts!r} is a name; give the texts, opened by its reader')
  if model and save:
    raise BadInput(f'{_WHERE}: save is of no use beside model, which is there already')
  if texts is not None and low is not None:
    raise BadInput(f'{_WHERE}: low belongs to a model; while training, keep sets it')


@dataclasses.dataclass(frozen=True)
class _Quality:
  reads = False  # `join` needs signatures alone

  texts: Any
  keep: float
  most: int
  save: str
  words: int
  bits: int
  l2: float
  holdout: float

  def sign(self, page: Page) -> np.ndarray:
    """[n] the features of a page."""
    return features(page.text, self.words, self.bits)

  def join(
    self, signatures: Signatures, read: Callable[[Sequence[int]], Iterator[Page]]
  ) -> Mapping[int, Any]:
    """Position -> score and the score from which a page is kept, of every page."""
    if not len(signatures):
      return {}
    good = [features(text, self.words, self.bits) for text in self._trusted()]
    good = _in_order_of_hash(good, self.most)
    if not good:
      raise BadInput(f'{_WHERE}: texts has no text; name a source that has')
    bad = _in_order_of_hash(signatures, len(good))
    weights, bias, measured = train(good, bad, bits=self.bits, l2=self.l2, holdout=self.holdout)
    model = Model(weights, bias, self.words, 0.0, measured)
    scores = model.scores(signatures.flat, signatures.starts)
    kept = int(np.ceil(self.keep * len(scores)))
    model = dataclasses.replace(model, low=float(np.sort(scores)[-kept]))
    logging.info('%s: %s; kept from %.4f on', _WHERE, measured, model.low)
    if self.save:
      save(Path(self.save), model)
    return {
      position: {'score': score, 'low': model.low}
      for position, score in zip(signatures.positions.tolist(), scores.tolist())
    }

  def apply(self, page: Page, found: Any) -> Page | Drop:
    if found['score'] < found['low']:
      return Drop('low_quality', found)
    return page.edited(page.text, quality=found['score'])

  def _trusted(self) -> Iterable[str]:
    texts = self.texts() if callable(self.texts) else self.texts
    return typing.cast(Iterable[str], texts)


@checked(_rules, where=_WHERE)
def make(
  *,
  texts: Any = None,
  keep: TopP = 0.1,
  most: Count = 50_000,
  save: PlaceOrNone = '',
  model: PlaceOrNone = '',
  low: Share | None = None,
  words: Count = 128,
  bits: Annotated[int, within(8, 24)] = 18,
  l2: Positive = 1e-6,
  holdout: Annotated[float, at_least(0, below=0.5)] = 0.1,
) -> Across | Rule:
  """Trains a classifier and keeps the pages it scores highest, or keeps those of a trained one.

  To train, it looks at all pages together: each is signed by its features, and where these are
  joined as many pages as there are trusted texts, chosen by a hash, are what the texts are told
  from. How well it does on texts that were held out is logged and kept in the model.

  Args:
    texts: what is trusted: an iterable of texts, or a function that gives one.
    keep: the share of pages that is kept, those with equal scores together.
    most: how many of `texts` are used, chosen by a hash.
    save: a file for the model.
    model: such a file; with it nothing is trained.
    low: the score from which a page is kept; None: that of the model.
    words: how many words of a text are read, from its beginning.
    bits: there are 2**bits features.
    l2: how strongly weights are drawn to 0.
    holdout: the share of texts and pages on which it is measured and not trained.

  Raises:
    BadInput: neither `texts` nor `model` is given, or both; or the file is no model.
  """
  if not model:
    return _Quality(texts, keep, most, save, words, bits, l2, holdout)
  found = load(Path(model), f'{_WHERE}.model')

  def measure(page: Page) -> tuple[Page, Mapping[str, float]]:
    flat = features(page.text, found.words, found.bits)
    return page, {'score': float(found.scores(flat, np.array([0, len(flat)]))[0])}

  return Rule(measure, (Limit('low_quality', 'score', low=found.low if low is None else low),))


def _in_order_of_hash(rows: Sequence[np.ndarray] | Signatures, most: int) -> list[np.ndarray]:
  """The first rows by a hash of what they hold, whatever order they came in; no empty ones."""
  held = [i for i in range(len(rows)) if len(rows[i])]
  return [rows[i] for i in sorted(held, key=lambda i: (zlib.crc32(rows[i].tobytes()), i))[:most]]

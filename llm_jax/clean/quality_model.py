"""Logistic regression on hashed words and pairs of words of a text."""

import dataclasses
import itertools
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse  # JAX brings it

from llm_jax.files import replacing
from llm_jax.types import BadInput

_ALONE = '\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff'
_WORD = re.compile(rf'[{_ALONE}]|[^\W{_ALONE}]{{1,50}}|[^\w\s]')
_ROUNDS = 300
_AT_ONCE = 10_000  # texts that are scored together
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Model:
  """What scores texts.

  Attributes:
    weights: [2**bits] float32, one for each feature.
    bias: added to their sum.
    words: how many of a text are read.
    low: the score from which a page is kept.
    measured: what it was trained on and how well it does on texts that were held out, by name.
  """

  weights: np.ndarray
  bias: float
  words: int
  low: float
  measured: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def bits(self) -> int:
    """The features are numbered with so many."""
    return len(self.weights).bit_length() - 1

  def scores(self, flat: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[N] from 0 to 1, of texts whose `features` stand one after the other in `flat`."""
    weights, found = self.weights.astype(np.float64), []
    for first in range(0, len(starts) - 1, _AT_ONCE):
      begins = np.asarray(starts[first : first + _AT_ONCE + 1])
      part = np.asarray(flat[begins[0] : begins[-1]])
      found.append(_sigmoid(_rows(part, begins - begins[0], self.bits) @ weights + self.bias))
    return np.concatenate([*found, np.zeros(0)])


def features(text: str, words: int, bits: int) -> np.ndarray:
  """[n] the distinct features of a text, ascending: its first words, and pairs of them, hashed.

  Words are in lower case; marks, and letters of scripts that do not part words, are words of one
  character.

  >>> len(features('The cat saw the cat.', words=9, bits=18))
  8
  """
  found = itertools.islice(_WORD.finditer(text), words)
  hashes = [zlib.crc32(word[0].lower().encode('utf-8', 'surrogatepass')) for word in found]
  first = np.array(hashes, np.uint64)
  pairs = first[:-1] * _MULTIPLIER + first[1:] + np.uint64(1)
  mixed = np.r_[first, pairs] * _MULTIPLIER
  return np.unique(mixed >> np.uint64(64 - bits)).astype(np.int32)


def train(
  positive: Sequence[np.ndarray],
  negative: Sequence[np.ndarray],
  *,
  bits: int,
  l2: float,
  holdout: float,
) -> tuple[np.ndarray, float, dict[str, float]]:
  """Weights, bias and what was measured.

  Both sides weigh the same, however many texts they have. Of each, texts that are evenly spaced in
  the order given are held out; on those `auc`, the probability that a positive text scores above a
  negative one, and `agreement`, the share on the right side of 1/2, are measured.

  Args:
    positive, negative: `features` of texts.
    bits: of the features.
    l2: how much the mean loss grows with half the squared weights.
    holdout: the share of texts that is held out; 0: none, and nothing is measured.
  """
  sides = [(_split(positive, holdout), 1.0), (_split(negative, holdout), 0.0)]
  rows, labels, sizes = [], [], []
  for (kept, _), label in sides:
    rows += kept
    labels += [label] * len(kept)
    sizes += [0.5 / max(len(kept), 1)] * len(kept)
  x, y, share = _stacked(rows, bits), np.array(labels), np.array(sizes)
  there = np.unique(x.indices)  # the others have no weight
  x = x[:, there]

  # Nesterov's accelerated gradient, doi:10.1007/978-1-4419-8853-9, section 2.2. Rows have a length
  # of 1, and so the slope of the loss changes at most by half of a step, a constant that is known.
  best = ahead = np.zeros(len(there) + 1)
  for i in range(_ROUNDS):
    slope = share * (_sigmoid(x @ ahead[:-1] + ahead[-1]) - y)
    gradient = np.append(x.T @ slope + l2 * ahead[:-1], slope.sum())
    before, best = best, ahead - gradient / (0.5 + l2)
    ahead = best + i / (i + 3) * (best - before)
  weights = np.zeros(2**bits)
  weights[there] = best[:-1]
  measured = {'positives': float(len(positive)), 'negatives': float(len(negative))}
  held = [side for (_, side), _ in sides]
  if all(held):
    good, bad = (_stacked(side, bits) @ weights + best[-1] for side in held)
    measured |= {
      'auc': auc(good, bad),
      'agreement': float(((good > 0).mean() + (bad <= 0).mean()) / 2),
    }
  return weights.astype(np.float32), float(best[-1]), measured


def auc(good: np.ndarray, bad: np.ndarray) -> float:
  """The probability that one of `good` is above one of `bad`; equal ones count half.

  >>> auc(np.array([1, 2, 3]), np.array([0, 2]))
  0.75
  """
  bad = np.sort(bad)
  below = np.searchsorted(bad, good, 'left') + np.searchsorted(bad, good, 'right')
  return float(below.mean() / 2 / len(bad))


def save(path: Path, model: Model) -> None:
  """Writes a model, whole or not at all."""
  about = {'bias': model.bias, 'words': model.words, 'low': model.low, 'measured': model.measured}
  # Most features occur nowhere and have no weight.
  at = np.flatnonzero(model.weights)
  with replacing(path) as file:
    np.savez_compressed(
      file,
      about=np.frombuffer(json.dumps(about).encode(), np.uint8),
      at=at.astype(np.int32),
      weights=model.weights[at],
      size=np.int64(len(model.weights)),
    )


def load(path: Path, where: str) -> Model:
  """A model that `save` wrote.

  Raises:
    BadInput: the file is none; the message begins with `where`.
  """
  try:
    with np.load(path, allow_pickle=False) as found:
      about = json.loads(found['about'].tobytes())
      size = int(found['size'])
      if size not in {2**bits for bits in range(8, 25)}:
        raise ValueError(f'{size} features')
      weights = np.zeros(size, np.float32)
      weights[found['at']] = found['weights']
    bias, low, words = float(about['bias']), float(about['low']), int(about['words'])
    if not np.isfinite(np.append(weights, [bias, low])).all() or words < 1:
      raise ValueError('numbers that are not finite')
    return Model(weights, bias, words, low, dict(about['measured']))
  except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile) as e:
    raise BadInput(f'{where}: {path} is no quality model ({e}); train it again') from None


def _split(texts: Sequence[Any], holdout: float) -> tuple[list[Any], list[Any]]:
  """Texts to train on and to measure on, of which there is none if that would leave none."""
  out = [int((i + 1) * holdout) > int(i * holdout) for i in range(len(texts))]
  kept, held = ([x for x, o in zip(texts, out) if o == wanted] for wanted in (False, True))
  return (kept, held) if kept else (held, [])


def _stacked(rows: Sequence[np.ndarray], bits: int) -> scipy.sparse.csr_array:
  flat = np.concatenate([*rows, np.zeros(0, np.int32)])
  return _rows(flat, np.cumsum([0, *map(len, rows)]), bits)


def _rows(flat: np.ndarray, starts: np.ndarray, bits: int) -> scipy.sparse.csr_array:
  """[N, 2**bits] with a 1 for each feature, and every row of length 1."""
  sizes = np.diff(starts)
  values = np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes)
  return scipy.sparse.csr_array((values, flat, starts), shape=(len(sizes), 2**bits))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
  return np.exp(-np.logaddexp(0, -logits))

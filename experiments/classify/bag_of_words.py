"""The floor: logistic regression on the words of a text and their pairs, on the same files.

python -m experiments.classify.bag_of_words runs/classify/data

Of two texts, the words of the first and those of the second are different features; a second row
has the share of the second's words that the first has too, and nothing else. L2 regularisation is
chosen by a tenth of the training texts, and the fit is L-BFGS from zero, so chance plays no part.
"""

import argparse
import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.classify.prepare import CLASSES
from llm_jax.evals import counts

L2 = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)


def words(text: str) -> list[str]:
  """In lower case; punctuation is words too."""
  return re.findall(r'[a-z0-9]+|[^\sa-z0-9]', text.lower())


def features(text: str) -> set[str]:
  """Words and pairs of neighbours of each part of a text."""
  found = set()
  for part, one in enumerate(text.split('\n')):
    said = ['^', *words(one), '$']
    found |= {f'{part} {word}' for word in said}
    found |= {f'{part} {a} {b}' for a, b in itertools.pairwise(said)}
  return found


def overlap(text: str) -> float:
  """The share of the second part's words that the first part has too."""
  first, second = (set(words(part)) for part in text.split('\n'))
  return len(first & second) / max(len(second), 1)


def read(folder: Path, name: str, split: str) -> tuple[list[str], np.ndarray]:
  """Texts and the numbers of their classes."""
  with open(folder / name / f'{split}.jsonl', encoding='utf-8') as file:
    records = [json.loads(line) for line in file]
  return [r['text'] for r in records], np.array([CLASSES[name].index(r['label']) for r in records])


class Indexed:
  """Features that several training texts have, as numbers; of a text, padded with a last one."""

  def __init__(self, texts: Sequence[str]) -> None:
    seen = Counter(feature for text in texts for feature in features(text))
    self.number = {f: i for i, f in enumerate(f for f, n in seen.items() if n > 1)}

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    found = [[self.number[f] for f in sorted(features(t)) if f in self.number] for t in texts]
    rows = np.full((len(texts), max(map(len, found))), len(self.number), np.int32)
    for row, some in zip(rows, found, strict=True):
      row[: len(some)] = some
    return rows


def fitted(x_BF: np.ndarray, y_B: np.ndarray, size: int, l2: float) -> np.ndarray:
  """Weights [size + 1] and a bias, of texts whose features are numbers; unit length a text."""
  scale_B = np.maximum((x_BF < size).sum(1), 1) ** -0.5

  def loss(w):
    z_B = jnp.append(w[:-1], 0.0)[x_BF].sum(1) * scale_B + w[-1]
    return optax.sigmoid_binary_cross_entropy(z_B, y_B).mean() + l2 * (w[:-1] ** 2).sum()

  tx, w = optax.lbfgs(), jnp.zeros(size + 1)

  @jax.jit
  def step(w, state):
    value, grad = optax.value_and_grad_from_state(loss)(w, state=state)
    updates, state = tx.update(grad, state, w, value=value, grad=grad, value_fn=loss)
    return optax.apply_updates(w, updates), state

  state = tx.init(w)
  for _ in range(40):
    w, state = step(w, state)
  return np.asarray(w)


def said(w: np.ndarray, x_BF: np.ndarray) -> np.ndarray:
  """The classes that weights find."""
  size = len(w) - 1
  scale_B = np.maximum((x_BF < size).sum(1), 1) ** -0.5
  return (np.append(w[:-1], 0.0)[x_BF].sum(1) * scale_B + w[-1] > 0).astype(int)


def measured(said_B: np.ndarray, gold_B: np.ndarray) -> dict[str, float]:
  sums = counts.confusion(said_B, gold_B)
  return {'accuracy': float((said_B == gold_B).mean()), 'mcc': counts.matthews(sums)}


def floors(folder: Path, name: str) -> dict[str, dict[str, float]]:
  """What needs no model, by name: accuracy and Matthews' correlation on the validation split."""
  texts, y = read(folder, name, 'train')
  held_texts, held_y = read(folder, name, 'validation')
  found = {'majority': measured(np.full(len(held_y), np.bincount(y).argmax()), held_y)}
  if name == 'rte':
    x, held = (np.array([overlap(text) for text in some]) for some in (texts, held_texts))
    cuts = np.unique(x)
    best = max(cuts, key=lambda cut: ((x >= cut) == y).mean())
    found['share of words found'] = measured((held >= best).astype(int), held_y)
  index = Indexed(texts)
  x, size = index(texts), len(index.number)
  tenth = np.arange(len(y)) % 10 == 0
  metric = 'mcc' if name == 'cola' else 'accuracy'

  def worth(l2: float) -> float:
    return measured(said(fitted(x[~tenth], y[~tenth], size, l2), x[tenth]), y[tenth])[metric]

  best = max(L2, key=worth)
  found['bag of words'] = measured(said(fitted(x, y, size, best), index(held_texts)), held_y)
  return found


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('data', type=Path)
  folder = parser.parse_args().data
  for name in CLASSES:
    for what, numbers in floors(folder, name).items():
      print(f'{name}, {what}: ' + ', '.join(f'{k} {v:.3f}' for k, v in numbers.items()))


if __name__ == '__main__':
  main()

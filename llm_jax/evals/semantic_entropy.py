"""How many things a model says to one question: discrete semantic entropy, Nature 630, 625 (2024).

Samples that mean the same are one cluster, doi:10.1038/s41586-024-07421-0.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple


class SemanticEntropy(NamedTuple):
  """Of n samples of one question.

  Attributes:
    entropy: of the shares of the clusters, in nats.
    normalised: divided by log n, the most it can be; 0 for a single sample.
    largest_share: how many samples say what most say.
  """

  entropy: float
  normalised: float
  largest_share: float


def semantic_entropy(clusters_G: Sequence[Hashable]) -> SemanticEntropy:
  """From the cluster of each sample; everything is nan without samples.

  >>> found = semantic_entropy(['Paris', 'Paris', 'Rome', 'Rome'])
  >>> round(found.entropy, 4), round(found.normalised, 4), found.largest_share
  (0.6931, 0.5, 0.5)
  """
  n, sizes = len(clusters_G), Counter(clusters_G).values()
  if not n:
    return SemanticEntropy(math.nan, math.nan, math.nan)
  entropy = sum(size / n * math.log(n / size) for size in sizes)
  return SemanticEntropy(entropy, entropy / math.log(n) if n > 1 else 0.0, max(sizes) / n)

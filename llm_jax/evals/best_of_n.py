"""How far the best of n answers is from the policy: KL(best of n, policy), arXiv:2009.01325, G.

For scores without ties it is log n - (n - 1)/n whatever the policy; ties, and answers that are the
same, bring it below (arXiv:2401.01879).
"""

import math
from collections import defaultdict
from collections.abc import Sequence


def bound(n: int) -> float:
  """log n - (n - 1) / n, in nats.

  >>> round(bound(8), 4)
  1.2044
  """
  return math.log(n) - (n - 1) / n


def kl(answers: Sequence[str], scores: Sequence[float]) -> float:
  """KL in nats of the best of n against the policy, with the n answers in place of the policy.

  With answers y of probability p(y), counted, and F(s) the share of answers that score at most s,
  the best of n draws with replacement is y with probability p(y) (F(s)^n - F(s-)^n) / (F(s) -
  F(s-)): n draws all score at most s and not all less, and equals are chosen from alike. An
  estimate from few answers; it is 0 where all score the same, and never above `bound(n)`.

  >>> distinct, tied = kl('abcd', [1, 2, 3, 4]), kl('abcd', [0, 0, 0, 1])
  >>> round(distinct, 2), round(tied, 2), round(bound(4), 2)
  (0.59, 0.41, 0.64)

  Args:
    answers: n texts sampled for one prompt.
    scores: of each, finite.
  """
  n = len(answers)
  count: dict[float, int] = defaultdict(int)
  for score in scores:
    count[score] += 1
  below, total = 0.0, 0.0
  for score in sorted(count):
    share = count[score] / n
    factor = ((below + share) ** n - below**n) / share  # of every answer with this score
    total += share * factor * math.log(factor) if factor else 0.0
    below += share
  return total


def best(scores: Sequence[float | None]) -> tuple[int, int] | None:
  """Indices of the first best and the first worst score, None of which are unknown; or None.

  >>> best([0.5, 2.0, None, 0.5])
  (1, 0)
  """
  known = [i for i, score in enumerate(scores) if score is not None]
  if not known:
    return None
  of = lambda i: scores[i] or 0.0
  return max(known, key=lambda i: (of(i), -i)), min(known, key=lambda i: (of(i), i))

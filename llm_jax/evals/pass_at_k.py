"""pass@k: how likely one of k samples is right, arXiv:2107.03374, section 2.1."""

import math
from collections.abc import Iterable

from llm_jax.evals.statistics import Interval, interval
from llm_jax.types import BadInput


def pass_at_k(n: int, right: int, k: int) -> float:
  """1 - C(n - right, k) / C(n, k), without bias; exact to the last digit for any n.

  >>> pass_at_k(10, 3, 1), pass_at_k(200, 1, 100), pass_at_k(5, 0, 5)
  (0.3, 0.5, 0.0)

  Args:
    n: samples of a question.
    right: how many of them are right.
    k: how many one may try, at most n.
  """
  if not 0 <= right <= n or not 1 <= k <= n:
    raise BadInput(f'pass_at_k: {right} right of {n}, k {k}; give 0 to n right, and k from 1 to n')
  return (math.comb(n, k) - math.comb(n - right, k)) / math.comb(n, k)


def mean_pass_at_k(questions: Iterable[tuple[int, int]], k: int, level: float = 0.95) -> Interval:
  """The mean of `pass_at_k` over questions, each (n, right). The question is the unit of its error.

  >>> found = mean_pass_at_k([(4, 4), (4, 0), (4, 1), (4, 2)], k=1)
  >>> found.mean, round(found.error, 3), found.n
  (0.4375, 0.213, 4)
  """
  return interval([pass_at_k(n, right, k) for n, right in questions], level=level)

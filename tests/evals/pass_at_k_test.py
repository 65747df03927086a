"""pass@k is the share of subsets of k samples that hold a right one."""

import itertools
import json
import math
from pathlib import Path

import pytest

from llm_jax.evals.pass_at_k import mean_pass_at_k, pass_at_k
from llm_jax.evals.statistics import standard_error
from llm_jax.types import BadInput

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())


@pytest.mark.parametrize('case', KNOWN['pass_at_k'])
def test_known_values(case):
  found = pass_at_k(case['n'], case['c'], case['k'])
  assert found == pytest.approx(case['value'], abs=1e-12)


@pytest.mark.parametrize('n', [1, 4, 6])
def test_all_subsets_are_tried(n):
  for right, k in itertools.product(range(n + 1), range(1, n + 1)):
    tried = [*itertools.combinations([1] * right + [0] * (n - right), k)]
    assert pass_at_k(n, right, k) == sum(map(any, tried)) / len(tried)


def test_many_samples_are_safe():
  assert pass_at_k(200, 1, 1) == 1 / 200
  product = 1 - math.prod(1 - 100 / i for i in range(190 + 1, 200 + 1))
  assert pass_at_k(200, 10, 100) == pytest.approx(product, rel=1e-12)
  assert 0 < 1 - pass_at_k(2000, 10, 1000) < 1e-3


def test_the_question_is_the_unit():
  found = mean_pass_at_k([(10, 3), (10, 0), (5, 5)], 2)
  assert found.error == standard_error([pass_at_k(10, 3, 2), 0.0, 1.0]) and found.n == 3
  assert mean_pass_at_k([(4, 4)] * 5, 1).low < 1  # not 1 -+ 0


@pytest.mark.parametrize(('n', 'right', 'k'), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_bad_input(n, right, k):
  with pytest.raises(BadInput, match=f'{right} right of {n}, k {k}'):
    pass_at_k(n, right, k)

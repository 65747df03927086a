"""The entropy of what a model says."""

import json
import math
from pathlib import Path

import pytest

from llm_jax.evals.semantic_entropy import semantic_entropy

KNOWN = json.loads((Path(__file__).parents[1] / 'fixtures' / 'eval_metrics.json').read_text())


@pytest.mark.parametrize('case', KNOWN['discrete_semantic_entropy'])
def test_known_values(case):
  wanted = (case['entropy'], case['normalised'], case['largest_share'])
  assert semantic_entropy(case['clusters']) == pytest.approx(wanted, abs=1e-12)


def test_edges():
  assert semantic_entropy(['a']) == (0.0, 0.0, 1.0)
  assert all(map(math.isnan, semantic_entropy([])))
  assert math.copysign(1, semantic_entropy(['a', 'a']).entropy) == 1  # no -0.0 in a table

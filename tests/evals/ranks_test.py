"""Ranks are those of SciPy."""

import numpy as np
import pytest
import scipy.stats

from llm_jax.evals.ranks import ranks


@pytest.mark.parametrize('x', [[], [3.0], [2, 2, 2], np.random.default_rng(0).integers(0, 9, 50)])
def test_ranks(x):
  np.testing.assert_array_equal(ranks(x), scipy.stats.rankdata(x))

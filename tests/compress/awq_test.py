"""AWQ finds the golden scales, exponents, clips and codes."""

import numpy as np
import pytest

from llm_jax.compress import awq
from llm_jax.compress.grid import Grid
from tests.compress.golden import ERRORS, HESSIAN, LAYER, X, product_error

MEAN = np.abs(X).mean(0)


@pytest.mark.parametrize(('group', 'alpha'), [(128, 0.35), (32, 0.4)])
def test_scales_and_clips_are_the_golden_ones(group, alpha):
  grid, name = Grid(4, group, 'asymmetric'), f'awq_g{group}'
  found = awq.search(MEAN, HESSIAN, [LAYER['W']], grid)
  assert found.alpha == alpha
  np.testing.assert_allclose(found.scale, LAYER[f'{name}_s'], rtol=1e-5)
  np.testing.assert_allclose(found.losses, LAYER[f'{name}_losses'], rtol=1e-5)
  scaled = LAYER['W'] * found.scale
  rounded = grid.round(scaled)
  assert (rounded.codes == LAYER[f'{name}_q']).mean() >= 0.999
  np.testing.assert_allclose(rounded.scale, LAYER[f'{name}_scale'], rtol=1e-5)
  error = product_error(rounded.dense / found.scale)
  assert error == pytest.approx(ERRORS[name]['output'], rel=1e-3)
  factor = awq.clip(HESSIAN / np.outer(found.scale, found.scale), scaled, grid)
  np.testing.assert_allclose(factor, LAYER[f'{name}_clip'], rtol=1e-6)
  clipped = grid.round(awq.clipped(scaled, factor, grid)).dense / found.scale
  wanted = ERRORS[f'awq_clip_g{group}']['output']
  assert product_error(clipped) == pytest.approx(wanted, rel=1e-3)
  assert product_error(clipped) < error < 0.65 * product_error(grid.round(LAYER['W']).dense)

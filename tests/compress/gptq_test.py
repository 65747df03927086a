"""GPTQ gives the golden codes, does far better than rounding, and says what it lacks."""

import numpy as np
import pytest

from llm_jax.compress.gptq import gptq
from llm_jax.compress.grid import Grid
from llm_jax.types import BadInput
from tests.compress.golden import ERRORS, HESSIAN, LAYER, product_error

SETTINGS = {
  'gptq_channel': (Grid(4), 'given'),
  'gptq_g128': (Grid(4, 128), 'given'),
  'gptq_g32': (Grid(4, 32), 'given'),
  'gptq_g128_asym': (Grid(4, 128, 'asymmetric'), 'given'),
  'gptq_int8_channel': (Grid(8), 'given'),
  'gptq_g32_act_static': (Grid(4, 32), 'act'),
}


@pytest.mark.parametrize('name', SETTINGS)
def test_codes_are_the_golden_ones(name):
  grid, order = SETTINGS[name]
  found = gptq(LAYER['W'], HESSIAN, grid, order=order)
  assert (found.codes == LAYER[f'{name}_q']).mean() >= 0.999
  np.testing.assert_allclose(found.scale, LAYER[f'{name}_scale'], rtol=1e-5)
  assert product_error(found.dense) == pytest.approx(ERRORS[name]['output'], rel=1e-3)
  plain = product_error(grid.round(LAYER['W']).dense)
  assert product_error(found.dense) < 0.8 * plain


def test_groups_over_columns_in_another_order_are_those_of_a_permuted_layer():
  order = LAYER['gptq_g128_act_perm']
  np.testing.assert_array_equal(order, np.argsort(-np.diag(_alive()), kind='stable'))
  found = gptq(LAYER['W'][:, order], HESSIAN[np.ix_(order, order)], Grid(4, 128))
  codes = found.codes[:, np.argsort(order)]
  assert (codes == LAYER['gptq_g128_act_q']).mean() >= 0.999


def _alive():
  """The Hessian as GPTQ takes it: a channel that no input reaches has 1."""
  hessian = HESSIAN.copy()
  dead = np.diag(hessian) == 0
  hessian[dead, dead] = 1
  return hessian


def test_a_channel_without_inputs_gets_no_weights():
  (dead,) = np.flatnonzero(np.diag(HESSIAN) == 0)
  assert LAYER['W'][:, dead].any()
  assert not gptq(LAYER['W'], HESSIAN, Grid(4, 32)).dense[:, dead].any()


@pytest.mark.parametrize('hessian', [0 * HESSIAN, np.full_like(HESSIAN, np.nan)])
def test_a_hessian_that_says_nothing_is_refused(hessian):
  with pytest.raises(BadInput, match='no calibration input reaches it, or one is not finite'):
    gptq(LAYER['W'], hessian, Grid(4, 32))


def test_a_hessian_without_a_factor_is_refused_and_a_larger_damping_is_tried_before():
  grid = Grid(4)
  worse = np.eye(256)
  worse[0, 1] = worse[1, 0] = 1.05  # an eigenvalue of -0.05
  np.testing.assert_array_equal(
    gptq(LAYER['W'], worse, grid).codes, gptq(LAYER['W'], worse, grid, damp=0.08).codes
  )
  worse[0, 1] = worse[1, 0] = 1.5
  with pytest.raises(BadInput, match=r'no Cholesky factor with a damping up to 0\.1'):
    gptq(LAYER['W'], worse, grid)

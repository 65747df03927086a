"""Codes and scales of rounding are those of other libraries, bit for bit."""

import numpy as np
import pytest

from llm_jax.compress import fp8
from llm_jax.compress.grid import Grid
from tests.compress.golden import ERRORS, LAYER, product_error

GRIDS = {
  'int8_channel': Grid(8),
  'int8_channel_narrow': Grid(8, kind='narrow'),
  'int8_channel_asym': Grid(8, kind='asymmetric'),
  'int4_g128': Grid(4, 128),
  'int4_g128_narrow': Grid(4, 128, 'narrow'),
  'int4_g128_asym': Grid(4, 128, 'asymmetric'),
  'int4_g32': Grid(4, 32),
  'int4_g32_asym': Grid(4, 32, 'asymmetric'),
}


@pytest.mark.parametrize('name', GRIDS)
@pytest.mark.parametrize('edge', ['', 'edge_'])  # zeros, one value, ties, tiny and huge numbers
def test_codes_scales_and_zero_points_are_the_golden_ones(name, edge):
  weight = LAYER['edge' if edge else 'W']
  found = GRIDS[name].round(weight)
  for part, array in zip(('q', 'scale', 'zero'), found[:3], strict=True):
    wanted = LAYER.get(f'{edge}{name}_{part}')
    if array is None:
      assert wanted is None
    else:
      np.testing.assert_array_equal(array, wanted)
      assert array.dtype == wanted.dtype


@pytest.mark.parametrize('name', GRIDS)
def test_what_they_stand_for_is_as_far_from_the_weights_as_it_should_be(name):
  made = GRIDS[name].round(LAYER['W']).dense
  assert product_error(made) == pytest.approx(ERRORS[f'rtn_{name}']['output'], rel=1e-3)


def test_the_last_group_may_be_smaller():
  whole = Grid(4, 96, 'asymmetric').round(LAYER['W'])
  parts = [Grid(4, kind='asymmetric').round(LAYER['W'][:, i : i + 96]).dense for i in (0, 96, 192)]
  np.testing.assert_array_equal(whole.dense, np.concatenate(parts, axis=1))


def test_experts_are_rounded_one_by_one():
  both = np.stack([LAYER['W'], 2 * LAYER['W'][::-1]])
  for part, first, second in zip(*(Grid(4, 32).round(x) for x in (both, both[0], both[1]))):
    if isinstance(part, np.ndarray):
      np.testing.assert_array_equal(part, np.stack([first, second]))


def test_float8_keeps_four_bits_of_each_weight():
  found = fp8.rounded(LAYER['W'])
  assert found.dense.shape == LAYER['W'].shape
  step = np.maximum(np.abs(LAYER['W']) / 16, found.scale * 2.0**-10)  # half a step, or of the least
  assert (np.abs(found.dense - LAYER['W']) <= step * 1.0001).all()
  assert np.abs(found.codes.astype(np.float32)).max() == 448

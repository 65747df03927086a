"""Newton's method finds the top, from far away as well, and says when there is none."""

import numpy as np
import pytest

from llm_jax.evals.newton import maximise


def bell(middle_R):
  """Values that are nearly flat far away, where a whole step would overshoot."""

  def derivatives(x_R1):
    x = x_R1[:, 0] - middle_R
    slope = np.tanh(x)
    return -np.log(np.cosh(x)), -slope[:, None], (1 - slope**2)[:, None, None]

  return derivatives


def test_functions_are_independent():
  middle = np.array([0.0, -2.0, 1.5])
  found = maximise(bell(middle), np.array([[0.4], [1.0], [-1.5]]))
  np.testing.assert_allclose(found[:, 0], middle, atol=1e-10)
  alone = maximise(bell(middle[1:2]), np.array([[1.0]]))
  np.testing.assert_allclose(alone, found[1:2], atol=1e-10)


def test_no_maximum():
  def rises(x_R1):
    return -np.exp(-x_R1[:, 0]), np.exp(-x_R1), np.exp(-x_R1)[:, None]

  with pytest.raises(ArithmeticError, match='is there one'):
    maximise(rises, np.zeros((1, 1)))

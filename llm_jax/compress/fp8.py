"""Each weight as the nearest number of float8 (e4m3), with a scale an output."""

import ml_dtypes
import numpy as np

from llm_jax.compress.calibration import Layer
from llm_jax.compress.grid import Rounded
from llm_jax.compress.walk import Method
from llm_jax.models.weights import FLOAT8, Form

MOST = np.float32(448)  # its largest number


def make() -> Method:
  """No text is needed."""

  def compress(layer: Layer) -> dict[str, Rounded]:
    return {name: rounded(layer.matrix(name)) for name in layer.matrices}

  return Method(Form(FLOAT8), compress)


def rounded(weight_OI: np.ndarray) -> Rounded:
  """The weights [*lead, O, I] with scales [*lead, O, 1], so that the largest becomes 448.

  >>> made = rounded(np.array([[1.0, -448.0, 17.0]], np.float32))
  >>> made.codes.tolist(), made.scale.tolist()
  ([[1.0, -448.0, 16.0]], [[1.0]])
  """
  scale_O1 = np.abs(weight_OI).max(-1, keepdims=True).astype(np.float32) / MOST
  scale_O1 = np.where(scale_O1 == 0, np.float32(1), scale_O1)
  codes_OI = np.clip(weight_OI / scale_O1, -MOST, MOST).astype(ml_dtypes.float8_e4m3fn)
  return Rounded(codes_OI, scale_O1)

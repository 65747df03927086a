"""Each weight as the nearest code: int8 with a scale an output, fewer bits with one a group."""

from typing import Annotated

from llm_jax.compress.calibration import Layer
from llm_jax.compress.grid import Bits, Grid, Kind, Rounded
from llm_jax.compress.walk import Method, stored
from llm_jax.options import at_least


def make(*, bits: Bits = 8, group: Annotated[int, at_least(0)] = 0, kind: Kind = 'full') -> Method:
  """No text is needed.

  Args:
    bits: of a code.
    group: inputs that share a scale; 0: all of an output.
    kind: of the codes: 'full', 'narrow' or 'asymmetric', see compress/grid.py.
  """
  grid = Grid(bits, group, kind)

  def compress(layer: Layer) -> dict[str, Rounded]:
    return {name: grid.round(layer.matrix(name)) for name in layer.matrices}

  return Method(stored(grid), compress)

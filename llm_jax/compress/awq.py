"""AWQ, arXiv:2306.00978: inputs that are large get more precise weights, by scales found by trial.

The weights of an input are multiplied by a scale before rounding, and what comes before is divided
by it; then the largest weights of each group are clipped where that helps.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np

from llm_jax.compress.calibration import Layer
from llm_jax.compress.grid import Bits, Grid, Kind, Rounded, grouped, joined
from llm_jax.compress.walk import Method, stored
from llm_jax.options import at_least
from llm_jax.types import BadInput

ALPHAS = tuple(i / 20 for i in range(20))
CLIPS = tuple(1 - i / 20 for i in range(10))
LEAST = 1e-4
UNCLIPPED = ('attention/q', 'attention/k')  # of products that the softmax makes larger


def make(
  *,
  bits: Bits = 4,
  group: Annotated[int, at_least(0)] = 32,
  kind: Kind = 'asymmetric',
  clipping: bool = True,
) -> Method:
  """Scales where a norm comes before, then clipping, on the inputs of the model as it was.

  Args:
    bits: of a code.
    group: inputs that share a scale; 0: all of an output.
    kind: of the codes: 'full', 'narrow' or 'asymmetric', see compress/grid.py.
    clipping: whether large weights are clipped, where that helps.
  """
  grid = Grid(bits, group, kind)

  def compress(layer: Layer) -> dict[str, Rounded]:
    found = {name: grid.round(layer.matrix(name)) for name in layer.experts}
    inputs = {names: layer.inputs(names[0]) for names in layer.together}
    for names, (hessian_II, mean_I, _) in inputs.items():
      with layer.named(names[0]):
        scale_I = folded(layer, names, hessian_II, mean_I, grid)
      scaled_II = hessian_II / np.outer(scale_I, scale_I)
      for name in names:
        weight_OI = layer.matrix(name)
        if clipping and name not in UNCLIPPED:
          weight_OI = clipped(weight_OI, clip(scaled_II, weight_OI, grid), grid)
        found[name] = grid.round(weight_OI)
    return found

  return Method(stored(grid), compress, calibrated=True, follows=False)


def folded(
  layer: Layer, names: Sequence[str], hessian_II: np.ndarray, mean_I: np.ndarray, grid: Grid
) -> np.ndarray:
  """Scales some matrices of a layer and divides the norm before them; 1 where there is none.

  Args:
    layer: that is changed.
    names: of matrices that are multiplied with the same inputs.
    hessian_II, mean_I: of these inputs, see `Inputs`.
    grid: of the codes.

  Raises:
    BadInput: the inputs are all 0, or not finite.
  """
  if not np.isfinite(mean_I).all() or not mean_I.any():
    raise BadInput('no calibration input reaches it, or one is not finite')
  norm = layer.norm_before(names)
  if norm is None:
    return np.ones_like(mean_I)
  scale_I = search(mean_I, hessian_II, [layer.matrix(name) for name in names], grid).scale
  layer.divide(norm, scale_I)
  for name in names:
    layer.set(name, layer.matrix(name) * scale_I)
  return scale_I


class Found(NamedTuple):
  """What the search for scales found.

  Attributes:
    scale: of the inputs [I], which weights are multiplied by.
    alpha: the exponent of their means.
    losses: mean squared errors of the products, for each exponent of `ALPHAS`.
  """

  scale: np.ndarray
  alpha: float
  losses: np.ndarray


def search(
  mean_I: np.ndarray, hessian_II: np.ndarray, weights: Sequence[np.ndarray], grid: Grid
) -> Found:
  """Scales for the inputs that some weights share.

  Args:
    mean_I: of the sizes of the calibration inputs.
    hessian_II: 2 X^T X / n over these inputs.
    weights: [out, I] each.
    grid: of the codes.
  """
  weight_OI = np.concatenate(weights)
  losses = []
  for alpha in ALPHAS:
    scale_I = scales(mean_I, alpha)
    error_OI = grid.round(weight_OI * scale_I).dense / scale_I - weight_OI
    losses.append(np.sum(error_OI @ hessian_II * error_OI) / (2 * len(error_OI)))
  best = int(np.argmin(losses))
  return Found(scales(mean_I, ALPHAS[best]), ALPHAS[best], np.asarray(losses))


def scales(mean_I: np.ndarray, alpha: float) -> np.ndarray:
  """Powers of the mean sizes of inputs, whose largest and smallest are each other's inverse.

  >>> scales(np.array([1.0, 16.0], np.float32), 0.5).tolist()
  [0.5, 2.0]
  """
  scale_I = np.maximum(mean_I.astype(np.float32) ** np.float32(alpha), np.float32(LEAST))
  return scale_I / np.sqrt(scale_I.max() * scale_I.min())


def clip(hessian_II: np.ndarray, weight_OI: np.ndarray, grid: Grid) -> np.ndarray:
  """The factor [O, G] on the largest magnitude of each group that its part of the product likes.

  The first of `CLIPS` with the smallest squared error is taken.

  Args:
    hessian_II: 2 X^T X / n over the inputs of these weights.
    weight_OI: the weights.
    grid: of the codes.
  """
  weight_OGI = grid.grouped(weight_OI)
  at_G = np.arange(weight_OGI.shape[1])
  columns_GiI = grouped(hessian_II, grid.group).transpose(1, 2, 0)
  hessian_GII = grouped(columns_GiI, grid.group)[at_G, :, at_G]
  losses = []
  for factor in CLIPS:
    made_OI = grid.round(
      clipped(weight_OI, np.full(weight_OGI.shape[:2], factor, np.float32), grid)
    ).dense
    error_GOI = (grid.grouped(made_OI) - weight_OGI).swapaxes(0, 1)
    losses.append(np.sum(error_GOI @ hessian_GII * error_GOI, axis=-1).T)
  return np.asarray(CLIPS, np.float32)[np.argmin(losses, axis=0)]


def clipped(weight_OI: np.ndarray, factor_OG: np.ndarray, grid: Grid) -> np.ndarray:
  """The weights, of which none is larger than so much of the largest of its group."""
  weight_OGI = grid.grouped(weight_OI)
  most_OG1 = np.abs(weight_OGI).max(-1, keepdims=True) * factor_OG[..., None]
  return joined(np.clip(weight_OGI, -most_OG1, most_OG1), weight_OI.shape[-1])

"""GPTQ, arXiv:2210.17323: what rounding a column changes is made up for by the columns after it."""

from typing import Annotated, Literal

import numpy as np

from llm_jax.compress import awq
from llm_jax.compress.calibration import Layer
from llm_jax.compress.grid import Bits, Grid, Kind, Rounded
from llm_jax.compress.walk import Method, stored
from llm_jax.models.weights import group_size
from llm_jax.options import above, at_least
from llm_jax.types import BadInput

BLOCK = 128  # columns whose changes reach the others at once; it changes no code
MOST = 0.1  # largest damping that is tried
Damp = Annotated[float, above(0, up_to=MOST)]


def make(
  *,
  bits: Bits = 4,
  group: Annotated[int, at_least(0)] = 32,
  kind: Kind = 'full',
  damp: Damp = 0.01,
  order: Literal['given', 'act'] = 'given',
  scales: bool = False,
) -> Method:
  """Each matrix by `gptq`, on what it is multiplied with once all before it are compressed.

  Args:
    bits: of a code.
    group: inputs that share a scale; 0: all of an output.
    kind: of the codes: 'full', 'narrow' or 'asymmetric', see compress/grid.py.
    damp: of the Hessian, as a share of the mean of its diagonal.
    order: of the inputs: as 'given', or 'act', by falling size.
    scales: whether weights are scaled before as in AWQ, where a norm comes before.
  """
  grid = Grid(bits, group, kind)

  def compress(layer: Layer) -> dict[str, Rounded]:
    found = {name: grid.round(layer.matrix(name)) for name in layer.experts}
    for names in layer.together:
      hessian_II, mean_I, count = layer.inputs(names[0])
      if scales:
        with layer.named(names[0]):
          scale_I = awq.folded(layer, names, hessian_II, mean_I, grid)
        hessian_II = hessian_II / np.outer(scale_I, scale_I)
      for name in names:
        with layer.named(name):
          if count < len(hessian_II):
            raise BadInput(f'too little calibration text for {len(hessian_II)} inputs')
          found[name] = gptq(layer.matrix(name), hessian_II, grid, damp=damp, order=order)
      for name in names:
        layer.set(name, found[name].dense)
    return found

  return Method(stored(grid), compress, calibrated=True)


def gptq(
  weight_OI: np.ndarray,
  hessian_II: np.ndarray,
  grid: Grid,
  *,
  damp: Damp = 0.01,
  order: Literal['given', 'act'] = 'given',
) -> Rounded:
  """Codes whose outputs on the calibration inputs are near those of the weights.

  Args:
    weight_OI: the weights, [out, in].
    hessian_II: 2 X^T X / n over the inputs X [n, I] of the layer.
    grid: of the codes.
    damp: added to the diagonal, as a share of its mean; doubled, at most to 0.1, where the Hessian
      has no Cholesky factor.
    order: 'act' rounds columns by falling diagonal, with the scales of the original weights;
      otherwise they are rounded as they stand, and a group has the scale of what its weights are
      when its first column comes up.

  Raises:
    BadInput: the Hessian is 0 or not finite, or none of the dampings helps.
  """
  weight_OI, hessian_II = weight_OI.astype(np.float64), hessian_II.astype(np.float64)
  dead_I = np.diag(hessian_II) == 0
  if not np.isfinite(hessian_II).all() or dead_I.all():
    raise BadInput('no calibration input reaches it, or one is not finite')
  hessian_II[dead_I, dead_I] = 1
  weight_OI[:, dead_I] = 0
  static = order == 'act'
  order_I = np.argsort(-np.diag(hessian_II), kind='stable') if static else np.arange(len(dead_I))
  factor_II = _factor(hessian_II[np.ix_(order_I, order_I)], damp)
  scale_OG, zero_OG = grid.scales(weight_OI)
  size = group_size(grid.group, weight_OI.shape[1])
  weight_OI = weight_OI[:, order_I]
  codes_OI = np.zeros(weight_OI.shape, np.int8 if zero_OG is None else np.uint8)
  for start in range(0, len(order_I), BLOCK):
    end = min(start + BLOCK, len(order_I))
    errors_OB = np.zeros((len(weight_OI), end - start))
    for j in range(start, end):
      group = order_I[j] // size
      if not static and j % size == 0:
        # A group that reaches beyond this block has not heard of the block's errors there.
        ahead_OI = weight_OI[:, j : j + size].copy()
        done = j - start
        ahead_OI[:, max(end - j, 0) :] -= errors_OB[:, :done] @ factor_II[start:j, end : j + size]
        scale_OG[:, group : group + 1], zero = Grid(grid.bits, 0, grid.kind).scales(ahead_OI)
        if zero_OG is not None:
          zero_OG[:, group : group + 1] = zero
      column_O1 = weight_OI[:, j : j + 1]
      zero_O1 = None if zero_OG is None else zero_OG[:, group : group + 1]
      column = Grid(grid.bits, 0, grid.kind)
      codes_O1 = column.codes(column_O1, scale_OG[:, group : group + 1], zero_O1)
      made_O1 = Rounded(codes_O1, scale_OG[:, group : group + 1], zero_O1).dense
      codes_OI[:, order_I[j]] = codes_O1[:, 0]
      error_O = (column_O1 - made_O1)[:, 0] / factor_II[j, j]
      weight_OI[:, j:end] -= error_O[:, None] * factor_II[j, j:end]
      errors_OB[:, j - start] = error_O
    weight_OI[:, end:] -= errors_OB @ factor_II[start:end, end:]
  return Rounded(codes_OI, scale_OG, zero_OG, grid.group)


def _factor(hessian_II: np.ndarray, damp: float) -> np.ndarray:
  """U, upper triangular, with U^T U the inverse of the damped Hessian."""
  mean, share = np.diag(hessian_II).mean(), damp
  while share <= MOST:
    try:
      damped_II = hessian_II + share * mean * np.eye(len(hessian_II))
      inverse_II = np.linalg.inv(np.linalg.cholesky(damped_II))
      factor_II = np.linalg.cholesky(inverse_II.T @ inverse_II).T
      if np.isfinite(factor_II).all():
        return factor_II
    except np.linalg.LinAlgError:
      pass
    share *= 2
  raise BadInput(f'its Hessian has no Cholesky factor with a damping up to {MOST}')

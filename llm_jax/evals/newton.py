"""Newton's method for concave functions, many at a time, with steps halved until they climb."""

from collections.abc import Callable

import numpy as np

# x_RK -> the value of each [R], its gradient [R, K], and minus its second derivatives [R, K, K].
Derivatives = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def maximise(derivatives: Derivatives, start_RK: np.ndarray) -> np.ndarray:
  """Where each of R functions is highest, [R, K], to rounding.

  >>> def parabola(x_RK):
  ...   return -((x_RK - 3) ** 2).sum(1), 6 - 2 * x_RK, np.full((len(x_RK), 1, 1), 2.0)
  >>> maximise(parabola, np.zeros((1, 1))).tolist()
  [[3.0]]

  Args:
    derivatives: of functions that are strictly concave and have a maximum.
    start_RK: where to begin.

  Raises:
    ArithmeticError: 200 steps do not suffice, as when there is no maximum.
  """
  x_RK = start_RK
  value_R, gradient_RK, curvature_RKK = derivatives(x_RK)
  for _ in range(200):
    step_RK = np.linalg.solve(curvature_RKK, gradient_RK[..., None])[..., 0]
    if not np.isfinite(step_RK).all():
      break
    climb_R = (gradient_RK * step_RK).sum(1)  # twice what the step will gain
    slack_R = 1e-12 * (1 + np.abs(value_R))  # by which rounding may lower a value
    for _ in range(60):
      found_R, gradient_RK, curvature_RKK = derivatives(x_RK + step_RK)
      lower_R = ~(found_R >= value_R - slack_R)
      if not lower_R.any():
        break
      step_RK = np.where(lower_R[:, None], step_RK / 2, step_RK)
    x_RK, value_R = x_RK + step_RK, found_R
    # Without a maximum the climb fades as well, but steps do not become small.
    level = (climb_R <= 1e-18 * (1 + np.abs(value_R))).all()
    if level and np.abs(step_RK).max(initial=0) < 1e-6:  # errors are squared: this was the last
      return x_RK
  raise ArithmeticError('no maximum was found; is there one?')

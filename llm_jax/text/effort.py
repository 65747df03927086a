"""How much work a schema may take: those of strangers can be short, and ask for a lot."""

MOST = 1_000_000  # of steps, each well below a microsecond in the inner loops that count them


class Effort:
  """Steps that are left.

  >>> effort = Effort(3)
  >>> effort.spent(2), effort.spent(2)
  (False, True)

  Args:
    left: how many.
  """

  def __init__(self, left: int = MOST) -> None:
    self._left = left

  def spent(self, steps: int) -> bool:
    """Takes some steps more; whether there were too few left for them."""
    self._left -= steps
    return self._left < 0

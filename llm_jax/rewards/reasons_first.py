"""1 if an answer is worked out before it is stated."""

import re

_EQUATION = re.compile(r'\d *[-+*/] *\$?\d[\d,.]* *= *\$?-?\d')


def reward(answer: str, gold: str = '') -> float:
  """1.0 if an equation, right or wrong, comes before 'The answer is'; `gold` does not matter.

  >>> reward('2 * 3 = 6. The answer is 6.'), reward('The answer is 6. 2 * 3 = 6.')
  (1.0, 0.0)
  """
  del gold
  before, stated, _ = answer.partition('The answer is')
  return float(bool(stated and _EQUATION.search(before)))

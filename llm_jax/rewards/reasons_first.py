"""1 if an answer is worked out before it is stated."""

import re

from llm_jax.rewards.thoughts import said

_EQUATION = re.compile(r'\d *[-+*/] *\$?\d[\d,.]* *= *\$?-?\d')


def reward(answer: str, gold: str = '', *, thinking: str = '') -> float:
  """1.0 if an equation, right or wrong, comes before 'The answer is'; `gold` does not matter.

  >>> reward('2 * 3 = 6. The answer is 6.'), reward('The answer is 6. 2 * 3 = 6.')
  (1.0, 0.0)

  Args:
    answer: what was said.
    gold: not read.
    thinking: what was thought before; an equation may stand there as well.
  """
  del gold
  text = said(answer)
  before, stated, _ = text.answer.partition('The answer is')
  worked_out = any(_EQUATION.search(part) for part in (thinking, text.thinking, before))
  return float(bool(stated and worked_out))

"""1 if an answer is worked out before it is stated, in its text or by a call of a tool."""

import re

from llm_jax.rewards.thoughts import said

_EQUATION = re.compile(r'\d *[-+*/] *\$?\d[\d,.]* *= *\$?-?\d')
_CALL = re.compile('<SEARCH_START>|<tool_call>', re.IGNORECASE)
_STATES = 'The answer is'


def reward(answer: str, gold: str = '', *, thinking: str = '', completion: str = '') -> float:
  """1.0 if an equation or a call comes before 'The answer is'; `gold` does not matter.

  Equations may be right or wrong.

  >>> reward('2 * 3 = 6. The answer is 6.'), reward('The answer is 6. 2 * 3 = 6.')
  (1.0, 0.0)

  Args:
    answer: what was said.
    gold: not read.
    thinking: what was thought before; an equation may stand there as well.
    completion: all that was said, with calls.
  """
  del gold
  text = said(answer)
  before, *stated = text.answer.split(_STATES)
  worked_out = any(_EQUATION.search(part) for part in (thinking, text.thinking, before))
  # Thoughts may state it as well; they come first, so it is counted from the end.
  so_far = (completion or answer).rsplit(_STATES, len(stated))[0]
  return float(bool(stated) and (worked_out or bool(_CALL.search(so_far))))

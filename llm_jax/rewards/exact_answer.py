"""1 where the answer that a text states is the right one: 'The answer is $3.'"""

import re

from llm_jax.rewards.thoughts import said

_STATED = re.compile(r'[Tt]he answer is:? *\$?(-?\d[\d,]*(?:\.\d+)?)')


def reward(answer: str, gold: str) -> float:
  """1.0 if `final_answer(answer)` and `gold` are the same number, else 0.0.

  >>> reward('3 * $400 = $1,200. The answer is $1,200.', '1200')
  1.0
  """
  found = final_answer(answer)
  return float(found is not None and float(found) == float(gold.replace(',', '')))


def final_answer(text: str) -> str | None:
  """The number of the first 'The answer is ...', without the dollar and thousands' commas.

  The first one counts, because an answer that comes before the reasoning is a commitment.

  >>> final_answer('The answer is 7. No, 3 + 5 = 8, so the answer is 8.')
  '7'
  """
  match = _STATED.search(said(text).answer)
  return match[1].replace(',', '') if match else None

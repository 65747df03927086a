"""1 where the answer that a text states is the right one: 'The answer is $3.'"""

from decimal import Decimal

from llm_jax.rewards.final_answer import stated
from llm_jax.rewards.math_equal import gold_answer, number
from llm_jax.rewards.notation import characters
from llm_jax.rewards.thoughts import said
from llm_jax.types import BadInput


def reward(answer: str, gold: str) -> float:
  """1.0 if `final_answer(answer)` and `gold` are the same number, else 0.0.

  >>> reward('3 * $400 = $1,200. The answer is $1,200.', '1200')
  1.0

  Raises:
    BadInput: `gold` is no number.
  """
  wanted = number(gold_answer(gold))
  if wanted is None:
    raise BadInput(f'exact_answer: the gold answer {gold[:80]!r} is no number; use math_equal')
  found = final_answer(answer)
  return float(found is not None and number(found) == wanted)


def final_answer(text: str) -> str | None:
  """The number of the first 'The answer is ...', as a decimal or a fraction.

  The first one counts, because an answer that comes before the reasoning is a commitment. A number
  that is part of a formula, such as the 7 of 7^2, is none.

  >>> final_answer('The answer is 7. No, 3 + 5 = 8, so the answer is 8.')
  '7'
  """
  found = stated(characters(said(text).answer))
  value = None if found is None else number(found)
  if value is None:
    return None
  decimal = Decimal(value.numerator) / value.denominator
  return str(decimal if value.denominator > 1 and decimal == value else value)

"""1 where an expression makes the target out of the given numbers: the game of arXiv:2404.03683."""

from collections import Counter
from fractions import Fraction

from llm_jax.options import Share
from llm_jax.rewards.arithmetic import BadExpression, Node, evaluate, parse
from llm_jax.rewards.final_answer import stated, tagged
from llm_jax.rewards.thoughts import said
from llm_jax.types import BadInput

_OPERATIONS = {'number', '+', '-', '*', '/', 'negative'}


def reward(answer: str, gold: str, *, use_all: bool = True, partial: Share = 0.0) -> float:
  """1.0 if the expression of `answer` solves the task of `gold`, else `partial` or 0.0.

  The expression is the content of the last <answer>...</answer>, or else what follows the first
  'The answer is', or else the last line; of 'expression = value' the left side is read. It may use
  + - * / and parentheses, and is evaluated exactly.

  >>> reward('<answer>8 / (3 - 8 / 3)</answer>', '24; 3 3 8 8')
  1.0
  >>> reward('The answer is 3 * 8.', '24; 3 3 8 8', partial=0.1)  # right, but two numbers are left
  0.1

  Args:
    answer: a text with one expression.
    gold: 'target; n1 n2 ...', whole numbers: '24; 3 3 8 8'.
    use_all: whether every number must be used exactly once, or at most once.
    partial: the reward of an expression that can be evaluated but has other numbers or another
      value, such as the 0.1 of TinyZero.

  Raises:
    BadInput: `gold` is not of this form.
  """
  target, numbers = _task(gold)
  try:
    tree = parse(_expression(answer))
    if any(node.op not in _OPERATIONS for node in tree.walk()):
      return 0.0
    value = evaluate(tree)
  except BadExpression:
    return 0.0
  used = _numbers(tree)
  allowed = used == numbers if use_all else used <= numbers
  return 1.0 if allowed and value == target else partial


def _task(gold: str) -> tuple[Fraction, Counter[Fraction]]:
  try:
    target, numbers = gold.split(';')
    found = Counter(Fraction(int(word)) for word in numbers.split())
    if found:
      return Fraction(int(target)), found
  except ValueError:
    pass
  raise BadInput(f"countdown: the gold answer {gold[:80]!r} is not of the form '24; 3 3 8 8'")


def _expression(answer: str) -> str:
  answer = said(answer).answer
  text = tagged(answer)
  if text is None:
    text = stated(answer)
  if text is None:
    text = answer.rstrip().rpartition('\n')[2]
  return text.partition('=')[0].strip(' \n\t`$.')


def _numbers(tree: Node) -> Counter[Fraction]:
  return Counter(node.value for node in tree.walk() if node.op == 'number')

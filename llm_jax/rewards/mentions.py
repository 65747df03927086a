"""1 where an answer mentions one of the expected texts."""

import re

from llm_jax.rewards.thoughts import said


def reward(answer: str, gold: str) -> float:
  """1.0 if one of the texts in `gold`, which `|` divides, stands in the answer, else 0.0.

  Case and white space do not count. A text is not found inside of a longer word or number.

  >>> reward('You pay $6.', '$6|six'), reward('You pay $60.', '$6|six'), reward('SIX', '$6|six')
  (1.0, 0.0, 1.0)
  """
  words = ' '.join(said(answer).answer.lower().split())
  texts = (' '.join(text.lower().split()) for text in gold.split('|'))
  return float(any(_stands(text, words) for text in texts if text))


def _stands(text: str, words: str) -> bool:
  before = r'(?<!\w)' if text[0].isalnum() else ''
  after = r'(?![\w])(?!\.\d)' if text[-1].isalnum() else ''
  return re.search(f'{before}{re.escape(text)}{after}', words) is not None

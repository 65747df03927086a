"""How many words two texts share: the token F1 of SQuAD, arXiv:1606.05250, section 6.1."""

import re
from collections import Counter

from llm_jax.rewards.thoughts import said


def reward(answer: str, gold: str) -> float:
  """Harmonic mean of precision and recall of the words, from 0 to 1; order does not matter.

  Words are runs of letters, digits and underscores, in lower case, without 'a', 'an' and 'the'.

  >>> reward('It deletes a tree.', 'It recursively deletes the tree')  # 3 of 3 words, 3 of 4
  0.8571428571428571
  """
  ours, theirs = (Counter(words(text)) for text in (said(answer).answer, gold))
  shared = (ours & theirs).total()
  return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


def words(text: str) -> list[str]:
  """The words of a text.

  >>> words('It deletes a tree.')
  ['it', 'deletes', 'tree']
  """
  return [word for word in re.findall(r'\w+', text.lower()) if word not in ('a', 'an', 'the')]

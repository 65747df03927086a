"""Scores of reading comprehension: SQuAD, ReCoRD and MultiRC.

SQuAD's rules (arXiv:1606.05250, section 6.1, and the evaluation script of its second version) take
punctuation out of a word, so that "O'Brien" is "OBrien". The rewards of this name do not: for
`rewards/word_overlap.py` it separates words, and for `rewards/same_text.py` it is part of them.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from llm_jax.evals.counts import confusion, f1
from llm_jax.types import BadInput

_PUNCTUATION = str.maketrans('', '', string.punctuation)


def normalised(text: str) -> str:
  """Lower case, without punctuation (ASCII), then without a, an and the, then single blanks.

  >>> normalised(" The  U.S.'s   answer")
  'uss answer'
  """
  text = text.lower().translate(_PUNCTUATION)
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


def exact(said: str, gold: str) -> float:
  """1 where both are the same once normalised, else 0.

  >>> exact('The Eiffel Tower!', 'eiffel tower')
  1.0
  """
  return float(normalised(said) == normalised(gold))


def token_f1(said: str, gold: str) -> float:
  """Harmonic mean of precision and recall of normalised words, each as often as it occurs.

  Where one has no words it is 1 if neither has, else 0. SQuAD's first script gave 0 for both.

  >>> token_f1('New York City', 'New York'), token_f1('', 'the'), token_f1('', 'York')
  (0.8, 1.0, 0.0)
  """
  ours, theirs = (Counter(normalised(text).split()) for text in (said, gold))
  if not ours or not theirs:
    return float(ours == theirs)
  return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def best(score: Callable[[str, str], float], said: str, golds: Sequence[str]) -> float:
  """The score against the gold answer that it is highest for.

  >>> best(token_f1, 'New York City', ['NYC', 'New York'])
  0.8
  """
  if isinstance(golds, str) or not golds:
    raise BadInput(f'best: gold answers {golds!r}; give a list of at least one text')
  return max(score(said, gold) for gold in golds)


def multirc(said_B: Any, gold_B: Any, questions_B: Sequence[Hashable]) -> Mapping[str, Any]:
  """Sums for `f1a`, `f1m` and `exact_match` of MultiRC (doi:10.18653/v1/N18-1023, section 6).

  They add up over parts that keep the options of a question together.

  Args:
    said_B: 1 for an option that is called right, else 0.
    gold_B: 1 for an option that is right.
    questions_B: what names the question of each option, and no other.
  """
  said_B, gold_B = np.asarray(said_B), np.asarray(gold_B)
  of: dict[Hashable, list[int]] = {}
  for i, question in enumerate(questions_B):
    of.setdefault(question, []).append(i)
  return {
    **confusion(said_B, gold_B),
    'questions': len(of),
    'sum_of_f1': sum(f1(confusion(said_B[index], gold_B[index])) for index in of.values()),
    'exact': sum(bool((said_B[index] == gold_B[index]).all()) for index in of.values()),
  }


f1a = f1  # one F1 of the right options of all questions


def f1m(sums: Mapping[str, Any]) -> float:
  """The mean of the F1s of questions; it is 0 for one where no right option was called right.

  >>> sums = multirc([1, 0, 1, 1], [1, 0, 1, 0], ['first', 'first', 'second', 'second'])
  >>> round(f1m(sums), 4), exact_match(sums), f1a(sums), superglue(sums)
  (0.8333, 0.5, 0.8, 0.65)
  """
  return sums['sum_of_f1'] / sums['questions'] if sums['questions'] else 0.0


def exact_match(sums: Mapping[str, Any]) -> float:
  """The share of questions with every option as in the gold."""
  return sums['exact'] / sums['questions'] if sums['questions'] else 0.0


def superglue(sums: Mapping[str, Any]) -> float:
  """What SuperGLUE (arXiv:1905.00537) reports: the mean of `f1a` and `exact_match`."""
  return (f1a(sums) + exact_match(sums)) / 2

"""Right is worth 1, a refusal nothing, and a wrong answer costs: arXiv:2509.04664.

`refused` and `outcome` say what an answer is, for all who reward, judge, count or show it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from llm_jax.options import NotNegative
from llm_jax.rewards.thoughts import said
from llm_jax.rewards.word_overlap import words

Outcome = Literal['right', 'wrong', 'refused']

# Only how an answer begins makes it a refusal: words that refusals share stand in others as well.
_REFUSAL = re.compile(
  r"\W*(?:(?:(?:i['’]m |i am )?sorry\W+(?:but\W+)?|unfortunately\W+))?"
  r"(?:i (?:do not|don['’]t|cannot|can['’]t) (?:know|remember|recall|say|tell)\b"
  r"|(?:i am|i['’]m) (?:not|un)\s?(?:sure|certain)\b"
  r'|there is no (?:such|[`\'"]))',
  re.IGNORECASE,
)
_LACKS = r"the documentation (?:does not|doesn['’]t|lacks|has no)\b"
# What comes after it in the same sentence is a claim, so the answer is one that was hedged.
_HEDGE = re.compile(
  r'[,.;:]?\s+(?:(?:but|however|perhaps|maybe|though|although|i (?:think|believe|guess))\b[,:]?)'
  r'|(?<=[.;,:–—-])\s+(?=(?:it|this|that|these|the)\b)(?!' + _LACKS + ')',
  re.IGNORECASE,
)
_LEADING = re.compile(
  r'\W*(?:but|however|perhaps|maybe|i (?:think|believe|guess))\b[,:]?\s*', re.IGNORECASE
)
# A sentence behind it that speaks of the speaker, asks, or offers something is no claim.
_NO_CLAIM = re.compile(
  r"\W*(?:(?:i|i['’]m|my|please|sorry|could|can|would|if you|let me|try)\b"
  r'|you (?:can|could|may|might)\b|\Z)|.*\?\W*\Z|' + _LACKS,
  re.IGNORECASE | re.DOTALL,
)
_SENTENCE_END = re.compile(r'(?<=[.!?])["\')\]]*\s+|\s*\n\s*')
_ENOUGH = 0.8  # of the words, by their F1
_STEM = 5  # letters that forms of one word share
_SHORT = 3  # words of a gold answer that is looked for in the answer
_NEGATIONS = {'not', 'no', 'never', 'without', 'none', 'nothing', 'cannot'}
# Words that say nothing of the subject.
_FUNCTION = {
  'a', 'an', 'the', 'of', 'in', 'to', 'for', 'by', 'with', 'on', 'at', 'as', 'is', 'are',
  'it', 'its', 'that', 'this', 'which', 'and', 'or', 'if', 'be', 'into', 'one', 'some', 'any',
}  # fmt: skip


def reward(answer: str, gold: str, *, wrong: NotNegative = 1.0) -> float:
  """1.0 for a right answer, 0.0 for a refusal, -`wrong` for everything else.

  Who is right with probability above wrong / (1 + wrong) gains by answering.

  Args:
    answer: what was said.
    gold: the right answer; '' where there is none, so that only a refusal is not wrong.
    wrong: what a wrong answer costs.

  >>> gold = 'It deletes a directory tree.'
  >>> [reward(text, gold, wrong=3) for text in (gold, 'I do not know `rmtree`.', 'It copies.')]
  [1.0, 0.0, -3.0]
  """
  return {'right': 1.0, 'refused': 0.0, 'wrong': -float(wrong)}[outcome(answer, gold)]


def refused(answer: str) -> bool:
  """Whether an answer says that it does not know, and then claims nothing.

  >>> refused('I do not know `os.jion`.'), refused('It returns what you do not know.')
  (True, False)
  >>> refused('I am not sure, but it joins paths.'), refused('I am not sure. This joins paths.')
  (False, False)
  >>> refused('I do not know `os.jion`. Can you tell me more?')
  True
  """
  return _claim(answer) is None


def outcome(answer: str, gold: str, also: Sequence[str] = ()) -> Outcome:
  """Refused, right or wrong; a hedged claim is judged as the claim.

  An answer is right that shares 0.8 of its words with the gold one and adds none: one word for
  another is another claim, and so is a negation more or less. Words that say nothing of the subject
  do not count as added, nor does it count whether 'It' or 'It is' begins the sentence, and whether
  a word ends in an s. A gold answer of at most three words has to stand in it.

  Args:
    answer: what was said.
    gold: the right answer; '' where there is none.
    also: other right answers.

  >>> outcome('It returns True if it is a class.', 'It returns True if the object is a class.')
  'right'
  >>> outcome('It returns the sine of x.', 'It returns the cosine of x.')
  'wrong'
  >>> outcome('"Set the size of a window."', 'It sets the size of a window.')
  'right'
  >>> outcome('"A classic mailbox."', 'It is a classic mailbox.')
  'right'
  >>> outcome('I think it is Paris.', 'Paris'), outcome('It is not Paris.', 'Paris')
  ('right', 'wrong')
  """
  claim = _claim(answer)
  if claim is None:
    return 'refused'
  right = [wanted for wanted in map(_words, (gold, *also)) if wanted]
  return 'right' if any(_says(_words(claim), wanted) for wanted in right) else 'wrong'


def _claim(answer: str) -> str | None:
  """What an answer claims, without its hedge; None if it only says that it does not know."""
  text = said(answer).answer.strip()
  if not _REFUSAL.match(text):
    return text
  sentences = _SENTENCE_END.split(text)
  for number, sentence in enumerate(sentences):
    rest, start = sentences[number + 1 :], _REFUSAL.match(sentence)
    if start:
      if hedge := _HEDGE.search(sentence, start.end()):
        return ' '.join([sentence[hedge.end() :], *rest])
    elif thought := _LEADING.match(sentence):
      return ' '.join([sentence[thought.end() :], *rest])
    elif not _NO_CLAIM.match(sentence):
      return ' '.join([sentence, *rest])
  return None


def _says(claim: list[str], wanted: list[str]) -> bool:
  if claim == wanted or (_told(wanted) and _told(claim) == _told(wanted)):
    return True
  if len(_told(wanted)) > _SHORT:
    claim, wanted = _told(claim), _told(wanted)
  claim = [_form(word, wanted) for word in claim]
  ours, theirs = Counter(claim), Counter(wanted)
  more, less = ours - theirs, theirs - ours
  if _NEGATIONS & (more.keys() | less.keys()):
    return False
  if len(wanted) <= _SHORT:
    return f' {" ".join(wanted)} ' in f' {" ".join(claim)} '
  added = ours.keys() - theirs.keys() - _FUNCTION
  shared = (ours & theirs).total()
  return not added and 2 * shared >= _ENOUGH * (len(claim) + len(wanted))


def _form(word: str, wanted: Sequence[str]) -> str:
  """The wanted word that this one is a form of, such as identifies of identifying; else itself."""
  if word in wanted:
    return word
  plural = (f'{word}s', f'{word}es', f'{word[:-1]}ies', word.removesuffix('s'))
  if found := next((other for other in plural if other in wanted), ''):
    return found
  digits = lambda text: re.sub(r'\D', '', text)
  same = (w for w in wanted if w[:_STEM] == word[:_STEM] and digits(w) == digits(word))
  return next(same, word) if len(word) >= _STEM else word


def _words(text: str) -> list[str]:
  return words(re.sub(r"n['’]t\b", ' not', text.lower()))


def _told(sentence: list[str]) -> list[str]:
  """Without 'It' or 'It is' at the beginning, which a quoted summary does not have."""
  if sentence[:1] != ['it']:
    return sentence
  return sentence[2 if sentence[1:2] == ['is'] else 1 :]

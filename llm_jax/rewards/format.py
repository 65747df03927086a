"""1 where an answer has the wanted shape, as in the format reward of arXiv:2501.12948, 2.2.2."""

import functools
import re
from collections.abc import Sequence

from llm_jax.types import BadInput

_LONGEST_PATTERN = 1000
_LONGEST_ANSWER = 20_000  # characters that a pattern is tried on


def reward(
  answer: str,
  gold: str = '',
  *,
  completion: str | None = None,
  tags: Sequence[str] | None = None,
  pattern: str | None = None,
) -> float:
  """1.0 if `answer` has the shape, else 0.0; `gold` does not matter.

  >>> reward('<think>6 * 7</think> <answer>42</answer>'), reward('<answer>42</answer>')
  (1.0, 0.0)
  >>> reward('Yes.', pattern='(Yes|No)[.]')
  1.0

  Args:
    answer: the whole text, unless there is a completion.
    gold: not read.
    completion: the whole text, with its thoughts.
    tags: the answer must consist of <tag>...</tag> for each of these, in order and once each, with
      some text inside and only white space between. Default: ('think', 'answer').
    pattern: a regular expression for the whole answer, in place of tags; '.' is any character. A
      repeat inside a repeat, as in (a+)*, is refused, since it can take exponential time. An answer
      of more than 20000 characters does not match.

  Raises:
    BadInput: both options are given, or one that cannot be used.
  """
  del gold
  answer = answer if completion is None else completion
  if pattern is None:
    return float(_has_tags(answer, ('think', 'answer') if tags is None else tuple(tags)))
  if tags is not None:
    raise BadInput('format: tags and pattern are both given; give one')
  compiled = _compiled(pattern)
  return float(len(answer) <= _LONGEST_ANSWER and compiled.fullmatch(answer) is not None)


def _has_tags(answer: str, tags: tuple[str, ...]) -> bool:
  if not tags or len(set(tags)) < len(tags) or not all(re.fullmatch(r'[\w-]+', t) for t in tags):
    raise BadInput(f"format: tags {tags!r} are not one or more different words; use ('think',)")
  rest = answer
  for tag in tags:
    opening, closing = f'<{tag}>', f'</{tag}>'
    if answer.count(opening) != 1 or answer.count(closing) != 1:
      return False
    before, _, rest = rest.partition(opening)
    inside, closed, rest = rest.partition(closing)
    if before.strip() or not closed or not inside.strip():
      return False
  return not rest.strip()


@functools.lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
  if len(pattern) > _LONGEST_PATTERN:
    raise BadInput(
      f'format: the pattern has {len(pattern)} characters; use at most {_LONGEST_PATTERN}'
    )
  try:
    compiled = re.compile(pattern, re.DOTALL)
  except (re.error, RecursionError, OverflowError) as error:
    raise BadInput(f'format: pattern {pattern!r} is no regular expression: {error}') from None
  if _nests_repeats(pattern):
    raise BadInput(
      f'format: pattern {pattern!r} repeats a group that holds a repeat or a choice, '
      'which can take exponential time; write it without, or as (?>...)+ or (...)*+'
    )
  return compiled


_REPEAT = re.compile(r'(?<!\()(?:[*+?]|\{\d*,?\d*\})([?+]?)')


def _nests_repeats(pattern: str) -> bool:
  """Whether a repeated group can match the same text in several ways, and so may backtrack."""
  bare = re.sub(r'\\.', 'a', pattern, flags=re.DOTALL)  # escapes, then classes, as one letter
  bare = re.sub(r'\[\^?\]?[^\]]*\]', 'a', bare)
  several = [False]  # for the pattern and each open group: holds a repeat or a choice
  atomic, closed, i = [False], False, 0  # closed: a group with several ways ends right here
  while i < len(bare):
    repeat = _REPEAT.match(bare, i)
    if repeat:
      if closed and repeat[0] != '?' and repeat[1] != '+':
        return True
      several[-1] = True
    closed = False
    if bare[i] == '(':
      several.append(False)
      atomic.append(bare.startswith('(?>', i))
    elif bare[i] == ')':
      closed = several.pop() and not atomic.pop()
      several[-1] = several[-1] or closed
    elif bare[i] == '|':
      several[-1] = True
    i = repeat.end() if repeat else i + 1
  return False

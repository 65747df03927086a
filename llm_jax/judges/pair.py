"""Two answers that are compared, and what a judge says of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llm_jax.data.messages import text_of


class Pair(NamedTuple):
  """Two answers to a question, in the order in which they are shown.

  Attributes:
    question: `prompt` (messages), `answer` (the gold text or ''), and the columns of its record.
    first: an answer without thoughts and calls.
    second: the other one.
    completions: both with all that was said.
  """

  question: Mapping[str, Any]
  first: str
  second: str
  completions: tuple[str, str]

  @property
  def prompt(self) -> str:
    """What was asked, as a text; of several messages each with its role.

    >>> Pair({'prompt': [{'role': 'user', 'content': 'Hi'}]}, 'a', 'b', ('a', 'b')).prompt
    'Hi'
    """
    messages = self.question['prompt']
    if len(messages) == 1:
      return text_of(messages[0])
    return '\n\n'.join(f'{message["role"]}: {text_of(message)}' for message in messages)


class Verdict(NamedTuple):
  """What a judge says of a pair.

  Attributes:
    points: of what was shown first: 1 won, 0.5 tie, 0 lost, None where nothing could be read.
    said: its words, or why there is no verdict.
    again: it failed in a way that may pass, so the same command asks again.
  """

  points: float | None
  said: str = ''
  again: bool = False


Judge = Callable[[Sequence[Pair]], Iterable[Verdict | float | None]]


def by_score(first: float | None, second: float | None, margin: float = 0.0) -> Verdict:
  """The verdict of two scores, of which None is unknown; a tie where they are `margin` apart.

  >>> by_score(2.0, 1.0).points, by_score(2.0, 1.0, margin=1.0).points, by_score(None, 1.0).points
  (1.0, 0.5, None)
  """
  if first is None or second is None:
    return Verdict(None, 'an answer without a score')
  tie = abs(first - second) <= margin
  return Verdict(0.5 if tie else float(first > second), f'{first:.6g} and {second:.6g}')

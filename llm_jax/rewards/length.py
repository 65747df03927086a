"""1 for a short answer, less for a longer one: arXiv:2503.14476, eq. 13, plus 1."""

from typing import Annotated, Literal

from llm_jax.options import at_least

Length = Annotated[int, at_least(0)]


def reward(
  answer: str,
  gold: str = '',
  *,
  completion: str | None = None,
  limit: Length = 200,
  buffer: Length = 100,
  unit: Literal['words', 'characters'] = 'words',
) -> float:
  """1.0 up to `limit`, then falling evenly to 0.0 at `limit + buffer`; `gold` does not matter.

  >>> [reward('word ' * n, limit=4, buffer=4) for n in (4, 6, 8)]
  [1.0, 0.5, 0.0]

  Args:
    answer: the text that is measured, unless there is a completion.
    gold: not read.
    completion: the whole text, with its thoughts, which are as long as they are.
    limit: the greatest length that earns the full reward.
    buffer: how far beyond `limit` the reward reaches 0; 0 makes the limit sharp.
    unit: 'words', which white space separates, or 'characters'.
  """
  del gold
  text = answer if completion is None else completion
  over = len({'words': text.split(), 'characters': text}[unit]) - limit
  return 1.0 if over <= 0 else max(0.0, 1 - over / buffer) if buffer else 0.0

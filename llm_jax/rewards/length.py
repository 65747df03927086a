"""1 for a short answer, less for a longer one: arXiv:2503.14476, eq. 13, plus 1."""

from llm_jax.types import BadInput


def reward(
  answer: str, gold: str = '', *, limit: int = 200, buffer: int = 100, unit: str = 'words'
) -> float:
  """1.0 up to `limit`, then falling evenly to 0.0 at `limit + buffer`; `gold` does not matter.

  >>> [reward('word ' * n, limit=4, buffer=4) for n in (4, 6, 8)]
  [1.0, 0.5, 0.0]

  Args:
    answer: the text that is measured.
    gold: not read.
    limit: the greatest length that earns the full reward.
    buffer: how far beyond `limit` the reward reaches 0; 0 makes the limit sharp.
    unit: 'words', which white space separates, or 'characters'.

  Raises:
    BadInput: the unit is another one, or a length is negative.
  """
  del gold
  if unit not in ('words', 'characters'):
    raise BadInput(f"length: unit {unit!r} is not known; use 'words' or 'characters'")
  if limit < 0 or buffer < 0:
    raise BadInput(f'length: limit {limit} and buffer {buffer} must be 0 or more')
  over = (len(answer.split()) if unit == 'words' else len(answer)) - limit
  return 1.0 if over <= 0 else max(0.0, 1 - over / buffer) if buffer else 0.0

"""How much of the data a length leaves out, and which length would leave out less."""

import math
from collections.abc import Mapping

SHARE = 0.95  # of the rows, that a length should keep


def keeping(lengths: Mapping[int, int], share: float = SHARE) -> int:
  """The smallest length that at least `share` of the rows do not exceed.

  >>> keeping({3: 1, 9: 1, 4: 1, 5: 1}, 0.75)
  5
  """
  wanted, seen = math.ceil(share * sum(lengths.values())), 0
  for length in sorted(lengths):
    seen += lengths[length]
    if seen >= wanted:
      return length
  raise ValueError('there are no lengths')


def advice(split: str, length: int, lengths: Mapping[int, int]) -> str:
  """What to say behind a number of rows that were dropped: which length would keep more.

  Args:
    split: that for validation is mostly read after that for training, and would say it again.
    length: the option `data.length`, in tokens.
    lengths: that a row would need not to be dropped -> the number of such rows.

  >>> advice('train', 5, {3: 1, 9: 1, 4: 1, 5: 1})
  ' (data.length=9 would keep 95%, 9 all of them)'
  """
  if split == 'validation' or not lengths:
    return ''
  enough, longest = keeping(lengths), max(lengths)
  if enough <= length:
    return f' (at least {SHARE:.0%} are kept, data.length={longest} would keep all of them)'
  return f' (data.length={enough} would keep {SHARE:.0%}, {longest} all of them)'

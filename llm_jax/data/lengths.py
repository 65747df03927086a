"""How much of the data a length leaves out, and which length would leave out less."""

import math
from collections.abc import Sequence

SHARE = 0.95  # of the rows, that a length should keep


def keeping(lengths: Sequence[int], share: float = SHARE) -> int:
  """The smallest length that at least `share` of the rows do not exceed.

  >>> keeping([3, 9, 4, 5], 0.75)
  5
  """
  return sorted(lengths)[math.ceil(share * len(lengths)) - 1]


def advice(split: str, length: int, lengths: Sequence[int]) -> str:
  """What to say behind a number of rows that were dropped: which length would keep more.

  Args:
    split: that for validation is mostly read after that for training, and would say it again.
    length: the option `data.length`, in tokens.
    lengths: that the rows would need not to be dropped, of all of them.

  >>> advice('train', 5, [3, 9, 4, 5])
  ' (data.length=9 would keep 95%, 9 all of them)'
  """
  if split == 'validation' or not lengths:
    return ''
  enough, longest = keeping(lengths), max(lengths)
  if enough <= length:
    return f' (at least {SHARE:.0%} are kept, data.length={longest} would keep all of them)'
  return f' (data.length={enough} would keep {SHARE:.0%}, {longest} all of them)'

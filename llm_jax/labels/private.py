"""What should not leave the log: addresses, keys, and digits that may be a telephone or a card.

It is what `clean.pii` finds in pages, and more, as people tell a chat what they publish nowhere:
e-mail addresses in letters of any alphabet, and all long numbers. The patterns are bounded, so a
line of a megabyte takes no longer than its length.
"""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from llm_jax.clean import pii

KINDS = ('e-mail', 'number', 'key')
DIGITS = 9  # of a string that is stripped; a sum of money has fewer
_CALLED = {'email': 'e-mail', 'key': 'key'}  # all others are numbers
_EMAIL = re.compile(
  r'(?<![\w.+%-])[\w.+%-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])'
)
# Two blanks, dots, dashes or brackets may stand between two digits.
_NUMBER = re.compile(r'(?<!\d)\+?\d(?:[ ().-]{0,2}\d){8,}')


def stripped(value: Any, counts: Counter[str]) -> Any:
  """A text, or all texts inside of lists and objects, with places for what was taken out.

  >>> counts = Counter()
  >>> stripped('Write to ann.b@example.org, or call +44 20 7946 0123.', counts)
  'Write to [e-mail], or call [number].'
  >>> dict(counts)
  {'e-mail': 1, 'number': 1}
  """
  if isinstance(value, str):
    found = [(*ends, _CALLED.get(kind, 'number')) for *ends, kind in pii.spans(value, pii.ALL)]
    counts.update(name for *_, name in found)
    value = pii.replaced(value, [(begin, end, f'[{name}]') for begin, end, name in found])
    for name, pattern in (('e-mail', _EMAIL), ('number', _NUMBER)):
      value, count = pattern.subn(f'[{name}]', value)
      counts[name] += count
    return value
  if isinstance(value, list):
    return [stripped(one, counts) for one in value]
  if isinstance(value, Mapping):
    return {stripped(key, counts): _field(key, one, counts) for key, one in value.items()}
  if isinstance(value, int | float) and len(re.findall(r'\d', str(value))) >= DIGITS:
    counts['number'] += 1
    return '[number]'
  return value


def _field(key: str, value: Any, counts: Counter[str]) -> Any:
  """The arguments of a call are JSON in a text, and stay JSON."""
  if key == 'arguments' and isinstance(value, str):
    with contextlib.suppress(ValueError, RecursionError):  # another text, in the schema of a tool
      return json.dumps(stripped(json.loads(value), counts), ensure_ascii=False)
  return stripped(value, counts)

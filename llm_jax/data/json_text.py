"""JSON that strangers wrote: parsed, or refused in one line, whatever it is."""

import json
import re
from typing import Any

from llm_jax.types import BadInput

# An escape that may be one half of a character beyond U+FFFF.
_HALF = re.compile(r'\\u[dD][89a-fA-F]')


def loads(text: str) -> Any:
  r"""The value of a JSON text; all of its texts can be written as UTF-8.

  >>> loads('{"a": [1, "\\ud83d\\ude00"]}')
  {'a': [1, '😀']}
  >>> loads('"\\ud83d"')
  Traceback (most recent call last):
  llm_jax.types.BadInput: half of a character, \ud83d; remove it, or write both of its halves

  Raises:
    BadInput: it is no JSON; it is nested too deeply, or has a number of thousands of digits; or a
      text in it has half of a character.
  """
  try:
    value = json.loads(text)
  except json.JSONDecodeError as error:
    at = f'line {error.lineno}, column' if '\n' in text.rstrip('\n') else 'column'
    raise BadInput(f'not JSON ({error.msg} in {at} {error.colno})') from error
  except RecursionError:
    raise BadInput('JSON of too many levels inside of each other; flatten it') from None
  except ValueError:  # Python's limit for whole numbers
    raise BadInput('JSON with a number of too many digits; write it as a text') from None
  if _HALF.search(text):
    try:
      json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
      half = f'\\u{ord(error.object[error.start]):04x}'
      raise BadInput(
        f'half of a character, {half}; remove it, or write both of its halves'
      ) from error
  return value

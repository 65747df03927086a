"""The name that somebody meant who wrote another one."""

import difflib
from collections.abc import Sequence


def nearest(word: str, names: Sequence[str]) -> str | None:
  """The name that a word was to be; None where that cannot be told.

  It is spelled alike, in other cases, or by the first letters of its parts.

  >>> nearest('adam', ['adamw', 'lion']), nearest('SFT', ['sft', 'dpo'])
  ('adamw', 'sft')
  >>> nearest('lr', ['loss', 'learning_rate']), nearest('zzz', ['adamw', 'lion'])
  ('learning_rate', None)
  """
  for name in names:
    if name.lower() == word.lower() or abbreviates(word, name):
      return name
  close = difflib.get_close_matches(word, names, n=1)
  return close[0] if close else None


def abbreviates(word: str, name: str) -> bool:
  """Whether a word has the first letters of the parts of a name.

  >>> abbreviates('lr', 'learning_rate'), abbreviates('s', 'seed')
  (True, False)
  """
  parts = [part for part in name.split('_') if part]
  return len(parts) > 1 and word.lower() == ''.join(part[0] for part in parts).lower()

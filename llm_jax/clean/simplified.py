"""The text of a page without what copies of it differ in, as FineWeb and FineWeb-2 compare pages.

In this order: lower case; numbers become 0; punctuation and control characters become spaces; white
space becomes one space; accents and other combining marks go (datatrove, `simplify_text`).
"""

import re
import unicodedata

from llm_jax.clean.punctuation import SEPARATORS

_NUMBER = re.compile(r'\d+(?:[.,،٫⎖⎗⎘]\d+)?')
_ASCII_NUMBER = re.compile(rb'[0-9]+(?:[.,][0-9]+)?')
_ASCII = bytes(ord(' ' if chr(i) in SEPARATORS else chr(i).lower()) for i in range(128)).ljust(256)


def simplified(text: str) -> str:
  """The simplified text, from which words are had by splitting at white space.

  >>> simplified('Café prices rose 3.5% in 2024 — from $2.50.')
  'cafe prices rose 0 in 0 from 0'
  """
  if text.isascii():
    return b' '.join(_ASCII_NUMBER.sub(b'0', text.encode()).translate(_ASCII).split()).decode()
  text = _NUMBER.sub('0', text.lower())
  # A page has few distinct marks: a pass for each takes less time than a look at every character.
  for mark in SEPARATORS.intersection(text):
    text = text.replace(mark, ' ')
  text = unicodedata.normalize('NFD', ' '.join(text.split()))
  for mark in set(text):
    if unicodedata.category(mark) == 'Mn':
      text = text.replace(mark, '')
  return text.strip()

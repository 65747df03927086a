"""Words, and every other mark as a word of its own: near to FineWeb's, which are spaCy's tokens."""

import re

# Possessive quantifiers: a word of ten million characters takes no memory for ways back.
_WORDS = re.compile(r"\w++(?:['’.-]\w++)*+|[^\w\s]")


def split(text: str) -> list[str]:
  """The words of a text.

  >>> split('Yes, "it is" well-known.')
  ['Yes', ',', '"', 'it', 'is', '"', 'well-known', '.']
  """
  return _WORDS.findall(text)

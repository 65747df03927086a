"""From a text to its words: one splitter a file, which defines `split(text) -> list[str]`.

Nearly every number of the text rules counts words, so a splitter is chosen once for all of them.
"""

from llm_jax.clean.page import Split
from llm_jax.find import find
from llm_jax.types import BadInput


def splitter(name: str) -> Split:
  """The function that a name stands for.

  Args:
    name: a file of this room (`simple`, `whitespace`, `chinese`, `japanese`), or a module or a file
      of the user's that defines `split` (`mine.words`, `mine/words.py`).

  Raises:
    BadInput: there is no such file, or its `split` does not return a list of texts.

  >>> splitter('simple')("It's 3.5 m (or so).")
  ["It's", '3.5', 'm', '(', 'or', 'so', ')', '.']
  >>> splitter('simpel')
  Traceback (most recent call last):
  llm_jax.types.BadInput: clean.words: no 'simpel'; did you mean 'simple'?
  """
  split = find('clean.words', name).split
  try:
    found = split('two words')
  except Exception as error:
    raise BadInput(f'clean.words: {name!r} fails: {type(error).__name__}: {error}') from error
  if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
    raise BadInput(
      f'clean.words: split of {name!r} returns {found!r}; it has to be a list of texts'
    )
  return split

"""The letters of a word, which tokens hide: `strawberry`, or `r in strawberry` to count."""

from collections.abc import Callable

from llm_jax.data.spelling import letters
from llm_jax.options import checked


@checked(where='spell')
def make() -> Callable[[str], str]:
  """A function from a word to its letters, or from 'x in word' to how often x occurs in it.

  >>> make()('r in `strawberry`')
  '3'

  Returns:
    A function that raises ValueError for a call without a word, or with a long one.
  """
  return letters

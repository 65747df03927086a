"""Libraries that only this room uses, imported where they are used."""

import importlib
from types import ModuleType

from llm_jax.types import BadInput


def library(name: str, what: str, extra: str = 'clean') -> ModuleType:
  """A module that an extra brings.

  Args:
    name: of the module, with dots.
    what: who needs it, which the message begins with.
    extra: its name.

  Raises:
    BadInput: it is not installed.

  >>> library('json', 'reading').dumps([1])
  '[1]'
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise BadInput(
      f"{what} needs {name.split('.')[0]} ({error}); pip install 'llm_jax[{extra}]'"
    ) from None

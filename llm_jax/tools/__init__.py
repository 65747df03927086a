"""What a model can call while it writes: `make(**hyper)` gives a function from text to text.

Several threads may call such a function at once. It raises ValueError for a malformed call, with a
message that the model can read, and OSError if the tool cannot be reached.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from llm_jax.find import call, find

PLAIN = ('search', 'web_search')  # who is asked by a call that names no tool, if it is there


def listed(names: Iterable[str]) -> list[str]:
  """Names of tools in the order in which a model is told of them.

  >>> listed(['calculator', 'search'])
  ['search', 'calculator']
  """
  return sorted(names, key=lambda name: (name not in PLAIN, name))


def make_tools(groups: Mapping[str, Mapping[str, Any]], *, where: str) -> dict[str, Any]:
  """The tools by name; first the one that a call without a name goes to.

  Args:
    groups: name -> options of the files of tools/.
    where: their group of the config, for messages.

  Raises:
    BadInput: an unknown tool or option.
  """
  make = lambda name: call(find('tools', name).make, groups[name], where=f'{where}.{name}')
  return {name: make(name) for name in listed(groups)}

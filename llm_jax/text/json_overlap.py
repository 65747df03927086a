"""Whether a value may be valid for two JSON schemas, as far as their types and values tell.

Schemas are read as `json_schema.py` makes grammars of them: of one that names no type, only values
of the types that its keywords are for are ever written, though all others are valid for it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from llm_jax.text.effort import Effort

OF_TYPE = {
  'object': ('properties', 'required', 'additionalProperties'),
  'array': ('items', 'prefixItems', 'minItems', 'maxItems'),
  'string': ('minLength', 'maxLength', 'pattern', 'format'),
  'integer': ('minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'),
  'number': ('minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'),
  'boolean': (),
  'null': (),
}
TYPES = {name: kind for kind, names in OF_TYPE.items() for name in names if kind != 'integer'}
_DEEPEST = 4  # properties inside of each other that are looked at
_PAIR = 10  # steps that it takes to look at two schemas at all


class Overlap:
  """Looks at pairs of schemas that are known to be right.

  Args:
    find: what a `$ref` refers to.
    effort: pairs that would take more count as not told apart.
  """

  def __init__(self, find: Callable[[str], Any], effort: Effort) -> None:
    self._find, self._effort = find, effort

  def may_be(self, one: Any, other: Any, depth: int = 0) -> bool:
    """Whether a value that is written for one of them may be valid for the other.

    >>> texts, point = {'type': 'string'}, {'properties': {'x': {}}}
    >>> overlap = Overlap({}.get, Effort())
    >>> overlap.may_be(texts, {'type': 'null'}), overlap.may_be(texts, point)
    (False, True)
    """
    if depth > _DEEPEST or self._effort.spent(_PAIR):
      return True
    one, other = self._followed(one), self._followed(other)
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
      return True
    if not _written(one) & _valid(other) and not _written(other) & _valid(one):
      return False
    mine, theirs = _listed(one), _listed(other)
    if mine is not None and theirs is not None:
      too_many = self._effort.spent(len(mine) * len(theirs))
      return too_many or any(same(a, b) for a in mine for b in theirs)
    if _written(one) != {'object'} or _written(other) != {'object'}:
      return True
    names, needed = _needed(one), _needed(other)
    if self._effort.spent(len(names) + len(needed)):
      return True
    inner = lambda schema, name: schema['properties'][name]
    return all(
      self.may_be(inner(one, name), inner(other, name), depth + 1)
      for name in names
      if name in needed
    )

  def _followed(self, schema: Any) -> Any:
    """What a schema refers to, if it does nothing else."""
    for _ in range(8):
      if not isinstance(schema, Mapping) or '$ref' not in schema:
        break
      schema = self._find(schema['$ref'])
    return schema


def named(schema: Mapping[str, Any]) -> set[str]:
  """The types that a schema names, or those of its values; 'number' holds 'integer'."""
  given, values = schema.get('type'), _listed(schema)
  found: set[Any]
  if 'type' in schema:
    found = {*(given if isinstance(given, list) else [given])}
  else:
    found = {kind for kind in OF_TYPE if any(is_of(value, {kind}) for value in values or ())}
  return found | ({'integer'} if 'number' in found else set())


def _valid(schema: Mapping[str, Any]) -> set[str]:
  """The types of what is valid for a schema."""
  return named(schema) or {*OF_TYPE}


def _written(schema: Mapping[str, Any]) -> set[str]:
  """The types of what is written for a schema."""
  return named(schema) or {TYPES[name] for name in schema if name in TYPES} or {*OF_TYPE}


def _listed(schema: Mapping[str, Any]) -> list[Any] | None:
  """The only values of a schema, where it lists them."""
  return [schema['const']] if 'const' in schema else schema.get('enum')


def _needed(schema: Mapping[str, Any]) -> dict[str, None]:
  """The properties that a value has to have, of those which have a schema."""
  properties = schema.get('properties', {})
  return dict.fromkeys(name for name in schema.get('required', ()) if name in properties)


def is_of(value: Any, kinds: set[str]) -> bool:
  """Whether a value of JSON has one of these types."""
  if isinstance(value, bool):
    return 'boolean' in kinds
  if isinstance(value, int | float):
    whole = isinstance(value, int) or value.is_integer()
    return 'number' in kinds or ('integer' in kinds and whole)
  of = {str: 'string', dict: 'object', list: 'array'}
  return of.get(type(value), 'null') in kinds


def same(one: Any, other: Any) -> bool:
  """Whether two values of JSON are equal, where true is not 1."""
  return isinstance(one, bool) == isinstance(other, bool) and one == other

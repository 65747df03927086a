"""JSON schemas (json-schema.org, draft 2020-12) as grammars of the values that they allow.

What a grammar allows is valid; not all that is valid is allowed. Properties come in the order of
the schema, an object that names its properties has no others unless `additionalProperties` says so,
and arrays and objects are up to 32 deep. Keywords that restrict and are not known here are refused,
by the path of the keyword; those which only describe are passed over.
"""

import functools
import math
import urllib.parse
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from llm_jax.text.effort import Effort
from llm_jax.text.grammar import NEVER, Either, Grammar, List, Matched, Number, Record, Text, Words
from llm_jax.text.json_number import possible
from llm_jax.text.json_overlap import OF_TYPE, TYPES, Overlap, is_of, named, same
from llm_jax.text.json_string import spelled
from llm_jax.text.pattern import PatternError, automaton

MOST_NODES = 2000  # of a grammar
MOST_VALUES = 5000  # of all enums
MOST_BYTES = 2**18  # of all names and values
_DAY = (
  '[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)'
  '|02-(0[1-9]|1[0-9]|2[0-8]))'
)
_HOUR = '([01][0-9]|2[0-3]):[0-5][0-9]'
_TIME = f'{_HOUR}:[0-5][0-9]([.][0-9]{{1,6}})?(Z|[+-]{_HOUR})'
# Of each format only what every reader takes: no 29th of February, no second of 60.
FORMATS = {
  'date': f'^{_DAY}$',
  'time': f'^{_TIME}$',
  'date-time': f'^{_DAY}T{_TIME}$',
  'uuid': '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$',
  'email': '^[a-z0-9]+([._-][a-z0-9]+)*@[a-z0-9]+([-][a-z0-9]+)*([.][a-z]{2,8})+$',
  'ipv4': '^' + '[.]'.join(['(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'] * 4) + '$',
}
_DEEPEST = 64  # schemas inside of each other
_DESCRIBE = frozenset(
  ('title', 'description', 'default', 'examples', 'example', 'deprecated', 'readOnly', 'writeOnly')
) | {'$schema', '$id', '$anchor', '$comment', '$defs', 'definitions', 'discriminator'}
CHOICES = ('$ref', 'anyOf', 'oneOf', 'allOf')


class SchemaError(ValueError):
  """A schema that is broken, or says what cannot be held to.

  Attributes:
    path: of the keyword, such as '.properties.age.pattern'.
    is_known: whether it is right, and more than is supported.
  """

  def __init__(self, path: str, why: str, *, is_known: bool = False) -> None:
    super().__init__(why)
    self.path, self.is_known = path, is_known


def value_of(schema: Any, grammar: Grammar) -> int:
  """Adds the nodes for the values of a schema; the number of their first.

  >>> grammar = Grammar()
  >>> first = value_of({'type': 'string', 'maxLength': 3}, grammar)
  >>> grammar.nodes[first], grammar.nodes[1]
  (Either(options=(1,)), Text(need=0, more=3))

  Raises:
    SchemaError: with the path of what is wrong.
  """
  return _Reader(schema, grammar).read()


class _Reader:
  def __init__(self, root: Any, grammar: Grammar) -> None:
    self._root, self._grammar = root, grammar
    self._known: dict[str, int] = {}  # nodes of what was referred to
    self._values = self._bytes = 0
    self._effort = Effort()
    self._overlap = Overlap(lambda name: self._found(name, ''), self._effort)

  def read(self) -> int:
    start = self._known['#'] = self._grammar.add(Either(()))
    self._grammar.nodes[start] = Either((self._node(self._root, '', 0),))
    if self._grammar.heights()[start] >= NEVER:
      raise SchemaError('', 'no value is valid, or none that ends')
    return start

  def _add(self, node: Any, path: str) -> int:
    if len(self._grammar.nodes) > MOST_NODES:
      raise SchemaError(path, f'the schema is too large; it may have {MOST_NODES} parts')
    return self._grammar.add(node)

  def _node(self, schema: Any, path: str, depth: int) -> int:
    if depth > _DEEPEST:
      raise SchemaError(path, f'schemas are nested more than {_DEEPEST} deep')
    if schema is True or schema == {}:
      return self._grammar.anything()
    if schema is False:
      return self._add(Either(()), path)
    if not isinstance(schema, Mapping):
      raise SchemaError(path, 'is no schema; give an object')
    said = [name for name in schema if name not in _DESCRIBE]
    for name in CHOICES:
      if name in schema:
        self._alone(said, name, path)
        return self._choice(schema[name], name, f'{path}.{name}', depth)
    if 'enum' in schema or 'const' in schema:
      return self._words(schema, said, path)
    return self._typed(schema, said, path, depth)

  def _alone(self, said: Sequence[str], name: str, path: str) -> None:
    others = [other for other in said if other != name]
    if others:
      why = f'beside {name} it is not supported; put it into the schemas of {name}'
      raise SchemaError(f'{path}.{others[0]}', why, is_known=True)

  # --- one of several ----------------------------------------------------------------------------

  def _choice(self, found: Any, name: str, path: str, depth: int) -> int:
    if name == '$ref':
      return self._referred(found, path, depth)
    if not isinstance(found, list) or not found:
      raise SchemaError(path, 'give an array of schemas')
    if name == 'allOf' and len(found) > 1:
      raise SchemaError(path, 'more than one schema is not supported', is_known=True)
    options = [self._node(one, f'{path}[{i}]', depth + 1) for i, one in enumerate(found)]
    if name == 'oneOf':  # each of which is known to be right
      self._check_apart(found, path)
    return self._add(Either(tuple(options)), path)

  def _check_apart(self, found: Sequence[Any], path: str) -> None:
    """Raises SchemaError where a value might be valid for two schemas of a `oneOf`."""
    if len(found) > 100:
      raise SchemaError(path, 'more than 100 schemas are not supported', is_known=True)
    for i, one in enumerate(found):
      if any(self._overlap.may_be(one, other) for other in found[:i]):
        raise SchemaError(
          f'{path}[{i}]',
          'a value might be valid for an earlier one too; use anyOf, or tell them apart by a '
          'required property with a const',
          is_known=True,
        )

  def _referred(self, name: Any, path: str, depth: int) -> int:
    if not isinstance(name, str):
      raise SchemaError(path, 'give a string')
    if name not in self._known:
      schema = self._found(name, path)
      node = self._known[name] = self._add(Either(()), path)
      inner = self._node(schema, _path(name), depth + 1)
      self._grammar.nodes[node] = Either((inner,))
    return self._known[name]

  def _found(self, name: str, path: str) -> Any:
    """What lies at a pointer into the schema (RFC 6901, section 6)."""
    if name != '#' and not name.startswith('#/'):
      raise SchemaError(path, 'only what is in the schema itself can be referred to', is_known=True)
    found = self._root
    for part in name.split('/')[1:]:
      key = urllib.parse.unquote(part).replace('~1', '/').replace('~0', '~')
      if isinstance(found, Mapping) and key in found:
        found = found[key]
      elif isinstance(found, list) and key.isascii() and key.isdigit() and int(key) < len(found):
        found = found[int(key)]
      else:
        raise SchemaError(path, 'there is nothing at this place of the schema')
    return found

  # --- values that are listed --------------------------------------------------------------------

  def _words(self, schema: Mapping[str, Any], said: Sequence[str], path: str) -> int:
    name = 'const' if 'const' in schema else 'enum'
    self._alone([x for x in said if x not in ('type', 'enum')], name, path)
    values = [schema['const']] if 'const' in schema else schema['enum']
    if not isinstance(values, list):
      raise SchemaError(f'{path}.enum', 'give an array')
    if 'const' in schema and 'enum' in schema:
      listed = schema['enum'] if isinstance(schema['enum'], list) else []
      values = [value for value in values if any(same(value, one) for one in listed)]
    self._check_types(schema, path)
    kinds = named({'type': schema['type']}) if 'type' in schema else set(OF_TYPE)
    texts = {self._spelled(v, f'{path}.{name}'): None for v in values if is_of(v, kinds)}
    self._values += len(texts)
    if self._values > MOST_VALUES:
      raise SchemaError(f'{path}.{name}', f'all enums together may have {MOST_VALUES} values')
    return self._add(Words(tuple(texts)), path)

  def _spelled(self, value: Any, path: str) -> bytes:
    try:
      text = spelled(value, guarded=self._grammar.guarded)
    except (ValueError, RecursionError):
      raise SchemaError(path, 'has a value that is no JSON') from None
    self._bytes += len(text)
    if self._bytes > MOST_BYTES:
      raise SchemaError(path, f'all names and values together may have {MOST_BYTES} bytes')
    return text

  # --- types -------------------------------------------------------------------------------------

  def _check_types(self, schema: Mapping[str, Any], path: str) -> None:
    given = schema.get('type')
    for kind in given if isinstance(given, list) else [given] if 'type' in schema else []:
      if not isinstance(kind, str) or kind not in OF_TYPE:
        raise SchemaError(f'{path}.type', f'choose from: {", ".join(OF_TYPE)}')

  def _typed(self, schema: Mapping[str, Any], said: Sequence[str], path: str, depth: int) -> int:
    known = {'type', *TYPES}
    for name in said:
      if name not in known:
        raise SchemaError(f'{path}.{name}', 'this keyword is not supported', is_known=True)
    self._check_types(schema, path)
    kinds = named(schema) or {TYPES[name] for name in said}
    if not kinds:
      return self._grammar.anything()
    if 'number' in kinds:
      kinds = kinds - {'integer'}
    makers = {
      'object': self._record,
      'array': self._list,
      'string': self._text,
      'integer': functools.partial(self._number, whole=True),
      'number': self._number,
    }
    options = []
    for kind in OF_TYPE:
      if kind in kinds and kind in makers:
        options.append(makers[kind](schema, path, depth))
    if 'boolean' in kinds:
      options.append(self._add(Words((b'true', b'false')), path))
    if 'null' in kinds:
      options.append(self._add(Words((b'null',)), path))
    return options[0] if len(options) == 1 else self._add(Either(tuple(options)), path)

  def _record(self, schema: Mapping[str, Any], path: str, depth: int) -> int:
    properties, required = schema.get('properties', {}), schema.get('required', [])
    if not isinstance(properties, Mapping):
      raise SchemaError(f'{path}.properties', 'give an object of schemas')
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
      raise SchemaError(f'{path}.required', 'give an array of names')
    others = schema.get('additionalProperties', 'properties' not in schema)
    extra = None
    if others is not False:
      extra = self._node(others, f'{path}.additionalProperties', depth + 1)
    names = {name: n for n, name in enumerate(dict.fromkeys((*properties, *required)))}
    values = []
    for name in names:
      self._spelled(name, f'{path}.properties')
      if name in properties:
        values.append(self._node(properties[name], f'{path}.properties.{name}', depth + 1))
      elif extra is None and 'additionalProperties' in schema:
        raise SchemaError(f'{path}.required', 'names what is none of the properties')
      else:
        values.append(self._grammar.anything() if extra is None else extra)
    needed = frozenset(names[name] for name in required)
    return self._add(Record(tuple(names), tuple(values), needed, extra), path)

  def _list(self, schema: Mapping[str, Any], path: str, depth: int) -> int:
    prefix = schema.get('prefixItems', [])
    if not isinstance(prefix, list):
      raise SchemaError(f'{path}.prefixItems', 'give an array of schemas')
    first = [self._node(one, f'{path}.prefixItems[{i}]', depth + 1) for i, one in enumerate(prefix)]
    items, rest = schema.get('items', True), None
    if items is not False:
      rest = self._node(items, f'{path}.items', depth + 1)
    need, room = self._bounds(schema, 'minItems', 'maxItems', path)
    return self._add(List(tuple(first), rest, need, room), path)

  def _text(self, schema: Mapping[str, Any], path: str, depth: int) -> int:
    if name := next((name for name in ('pattern', 'format') if name in schema), None):
      return self._matched(schema, name, f'{path}.{name}')
    need, most = self._bounds(schema, 'minLength', 'maxLength', path)
    return self._add(Text(need, None if most is None else most - need), path)

  def _matched(self, schema: Mapping[str, Any], name: str, path: str) -> int:
    for other in OF_TYPE['string']:
      if other != name and other in schema:
        where = f'{path.removesuffix(name)}{other}'
        raise SchemaError(where, f'beside {name} it is not supported', is_known=True)
    given = schema[name]
    if not isinstance(given, str):
      raise SchemaError(path, 'give a string')
    if name == 'format' and given not in FORMATS:
      raise SchemaError(path, f'choose from: {", ".join(FORMATS)}', is_known=True)
    expression = FORMATS[given] if name == 'format' else given
    try:
      found = automaton(expression, self._grammar.alphabet, self._effort)
    except PatternError as error:
      raise SchemaError(path, str(error), is_known=error.is_known) from None
    return self._add(Either(()) if found is None else Matched(found), path)

  def _bounds(
    self, schema: Mapping[str, Any], least: str, most: str, path: str
  ) -> tuple[int, int | None]:
    """The least and the greatest length; None for any."""
    found: list[Any] = [schema.get(least, 0), schema.get(most)]
    for name, value in zip((least, most), found, strict=True):
      whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
      if name in schema and (not whole or isinstance(value, bool) or value < 0):
        raise SchemaError(f'{path}.{name}', 'give a whole number from 0 on')
    return int(found[0]), None if found[1] is None else int(found[1])

  def _number(
    self, schema: Mapping[str, Any], path: str, depth: int, *, whole: bool = False
  ) -> int:
    low, above = self._limit(schema, 'minimum', 'exclusiveMinimum', path, max)
    high, below = self._limit(schema, 'maximum', 'exclusiveMaximum', path, min)
    step = None
    if 'multipleOf' in schema:
      step = self._real(schema, 'multipleOf', path)
      if step <= 0 or step.denominator != 1:
        raise SchemaError(
          f'{path}.multipleOf', 'only whole numbers above 0 are supported', is_known=step > 0
        )
      step = step.numerator
    rule = Number(whole, low, high, above, below, step)
    if not possible(rule):
      return self._add(Either(()), path)
    return self._add(rule, path)

  def _limit(
    self, schema: Mapping[str, Any], name: str, strict: str, path: str, nearest: Any
  ) -> tuple[Fraction | None, bool]:
    """The narrower of two limits, and whether it is left out itself."""
    closed = self._real(schema, name, path) if name in schema else None
    if strict not in schema:
      return closed, False
    open_ = self._real(schema, strict, path)
    if closed is None or nearest(closed, open_) != closed or closed == open_:
      return open_, True
    return closed, False

  def _real(self, schema: Mapping[str, Any], name: str, path: str) -> Fraction:
    value = schema[name]
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (isinstance(value, float) and math.isfinite(value)):
      raise SchemaError(f'{path}.{name}', 'give a number')
    return Fraction(repr(value)) if abs(value) < 1e300 else Fraction(value)


def _path(name: str) -> str:
  return ''.join(f'.{part}' for part in name.split('/')[1:])

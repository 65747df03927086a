"""Whether a value is valid for a JSON schema, by the words of the specification; for tests."""

import re

KINDS = {
  'object': lambda v: isinstance(v, dict),
  'array': lambda v: isinstance(v, list),
  'string': lambda v: isinstance(v, str),
  'integer': lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v == int(v),
  'number': lambda v: isinstance(v, int | float) and not isinstance(v, bool),
  'boolean': lambda v: isinstance(v, bool),
  'null': lambda v: v is None,
}


def same(a, b):
  return isinstance(a, bool) == isinstance(b, bool) and a == b


def valid(value, schema, root=None):
  """Of the keywords that are supported."""
  root = schema if root is None else root
  inner = lambda v, s: valid(v, s, root)
  if isinstance(schema, bool):
    return schema
  s = schema
  if '$ref' in s:
    target = root
    for part in s['$ref'].split('/')[1:]:
      target = target[part]
    return inner(value, target)
  checks = [
    'anyOf' not in s or any(inner(value, one) for one in s['anyOf']),
    'oneOf' not in s or sum(inner(value, one) for one in s['oneOf']) == 1,
    'allOf' not in s or all(inner(value, one) for one in s['allOf']),
    'enum' not in s or any(same(value, one) for one in s['enum']),
    'const' not in s or same(value, s['const']),
  ]
  if 'type' in s:
    kinds = s['type'] if isinstance(s['type'], list) else [s['type']]
    checks.append(any(KINDS[kind](value) for kind in kinds))
  if KINDS['number'](value):
    checks += [
      value >= s.get('minimum', value),
      value <= s.get('maximum', value),
      'exclusiveMinimum' not in s or value > s['exclusiveMinimum'],
      'exclusiveMaximum' not in s or value < s['exclusiveMaximum'],
      'multipleOf' not in s or value % s['multipleOf'] == 0,
    ]
  if isinstance(value, str):
    checks.append(s.get('minLength', 0) <= len(value) <= s.get('maxLength', len(value)))
    checks.append(re.search(s.get('pattern', ''), value))
  if isinstance(value, list):
    checks.append(s.get('minItems', 0) <= len(value) <= s.get('maxItems', len(value)))
    first = s.get('prefixItems', [])
    checks += [inner(v, one) for v, one in zip(value, first, strict=False)]
    checks += [inner(v, s.get('items', True)) for v in value[len(first) :]]
  if isinstance(value, dict):
    known = s.get('properties', {})
    checks += [name in value for name in s.get('required', [])]
    checks += [
      inner(v, known.get(k, s.get('additionalProperties', True))) for k, v in value.items()
    ]
  return all(checks)

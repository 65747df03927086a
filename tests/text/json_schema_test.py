"""Schemas as grammars: whatever is said by them is valid, and there is always something to say."""

import datetime
import ipaddress
import json
import random
import re
import time
import uuid
from fractions import Fraction

import numpy as np
import pytest

from llm_jax.text.effort import Effort
from llm_jax.text.grammar import Grammar, Number, Record
from llm_jax.text.json_number import can_become, is_number, shortened
from llm_jax.text.json_schema import FORMATS, SchemaError, value_of
from llm_jax.text.pattern import ANY, automaton
from llm_jax.text.token_mask import Held, Table, Vocabulary
from llm_jax.text.tokenizer import Tokenizer
from tests.text.valid import valid

TEXT = '{"name": "Ada", "age": 36}, ["x", 猫猫 größer, "y"]:\n  true, false, null 12.50 -3e'
TOKENIZERS = {
  'bytes': Tokenizer.train(['a'], vocab_size=271),
  'pieces': Tokenizer.train([TEXT] * 20, vocab_size=345),
}
PERSON = {
  'type': 'object',
  'title': 'Person',
  'properties': {
    'name': {'type': 'string', 'minLength': 1, 'maxLength': 5, 'description': 'of whom'},
    'age': {'type': ['integer', 'null'], 'minimum': 0, 'exclusiveMaximum': 130},
    'size': {'type': 'number', 'exclusiveMinimum': 0.5, 'maximum': 2.25},
    'likes': {'type': 'array', 'items': {'enum': ['猫', 'a"b', 7, 1.5, None]}, 'maxItems': 3},
    'friend': {'anyOf': [{'$ref': '#'}, {'type': 'null'}]},
  },
  'required': ['name', 'size', 'friend'],
  'additionalProperties': False,
}


def table(schema, vocabulary, *, guarded=False):
  grammar = Grammar(guarded=guarded)
  grammar.start = (
    grammar.add(Record(extra=grammar.anything()))
    if schema == 'json_object'
    else value_of(schema, grammar)
  )
  return Table(grammar, vocabulary.longest)


@pytest.fixture(params=TOKENIZERS, scope='module')
def vocabulary(request):
  tokenizer = TOKENIZERS[request.param]
  return tokenizer, Vocabulary(tokenizer)


def said(made, vocabulary, choose, most=400):
  """What is said if `choose` picks from the ids that may come; None where it takes too long."""
  tokenizer, known = vocabulary
  held, ids = Held(made, known, [tokenizer.eos_id]), []
  while len(ids) < most:
    may = np.flatnonzero(held.mask())
    assert len(may), f'nothing may follow {tokenizer.decode(ids)!r}'
    i = choose(may)
    if i == tokenizer.eos_id:
      return tokenizer.decode(ids)
    held.advance(i)
    ids.append(i)
  return None


def schema(draw, depth=0):
  """A random schema of all that is supported."""
  kinds = ['string', 'pattern', 'integer', 'number', 'boolean', 'null', 'enum', 'any']
  kinds += ['object', 'array', 'anyOf', 'oneOf', 'types', 'open'] * (depth < 3)
  kind = draw.choice(kinds)
  inner = lambda: schema(draw, depth + 1)
  few = lambda: draw.randrange(4)
  if kind == 'string':
    least = few()
    return {'type': kind, 'minLength': least, 'maxLength': least + few()}
  if kind == 'pattern':
    return {
      'type': 'string',
      kind: draw.choice(['^[a-c]{1,3}$', '^(é|[^\\x00-\u3000])$', '^(<|t|/)?$']),
    }
  if kind in ('integer', 'number'):
    low = draw.randrange(-200, 200) / (1 if kind == 'integer' else 8)
    ends = {'minimum': low, 'exclusiveMaximum': low + draw.choice([1, 7, 1000])}
    return {'type': kind, **draw.choice([{}, {'multipleOf': 3}, ends])}
  if kind == 'enum':
    return {'enum': draw.sample(['', 'a', 'ab', '猫</a>', 1, -2.5, None, True, {'x': []}], 3)}
  if kind == 'any':
    return draw.choice([{}, True, {'description': 'whatever'}])
  if kind == 'object':
    names = draw.sample(['a', 'ab', 'größer', 'q"', 'a<b', ''], few())
    made = {'type': kind, 'properties': {name: inner() for name in names}}
    made['required'] = [name for name in names if draw.random() < 0.5]
    return made | draw.choice(
      [{}, {'additionalProperties': inner()}, {'additionalProperties': False}]
    )
  if kind == 'array':
    least = few()
    prefix = draw.choice([{}, {'prefixItems': [inner(), inner()]}])
    return {'type': kind, 'items': inner(), 'minItems': least, 'maxItems': least + few(), **prefix}
  if kind == 'anyOf':
    return {kind: [inner(), inner()]}
  if kind == 'oneOf':
    return {kind: [{'type': 'string', 'maxLength': 2}, {'type': 'boolean'}, {'type': 'array'}]}
  if kind == 'types':
    return {'type': ['string', 'integer', 'null'], 'maximum': 9, 'maxLength': 1}
  return {'type': 'object', 'additionalProperties': inner(), 'required': ['a']}


@pytest.mark.parametrize('guarded', [False, True])
def test_whatever_ends_is_valid(vocabulary, guarded):
  draw, ended = random.Random(guarded), 0
  for n in range(30):
    given = PERSON if n % 10 == 0 else schema(draw)
    made = table(given, vocabulary[1], guarded=guarded)
    for _ in range(3):
      text = said(made, vocabulary, lambda may: int(draw.choice(may)))
      if text is not None:
        ended += 1
        assert valid(json.loads(text), given), (text, given)
        assert not guarded or not re.search('</|<t', text)
  assert ended > 50


def test_any_object(vocabulary):
  draw, made, found = random.Random(0), table('json_object', vocabulary[1]), []
  for _ in range(40):
    if (text := said(made, vocabulary, lambda may: int(draw.choice(may)), 150)) is not None:
      found.append(json.loads(text))
      assert isinstance(found[-1], dict)
  assert len(found) > 10 and any(found)


def test_a_mask_has_the_tokens_that_may_come_and_no_other(vocabulary):
  tokenizer, known = vocabulary
  draw = random.Random(1)
  for given in (PERSON, {}, {'type': 'array', 'minItems': 2, 'items': {'maxLength': 2}}):
    made = table(given, known)
    held = Held(made, known, [tokenizer.eos_id])
    for _ in range(25):
      mask_V, state = held.mask(), held._state
      for i in range(tokenizer.vocab_size):
        after = state
        for byte in known.texts[i]:
          after = made.moves.after(after, byte)
        assert mask_V[i] == bool(
          (known.texts[i] and after) or (i == tokenizer.eos_id and held.is_whole)
        )
      may = [i for i in np.flatnonzero(mask_V).tolist() if i != tokenizer.eos_id]
      if not may:
        break
      held.advance(draw.choice(may))


@pytest.mark.parametrize('how', [{}, {'indent': 2}, {'separators': (',', ':')}], ids=str)
def test_what_is_written_by_others_is_admitted(how):
  values = [
    {'name': 'Ada é', 'age': 36, 'size': 1.75, 'likes': ['a"b', None, 7], 'friend': None},
    {'name': '猫\n', 'size': 2.25, 'likes': [], 'friend': {'name': 'x', 'size': 1, 'friend': None}},
  ]
  any_value = {'a': [1, -2.5e-7, [], {}, [[{}]]], 'b': {'c': '\u2028</t>', '': True}}
  for given, value in [(PERSON, v) for v in values] + [({}, any_value)]:
    moves = table(given, Vocabulary(TOKENIZERS['bytes'])).moves
    state = moves.start
    for byte in json.dumps(value, ensure_ascii=False, **how).encode():
      state = moves.after(state, byte)
    assert None in state, value


def test_a_reference_is_a_part_of_an_address():
  """In which some characters stand as %XX, and / and ~ as ~1 and ~0."""
  moves = table(
    {'$ref': '#/$defs/a%20b~1%7E0', '$defs': {'a b/~': {'const': 1}}},
    Vocabulary(TOKENIZERS['bytes']),
  ).moves
  assert None in moves.after(moves.start, ord('1'))


def test_blanks_cannot_go_on_for_ever(vocabulary):
  """Whoever takes a blank wherever one may come has to come to an end."""
  tokenizer, known = vocabulary
  blank = lambda i: known.texts[i].isspace()
  ends = lambda i: i == tokenizer.eos_id or known.texts[i][:1] in (b'"', b'}', b']')
  order = lambda i: (not blank(i), not ends(i), len(known.texts[i]))
  lists = {'type': 'array', 'minItems': 3, 'items': {'type': 'array', 'items': {'type': 'null'}}}
  for given in (PERSON, lists):
    text = said(table(given, known), vocabulary, lambda may: int(min(may, key=order)), 2000)
    assert text is not None and json.loads(text) is not None


EXPRESSIONS = [
  '^[a-c]+(x|yy){2,3}$', 'é', '^$', '^a|b$', r'^\d{2}-\w+\.(com|org)$', r'^[^\x00-\x7f"猫]{2}$',
  r'^["\\/\n\t]+$', '^.{3,}$', '^(a|ab)(c|bcd)*?$', r'^[\]a-]$', r'^\u732b?[\s]$',
  r'^[\u0041}]\u007d?$',
]  # fmt: skip


@pytest.mark.parametrize('expression', EXPRESSIONS)
def test_strings_that_an_expression_matches(vocabulary, expression):
  # Python's $ may come before a line's end.
  matches = re.compile(expression.replace('$', r'\Z')).search
  draw, made, ended = random.Random(0), table({'pattern': expression}, vocabulary[1]), 0
  for _ in range(20):
    if (text := said(made, vocabulary, lambda may: int(draw.choice(may)), 60)) is not None:
      ended += 1
      assert matches(json.loads(text)), text
  assert ended or expression in ('é', '^a|b$')  # which rarely end by chance
  moves = made.moves
  words = ('aaxyy', 'é', '', 'a', 'xb', '12-a_.org', 'éü', '"/\\\n', 'abbcdc', ']', 'A}', '猫')
  for word in words:
    for text in {json.dumps(word), json.dumps(word, ensure_ascii=False)}:
      state = moves.start
      for byte in text.encode():
        state = moves.after(state, byte)
      # Characters that need no escape are written as they are.
      if '\\u' not in text:
        assert (None in state) == bool(matches(word)), word


def test_a_character_of_an_expression_may_be_two_halves_or_in_braces():
  for expression in (r'^[^\ud83d\ude00]$', r'^[^\u{1F600}]$'):
    found = automaton(expression, ANY, Effort())
    assert found.after(0, ord('😀')) == -1 and found.after(0, ord('😁')) > 0


@pytest.mark.parametrize('name', FORMATS)
def test_formats(vocabulary, name):
  read = {
    'date': datetime.date.fromisoformat,
    'time': datetime.time.fromisoformat,
    'date-time': datetime.datetime.fromisoformat,
    'uuid': uuid.UUID,
    'ipv4': ipaddress.IPv4Address,
    'email': lambda text: text.index('@'),
  }[name]
  draw, made = random.Random(0), table({'type': 'string', 'format': name}, vocabulary[1])
  texts = [said(made, vocabulary, lambda may: int(draw.choice(may))) for _ in range(20)]
  ended = [text for text in texts if text is not None]
  assert ended
  for text in ended:
    read(json.loads(text))


@pytest.mark.parametrize(
  'rule',
  [
    Number(True, Fraction(-12), Fraction(105)),
    Number(True, Fraction(7), Fraction(2000), step=7),
    Number(False, Fraction(-1, 8), Fraction(3, 2), above=True),
    Number(False, Fraction(1, 10), Fraction(1, 5), True, True),
    Number(step=5),
    Number(True, Fraction(10**14)),
  ],
  ids=str,
)
def test_digits_lead_to_numbers_in_range(rule):
  draw = random.Random(0)
  for _ in range(60):
    text = ''
    while True:
      after = [text + c for c in '0123456789-.eE+' if can_become(text + c, rule)]
      if is_number(text, rule) and (not after or draw.random() < 0.3):
        break
      text = draw.choice(after)
    value = json.loads(text)
    assert value * 2 == float(Fraction(text) * 2)
    assert rule.low is None or value > float(rule.low) or (value == rule.low and not rule.above)
    assert rule.high is None or value < float(rule.high) or (value == rule.high and not rule.below)
    assert not rule.step or value % rule.step == 0
    assert not rule.whole or isinstance(value, int)


def test_numbers_that_are_shortened_go_on_alike():
  draw = random.Random(0)
  for rule in (Number(), Number(True)):
    for _ in range(300):
      text = ''
      for _ in range(draw.randrange(1, 20)):
        after = [c for c in '0123456789-.eE+' if can_become(text + c, rule)]
        short = shortened(text, rule)
        assert after == [c for c in '0123456789-.eE+' if can_become(short + c, rule)], text
        assert is_number(text, rule) == is_number(short, rule)
        if not after:
          break
        text += draw.choice(after)


WRONG = [
  ({'type': 'string', 'pattern': '(?=a)'}, '.pattern', True),
  ({'type': 'string', 'pattern': '(a|b)*a.{20}'}, '.pattern', True),
  ({'type': 'string', 'pattern': '(((a{99}){99}){99})'}, '.pattern', True),
  ({'type': 'string', 'pattern': '['}, '.pattern', False),
  ({'type': 'string', 'pattern': 3}, '.pattern', False),
  ({'type': 'string', 'pattern': '^a', 'maxLength': 3}, '.maxLength', True),
  ({'properties': {'a': {'format': 'iri', 'type': 'string'}}}, '.properties.a.format', True),
  ({'type': 'string', 'pattern': '^\x00$'}, '', False),
  ({'type': 'object', 'patternProperties': {}}, '.patternProperties', True),
  ({'type': 'array', 'uniqueItems': True}, '.uniqueItems', True),
  ({'not': {}}, '.not', True),
  ({'if': {}, 'then': {}}, '.if', True),
  ({'allOf': [{}, {}]}, '.allOf', True),
  ({'anyOf': [{}], 'properties': {}}, '.properties', True),
  ({'oneOf': [{'type': 'number'}, {'type': 'integer'}]}, '.oneOf[1]', True),
  ({'oneOf': [{'type': 'object'}, {'properties': {'a': {}}}]}, '.oneOf[1]', True),
  ({'oneOf': [{'type': 'string'}, {'properties': {'a': {}}}]}, '.oneOf[1]', True),
  ({'oneOf': [{'type': [[]]}, {'type': 'string'}]}, '.oneOf[0].type', False),
  ({'enum': ['a'], 'type': [[]]}, '.type', False),
  ({'$ref': 'https://example.org/a'}, '.$ref', True),
  ({'$ref': '#/$defs/a'}, '.$ref', False),
  ({'type': 'array', 'items': {'$ref': 3}}, '.items.$ref', False),
  ({'type': 'text'}, '.type', False),
  ({'type': ['string', 3]}, '.type', False),
  ({'type': {}}, '.type', False),
  ({'type': 'string', 'minLength': -1}, '.minLength', False),
  ({'type': 'string', 'maxLength': 'x'}, '.maxLength', False),
  ({'type': 'number', 'minimum': '3'}, '.minimum', False),
  ({'type': 'number', 'multipleOf': 0.1}, '.multipleOf', True),
  ({'type': 'integer', 'multipleOf': 0}, '.multipleOf', False),
  ({'type': 'array', 'items': [{}]}, '.items', False),
  ({'type': 'array', 'items': 5}, '.items', False),
  ({'anyOf': []}, '.anyOf', False),
  ({'anyOf': {}}, '.anyOf', False),
  ({'enum': 3}, '.enum', False),
  ({'enum': [float('inf')]}, '.enum', False),
  ({'type': 'object', 'required': 'a'}, '.required', False),
  ({'type': 'object', 'properties': []}, '.properties', False),
  ({'additionalProperties': False, 'required': ['a']}, '.required', False),
  # Of these there is no value that ends.
  ({'enum': []}, '', False),
  ({'enum': ['a', float('inf')], 'type': 'integer'}, '', False),
  ({'type': 'integer', 'minimum': 10**400}, '', False),
  ({'type': 'string', 'minLength': 2, 'maxLength': 1}, '', False),
  ({'type': 'integer', 'minimum': 0.2, 'maximum': 0.8}, '', False),
  ({'type': 'array', 'minItems': 1, 'items': False}, '', False),
  ({'properties': {'a': {'$ref': '#'}}, 'required': ['a']}, '', False),
  ({'$ref': '#'}, '', False),
  (7, '', False),
]


@pytest.mark.parametrize('given, path, known', WRONG, ids=lambda one: str(one)[:40])
def test_what_cannot_be_held_to_is_named(given, path, known):
  with pytest.raises(SchemaError) as found:
    value_of(given, Grammar())
  assert (found.value.path, found.value.is_known) == (path, known)


def nested(count, leaf):
  for _ in range(count):
    leaf = {'type': 'array', 'items': leaf}
  return leaf


def ambiguous(count):
  """Objects that could be any of 2^count things until they end."""
  leaf = {'type': 'null'}
  for n in range(count):
    leaf = {'anyOf': [{'properties': {'a': leaf, str(n + m): {}}} for m in range(2)]}
  return leaf


HOSTILE = {
  'nested': nested(10**4, {}),
  'recursive': {'$ref': '#/$defs/a', '$defs': {c: {'anyOf': [
    {'properties': {d: {'$ref': f'#/$defs/{d}'} for d in 'abc'}}, {'$ref': f'#/$defs/{d}'},
  ]} for c, d in ('ab', 'bc', 'ca')}},
  'chain': {'properties': {f'p{n}': {'$ref': f'#/$defs/{n}'} for n in range(900)}, '$defs': {
    str(n): {'properties': {'x': {'$ref': f'#/$defs/{n - 1}'} if n else {}}} for n in range(900)}},
  'ambiguous': ambiguous(12),
  'wide': {'anyOf': [{'properties': {f'a{n}': {}}} for n in range(900)]},
  'names': {'properties': {f'a{n}': True for n in range(30_000)},
    'required': [f'a{n}' for n in range(30_000)]},
  'words': {'enum': [f'{n}' for n in range(10**5)]},
  'long': {'type': 'string', 'minLength': 10**9, 'maxLength': 10**18},
  'many': {'type': 'array', 'minItems': 10**9},
  'apart': {'oneOf': [{'enum': [*range(n, n + 4000)]} for n in (0, 10**6)]},
  'alike': {'oneOf': [{'$ref': '#/$defs/a'}] * 2, '$defs': {'a': {'type': 'object',
    'properties': {f'{n}': {'$ref': '#/$defs/a'} for n in range(99)},
    'required': [f'{n}' for n in range(99)]}}},
  'classes': {'anyOf': [{'type': 'string', 'pattern': f'^({n}|' + '|'.join(
    '[' + ''.join(chr(0x3400 + 2 * i + k) for i in range(60)) + ']' for k in range(60)) + ')*$'}
    for n in range(99)]},
  'oneOf': {'oneOf': [{'properties': {'a': {'const': n}}, 'required': ['a']} for n in range(100)]},
}  # fmt: skip


@pytest.mark.parametrize('name', HOSTILE)
def test_no_schema_takes_long(name):
  vocabulary = TOKENIZERS['pieces'], Vocabulary(TOKENIZERS['pieces'])
  draw, began = random.Random(0), time.perf_counter()
  try:
    made = table(HOSTILE[name], vocabulary[1])
    said(made, vocabulary, lambda may: int(draw.choice(may)), 100)
  except SchemaError as error:
    assert len(str(error)) < 200
  assert time.perf_counter() - began < 5


def test_masks_do_not_depend_on_what_was_asked_before():
  tokenizer = TOKENIZERS['pieces']
  first, second = Vocabulary(tokenizer), Vocabulary(tokenizer)
  shared, draw = table(PERSON, first), random.Random(3)
  for _ in range(5):
    said(shared, (tokenizer, first), lambda may: int(draw.choice(may)))
  shared.begin()  # as it does when it is full
  for _ in range(5):
    said(shared, (tokenizer, first), lambda may: int(draw.choice(may)))
  fresh = table(PERSON, second)
  ours, theirs = (Held(t, v, [2]) for t, v in ((shared, first), (fresh, second)))
  for _ in range(60):
    mask_V = ours.mask()
    np.testing.assert_array_equal(mask_V, theirs.mask())
    i = int(draw.choice(np.flatnonzero(mask_V)))
    if i == 2:
      break
    ours.advance(i)
    theirs.advance(i)


def test_more_rows_than_words_and_tokens_that_may_not_come():
  tokenizer = TOKENIZERS['bytes']
  vocabulary = Vocabulary(tokenizer, 300)
  held = Held(table({}, vocabulary), vocabulary, [tokenizer.eos_id])
  assert held.mask().shape == (300,) and not held.mask()[tokenizer.vocab_size :].any()
  for i in (tokenizer.bos_id, tokenizer.special('<|im_end|>'), tokenizer.encode('}')[0]):
    with pytest.raises(ValueError, match='may not come'):
      held.advance(i)

"""Answers that are held to a form, JSON or calls of tools, whatever the model would like to say."""

import json

import numpy as np
import pytest

from llm_jax.serving.constraint import Constraints
from llm_jax.serving.errors import ApiError
from llm_jax.serving.openai import About, asked
from llm_jax.text.templates import MARKS
from llm_jax.text.tokenizer import Tokenizer
from tests.serving.stand_in import TOKENIZER, Engine, asking, obedient, user
from tests.text.valid import valid

POINT = {
  'type': 'object',
  'properties': {'x': {'type': 'integer', 'minimum': -9, 'maximum': 99}, 'y': {'enum': ['<a>', 1]}},
  'required': ['x', 'y'],
}
NAME = {'$ref': '#/$defs/name', '$defs': {'name': {'properties': {'of': {'maxLength': 6}}}}}
TOOLS = [
  {'type': 'function', 'function': {'name': 'move', 'parameters': POINT, 'strict': True}},
  {'type': 'function', 'function': {'name': 'na"me', 'parameters': NAME}},
  {'type': 'function', 'function': {'name': 'stop'}},
]
ARGUMENTS = {'move': POINT, 'na"me': NAME, 'stop': {'type': 'object', 'maxProperties': 0}}
FORMAT = {'type': 'json_schema', 'json_schema': {'name': 'point', 'schema': POINT, 'strict': True}}
LONG = 2000


def answers(body, template, n=6):
  """The messages of choices that any token is as likely in, and how they ended."""
  engine = Engine(obedient, length=LONG, columns=3)
  reply = asking({**body, 'n': n, 'seed': 7}, engine=engine, template=template)
  assert reply.status == 200, reply.json()
  return [(choice['message'], choice['finish_reason']) for choice in reply.json()['choices']]


def calls_of(message):
  for call in message['tool_calls']:
    name, arguments = call['function']['name'], json.loads(call['function']['arguments'])
    assert valid(arguments, ARGUMENTS[name])
    yield name


@pytest.mark.parametrize('template', ['llm_jax', 'plain'])
def test_json_of_a_schema(template):
  whole = 0
  for message, finish in answers(user(response_format=FORMAT), template, 12):
    if finish == 'stop':  # a thought may have taken all the room
      whole += 1
      assert valid(json.loads(message['content']), POINT)
  assert whole > 6


def test_a_schema_beside_tools_leaves_the_choice():
  found = answers(user(response_format=FORMAT, tools=TOOLS), 'llm_jax', 16)
  called = [message for message, finish in found if finish == 'tool_calls']
  said = [message['content'] for message, finish in found if finish == 'stop']
  assert called and said and all(valid(json.loads(text), POINT) for text in said)
  assert all([*calls_of(message)] for message in called)


@pytest.mark.parametrize('one', [True, False])
@pytest.mark.parametrize('template', ['llm_jax', 'chatml'])
def test_required_calls(template, one):
  body = user(tools=TOOLS, tool_choice='required', parallel_tool_calls=not one)
  names, most = set(), 0
  engine = Engine(obedient, length=LONG)
  reply = asking({**body, 'n': 16, 'seed': 1}, engine=engine, template=template)
  assert reply.status == 200, reply.json()
  for choice in reply.json()['choices']:
    if choice['finish_reason'] == 'length':
      continue
    assert choice['finish_reason'] == 'tool_calls' and choice['message']['content'] is None
    called = [*calls_of(choice['message'])]
    names |= {*called}
    most = max(most, len(called))
  assert names == {*ARGUMENTS}
  assert (most == 1) == (one or template == 'llm_jax')


def test_strict_functions_hold_calls_and_leave_texts_alone():
  """Of a model that says what it likes, and then calls."""
  for form, call in (('marks', MARKS['search']), ('tags', ('<tool_call>\n', '\n</tool_call>'))):
    constraints = Constraints(TOKENIZER, form, TOKENIZER.vocab_size)
    body = asked(user(tools=TOOLS, stop='x'), About(310, 99, 99), chat=True)
    constraints.check(body)
    names = TOKENIZER.specials
    spelled = lambda t, names=names: [names[t]] if t in names else TOKENIZER.encode(t)
    stop = [TOKENIZER.eos_id, names[MARKS['search'][1]]]
    held = constraints.hold(body, stop, thinking=False)()
    for i in TOKENIZER.encode('let me <tool look\n'):
      assert held.is_whole and held.mask()[i] and held.mask()[stop[0]]
      held.advance(i)
    for i in [*spelled(call[0]), *TOKENIZER.encode('{"name": "move", "arguments": {"x": 7, "y": ')]:
      assert held.mask()[i], TOKENIZER.decode([i], specials=True)
      held.advance(i)
    assert not held.is_whole and not held.mask()[stop].any()
    assert not held.mask()[TOKENIZER.encode('x')].any()  # neither of the values of y


def test_a_named_call():
  choice = {'type': 'function', 'function': {'name': 'na"me'}}
  for message, finish in answers(user(tools=TOOLS, tool_choice=choice), 'llm_jax'):
    assert finish == 'length' or [*calls_of(message)] == ['na"me']


def test_a_form_that_cannot_be_had_is_refused():
  named = {'type': 'function', 'function': {'name': 'stop'}}
  pattern = {'properties': {'a"é': {'type': 'string', 'pattern': '(?=a)'}}}
  schema = lambda given: {'type': 'json_schema', 'json_schema': {'name': 'a', 'schema': given}}
  where = 'response_format.json_schema.schema'
  refused = [
    (dict(tools=TOOLS, tool_choice='required'), 'plain', 'tool_choice', True),
    (dict(tools=TOOLS, tool_choice=named), 'plain', 'tool_choice', True),
    (dict(response_format=FORMAT, stop='x'), 'llm_jax', 'stop', True),
    (dict(response_format=FORMAT, ignore_eos=True), 'llm_jax', 'ignore_eos', True),
    (dict(response_format=FORMAT, min_tokens=3), 'llm_jax', 'min_tokens', True),
    (dict(response_format=FORMAT, stop_token_ids=[3]), 'llm_jax', 'stop_token_ids', True),
    (
      dict(response_format=schema(pattern)),
      'llm_jax',
      f'{where}.properties.a"\\xe9.pattern',
      True,
    ),
    (dict(response_format=schema({'enum': []})), 'llm_jax', where, False),
    (
      dict(
        tools=[{'type': 'function', 'function': {'name': 'f', 'parameters': {'not': {}}}}],
        tool_choice='required',
      ),
      'llm_jax',
      'tools[0].function.parameters.not',
      True,
    ),
  ]
  for fields, template, param, known in refused:
    reply = asking(user(**fields), template=template)
    assert reply.status == 400, fields
    assert reply.error()['param'] == param, reply.error()
    code = 'unsupported_parameter' if known else 'invalid_value'
    assert reply.error()['code'] == code and reply.error()['message'].isascii()


def test_a_tokenizer_that_cannot_spell_every_byte_holds_nothing():
  class Poor:
    vocab_size, token_bytes, specials = 2, np.array([1, 1]), {}
    bytes_of = staticmethod(lambda i: b'ab'[i : i + 1])

  constraints = Constraints(Poor(), 'text', 2)
  body = asked(user(response_format=FORMAT), About(2, 9, 9), chat=True)
  with pytest.raises(ApiError, match='cannot spell every byte'):
    constraints.check(body)


def test_a_thought_that_the_prompt_has_opened_comes_to_its_end_first():
  tokenizer = Tokenizer.train(['<think> </think> {"x": 1}'] * 9, vocab_size=290)
  constraints = Constraints(tokenizer, 'tags', tokenizer.vocab_size)
  body = asked(user(response_format=FORMAT), About(290, 99, 99), chat=True)
  held = constraints.hold(body, tokenizer.stop_ids, thinking=True)()
  for text in ('hm </thi', '</think>', '\n\n{"x"', ': -3, "y":1}'):
    assert not held.is_whole
    for i in tokenizer.encode(text):
      assert held.mask()[i]
      held.advance(i)
  assert held.is_whole and np.flatnonzero(held.mask()).tolist() == [*tokenizer.stop_ids]


def test_marks_are_control_tokens_and_no_text():
  constraints = Constraints(TOKENIZER, 'marks', TOKENIZER.vocab_size)
  body = asked(user(tools=TOOLS, tool_choice='required'), About(310, 99, 99), chat=True)
  end = TOKENIZER.special(MARKS['search'][1])
  held = constraints.hold(body, [TOKENIZER.stop_ids[0], end], thinking=False)()
  begin, think = (TOKENIZER.special(MARKS[kind][0]) for kind in ('search', 'thinking'))
  assert sorted(np.flatnonzero(held.mask())) == sorted([begin, think])
  held.advance(begin)
  for i in TOKENIZER.encode('{"name": "stop", "arguments": {}}'):
    held.advance(i)
  assert np.flatnonzero(held.mask()).tolist() == [end]

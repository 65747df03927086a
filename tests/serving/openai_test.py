"""What a body asks for: what is right is read, what is wrong is named, whatever it is."""

import json
import math

import pytest

from llm_jax.serving import fields, openai
from llm_jax.serving.errors import ApiError
from llm_jax.serving.openai import About
from tests.serving.stand_in import LENGTH, TOKENIZER, asking, user

ABOUT = About(TOKENIZER.vocab_size, LENGTH, LENGTH)
TALK = [{'role': 'user', 'content': 'hi'}]
TOOL = {'type': 'function', 'function': {'name': 'add', 'parameters': {'type': 'object'}}}


def read(body, *, chat=True):
  base = {'messages': TALK} if chat else {'prompt': 'hi'}
  return openai.asked(fields.parsed(json.dumps({**base, **body}).encode()), ABOUT, chat=chat)


def refused(body, *, chat=True):
  with pytest.raises(ApiError) as found:
    read(body, chat=chat)
  error = found.value
  assert error.status == 400 and error.type == 'invalid_request_error'
  assert error.message.isprintable() and error.message.isascii() and len(error.message) < 300
  return error


# Of each field: what it can be, and what besides the wrong types it cannot.
NUMBERS = {
  'temperature': ([0, 1, 2, 0.5], [-0.1, 2.1, 1e308, -1e308]),
  'top_p': ([1, 0.1, 1e-300], [0, -1, 1.5]),
  'min_p': ([0, 0.5], [-0.1, 1]),
  'repetition_penalty': ([1, 1.5], [0, -1, 101]),
  'frequency_penalty': ([-2, 2, 0.0], [-2.1, 2.1]),
  'presence_penalty': ([-2, 2, 0.0], [-2.1, 2.1]),
}
COUNTS = {
  'n': ([1, 16], [0, -1, 17, 10**9, 10**400]),
  'max_tokens': ([1, 100], [0, -1, 2**40]),
  'max_completion_tokens': ([1, 100], [0, -1]),
  'seed': ([0, -1, 2**63 - 1, -(2**63)], [2**63, 10**30]),
  'top_k': ([1, -1, 0], [-2, 2**31]),
  'min_tokens': ([0, 1], [-1, 10**9]),
}
FLAGS = ('stream', 'logprobs', 'ignore_eos', 'return_token_ids', 'parallel_tool_calls')
WRONG = ['x', '1', [], [1], {}, {'a': 1}, True, False]


@pytest.mark.parametrize('name', [*NUMBERS, *COUNTS])
def test_numbers(name):
  good, bad = {**NUMBERS, **COUNTS}[name]
  for value in [*good, None]:
    read({name: value})
  for value in [*bad, *WRONG, *([1.5] if name in COUNTS else [])]:
    error = refused({name: value})
    assert error.param == name and error.code == 'invalid_value', (name, value)


@pytest.mark.parametrize('name', FLAGS)
def test_flags(name):
  for value in (True, False, None):
    read({name: value})
  for value in (0, 1, 'true', [], {}, 0.5):
    assert refused({name: value}).param == name


BAD = [
  ({'messages': []}, 'messages'),
  ({'messages': None}, 'messages'),
  ({'messages': 'hi'}, 'messages'),
  ({'messages': {'role': 'user'}}, 'messages'),
  ({'messages': ['hi']}, 'messages[0]'),
  ({'messages': [*TALK, {'role': 'king', 'content': 'x'}]}, 'messages[1].role'),
  ({'messages': [{'content': 'x'}]}, 'messages[0].role'),
  ({'messages': [{'role': ['user'], 'content': 'x'}]}, 'messages[0].role'),
  ({'messages': [{'role': 'user'}]}, 'messages[0].content'),
  ({'messages': [{'role': 'user', 'content': None}]}, 'messages[0].content'),
  ({'messages': [{'role': 'user', 'content': 3}]}, 'messages[0].content'),
  ({'messages': [{'role': 'user', 'content': {}}]}, 'messages[0].content'),
  ({'messages': [{'role': 'user', 'content': ['x']}]}, 'messages[0].content[0]'),
  ({'messages': [{'role': 'user', 'content': [{'type': 'text'}]}]}, 'messages[0].content[0].text'),
  ({'messages': [{'role': 'user', 'content': [{'type': 'x'}]}]}, 'messages[0].content[0].type'),
  ({'messages': [{'role': 'user', 'content': 'x', 'name': 1}]}, 'messages[0].name'),
  ({'messages': [{'role': 'tool', 'content': 'x'}]}, 'messages[0].tool_call_id'),
  ({'messages': [{'role': 'user', 'content': 'x', 'tool_calls': [{}]}]}, 'messages[0].tool_calls'),
  (
    {'messages': [{'role': 'assistant', 'tool_calls': [{'type': 'x'}]}]},
    'messages[0].tool_calls[0].type',
  ),
  ({'messages': [{'role': 'assistant', 'tool_calls': 'x'}]}, 'messages[0].tool_calls'),
  (
    {'messages': [{'role': 'assistant', 'tool_calls': [{'function': {'name': 'f'}}]}]},
    'messages[0].tool_calls[0].function.arguments',
  ),
  (
    {
      'messages': [
        {'role': 'assistant', 'tool_calls': [{'function': {'name': 'f', 'arguments': {}}}]}
      ]
    },
    'messages[0].tool_calls[0].function.arguments',
  ),
  ({'messages': [{'role': 'assistant', 'content': None, 'tool_calls': []}]}, 'messages[0].content'),
  ({'model': 3}, 'model'),
  ({'stop': ''}, 'stop'),
  ({'stop': ['a', '']}, 'stop'),
  ({'stop': ['a'] * 5}, 'stop'),
  ({'stop': [1]}, 'stop'),
  ({'stop': {}}, 'stop'),
  ({'stop': 'x' * 501}, 'stop'),
  ({'stream_options': {}}, 'stream_options'),
  ({'stream_options': 3, 'stream': True}, 'stream_options'),
  (
    {'stream_options': {'include_usage': 1}, 'stream': True},
    'stream_options.include_usage',
  ),
  ({'top_logprobs': 2}, 'top_logprobs'),
  ({'top_logprobs': 21, 'logprobs': True}, 'top_logprobs'),
  ({'max_tokens': 1, 'max_completion_tokens': 2}, 'max_tokens'),
  ({'logit_bias': [1]}, 'logit_bias'),
  ({'logit_bias': {'x': 1}}, 'logit_bias'),
  ({'logit_bias': {'-1': 1}}, 'logit_bias'),
  ({'logit_bias': {'²': 1}}, 'logit_bias'),
  ({'logit_bias': {'1' * 5000: 1}}, 'logit_bias'),
  ({'logit_bias': {str(TOKENIZER.vocab_size): 1}}, 'logit_bias'),
  ({'logit_bias': {'1': 101}}, 'logit_bias.1'),
  ({'logit_bias': {'1': 'x'}}, 'logit_bias.1'),
  ({'stop_token_ids': [TOKENIZER.vocab_size]}, 'stop_token_ids'),
  ({'stop_token_ids': [-1]}, 'stop_token_ids'),
  ({'stop_token_ids': [True]}, 'stop_token_ids'),
  ({'stop_token_ids': 5}, 'stop_token_ids'),
  ({'cache_salt': 5}, 'cache_salt'),
  ({'tools': 5}, 'tools'),
  ({'tools': [{'type': 'x'}]}, 'tools[0].type'),
  ({'tools': [{'type': 'function'}]}, 'tools[0].function'),
  ({'tools': [{'type': 'function', 'function': {}}]}, 'tools[0].function.name'),
  (
    {'tools': [{'type': 'function', 'function': {'name': 'f', 'parameters': 1}}]},
    'tools[0].function.parameters',
  ),
  ({'tools': [TOOL], 'tool_choice': 'always'}, 'tool_choice'),
  ({'response_format': {'type': 'xml'}}, 'response_format.type'),
  ({'response_format': 'json'}, 'response_format'),
  ({'response_format': {'type': 'json_schema'}}, 'response_format.json_schema'),
  (
    {'response_format': {'type': 'json_schema', 'json_schema': {'name': 'a'}}},
    'response_format.json_schema.schema',
  ),
  ({'tool_choice': 'required'}, 'tool_choice'),
  ({'tools': [TOOL], 'tool_choice': {'type': 'allowed_tools'}}, 'tool_choice.type'),
  (
    {'tools': [TOOL], 'tool_choice': {'type': 'function', 'function': {}}},
    'tool_choice.function.name',
  ),
  (
    {'tools': [TOOL], 'tool_choice': {'type': 'function', 'function': {'name': 'sub'}}},
    'tool_choice.function.name',
  ),
]


@pytest.mark.parametrize('body, param', BAD, ids=lambda one: str(one)[:40])
def test_what_is_wrong_is_named(body, param):
  error = refused(body)
  assert (error.param, error.code) == (param, 'invalid_value')


IMAGE = [{'role': 'user', 'content': [{'type': 'image_url', 'image_url': {'url': 'x'}}]}]
CANNOT = [
  ({'messages': IMAGE}, 'messages[0].content[0].type'),
  ({'functions': [{}]}, 'functions'),
  ({'modalities': ['text', 'audio']}, 'modalities'),
  ({'guided_json': {}}, 'guided_json'),
  ({'use_beam_search': True}, 'use_beam_search'),
  ({'chat_template': 'x'}, 'chat_template'),
]


@pytest.mark.parametrize('body, param', CANNOT, ids=lambda one: str(one)[:40])
def test_what_is_known_and_cannot_be_honoured_is_refused(body, param):
  error = refused(body)
  assert (error.param, error.code) == (param, 'unsupported_parameter')


BAD_PROMPTS = (None, [], 3, {}, [[]], [['a']], ['a', 1], [1, 'a'], [1, -1], [[1], []], [True],
               [10**9], [[10**9]], ['a'] * 129, [1.5])  # fmt: skip


@pytest.mark.parametrize('prompt', BAD_PROMPTS, ids=lambda one: str(one)[:20])
def test_prompts_that_are_none(prompt):
  assert refused({'prompt': prompt}, chat=False).param == 'prompt'


@pytest.mark.parametrize(
  'body, param, code',
  [
    ({'logprobs': 6}, 'logprobs', 'invalid_value'),
    ({'logprobs': True}, 'logprobs', 'invalid_value'),
    ({'best_of': 2}, 'best_of', 'unsupported_parameter'),
    ({'suffix': 'x'}, 'suffix', 'unsupported_parameter'),
    ({'max_tokens': 0}, 'max_tokens', 'invalid_value'),
    ({'response_format': {'type': 'json_object'}}, 'response_format', 'unsupported_parameter'),
    ({'echo': 1}, 'echo', 'invalid_value'),
  ],
)
def test_fields_of_completions(body, param, code):
  error = refused(body, chat=False)
  assert (error.param, error.code) == (param, code)


def test_what_clients_send_besides_is_accepted():
  read(
    {
      **dict(user='u', metadata={'a': 'b'}, store=True, service_tier='auto', new_field=[1]),
      **dict(safety_identifier='x', prompt_cache_key='k', reasoning_effort='low'),
      **dict(function_call='none', modalities=['text'], length_penalty=1.0, suffix=''),
    }
  )


def test_what_is_read():
  asked = read(
    {
      'messages': [
        {'role': 'developer', 'content': [{'type': 'text', 'text': 'a'}]},
        {'role': 'assistant', 'content': None, 'reasoning_content': 'hm',
         'tool_calls': [{'id': 'x', 'function': {'name': 'f', 'arguments': '{}'}}]},
        {'role': 'tool', 'tool_call_id': 'x', 'content': '3', 'name': 'f'},
      ],
      'stop': 'x', 'seed': 2**32 + 5, 'top_k': 0, 'temperature': 1e-9, 'logit_bias': {'5': -100},
      'max_completion_tokens': 5, 'max_tokens': 5, 'logprobs': True, 'tools': [TOOL],
    }
  )  # fmt: skip
  assert asked.messages[0] == {'role': 'system', 'content': 'a'}
  assert asked.messages[1]['reasoning_content'] == 'hm' and asked.messages[2]['role'] == 'tool'
  how = asked.how
  assert how['seed'] == 5 and how['top_k'] is None and how['temperature'] == 0
  assert how['logit_bias'] == {5: -100.0} and how['stop_strings'] == ('x',)
  assert asked.max_new == 5 and asked.logprobs == 0 and asked.tools[0]['function']['name'] == 'add'
  assert read({'tools': [TOOL], 'tool_choice': 'none'}).tools == []
  seeds = {read({}).how['seed'] for _ in range(8)}
  assert len(seeds) > 4


@pytest.mark.parametrize(
  'raw',
  [
    *(b'', b'{', b'[]', b'"x"', b'null', b'3', b'{"a": NaN}', b'{"a": Infinity}', b'\xff', b'{]'),
    *(b'[' * 100_000, b'{"a":' * 5000 + b'1' + b'}' * 5000, b'{"n": ' + b'1' * 5000 + b'}'),
    *(b'\xef\xbb\xbf{}', b'{"a": 1} x', b"{'a': 1}", b'{"a": "\xed\xa0\x80"}', b'\x00'),
  ],
  ids=lambda raw: str(raw[:20]),
)
def test_bodies_that_are_no_json_object(raw):
  with pytest.raises(ApiError) as found:
    openai.asked(fields.parsed(raw), ABOUT, chat=True)
  assert found.value.status == 400 and found.value.type == 'invalid_request_error'


def test_bodies_are_as_deep_as_whatever_reads_them_can_go():
  nested = lambda half: b'{"a":' * half + b'[' * half + b']' * half + b'}' * half
  assert list(fields.parsed(nested(fields.DEEPEST // 2))) == ['a']
  with pytest.raises(ApiError, match='nested too deeply'):
    fields.parsed(nested(fields.DEEPEST // 2 + 1))


@pytest.mark.parametrize(
  'raw, param',
  [
    (rb'{"messages": [{"role": "user", "content": "\ud800"}]}', 'messages[0].content'),
    (rb'{"messages": [{"role": "user", "content": "\uDC00x"}]}', 'messages[0].content'),
    (rb'{"stop": ["a", "\ud83d"]}', 'stop[1]'),
    (rb'{"tools": [{"function": {"\ud800": 1}}]}', 'tools[0].function'),
    (rb'{"prompt": "\ude00\ud83d"}', 'prompt'),
  ],
)
def test_lone_surrogates_are_named(raw, param):
  with pytest.raises(ApiError) as found:
    fields.parsed(raw)
  assert found.value.param == param and found.value.message.isascii()
  assert fields.parsed(rb'{"a": "\ud83d\ude00"}') == {'a': '😀'}


def test_too_many_tokens_are_refused_before_any_work():
  said = []
  body = user('one ' * 500)
  reply = asking(body, say=lambda request: said.append(request))
  assert reply.status == 400 and reply.error()['code'] == 'context_length_exceeded'
  assert reply.error()['param'] == 'messages' and not said
  reply = asking(user('hi', max_tokens=LENGTH))
  assert reply.error()['code'] == 'context_length_exceeded'
  reply = asking({'prompt': [5] * LENGTH}, '/v1/completions')
  assert reply.error()['code'] == 'context_length_exceeded'
  reply = asking(user('hi', max_tokens=3, min_tokens=4))
  assert reply.error()['param'] == 'min_tokens'


def test_a_text_that_cannot_fit_is_not_tokenized():
  calls = []

  class Watched:
    def __init__(self, inner):
      self.inner = inner

    def __getattr__(self, name):
      if name.startswith('encode'):
        calls.append(name)
      return getattr(self.inner, name)

  reply = asking(user('x' * 3_000_000), tokenizer=Watched(TOKENIZER))
  assert reply.error()['code'] == 'context_length_exceeded' and not calls


def test_minus_infinity_is_a_number():
  assert fields.finite(-math.inf) == fields.finite(math.nan) == -9999.0

"""The contract, response by response: fields, order of events, errors, limits."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from llm_jax.serving import page
from llm_jax.serving.limits import Keys, Limits
from llm_jax.text.templates import MARKS
from tests.serving.stand_in import (
  STOP,
  TOKENIZER,
  Engine,
  asking,
  send,
  serving,
  speaker,
  user,
)

CHAT, TEXT = '/v1/chat/completions', '/v1/completions'
HARD = json.loads((Path(__file__).parents[1] / 'fixtures' / 'strings_hard.json').read_text())
CALL, END = (TOKENIZER.special(name) for name in MARKS['search'])
TOOL = {'type': 'function', 'function': {'name': 'add', 'parameters': {'type': 'object'}}}
ADD = [CALL, *TOKENIZER.encode('{"name": "add", "arguments": {"a": 1}}'), END]


def many(*calls, **how):
  """Responses of one server to (method, path, body, headers)."""

  async def all_of_them():
    async with serving(**how) as app:
      return [
        await send(app, method, path, body, headers=dict(*headers))
        for method, path, body, *headers in calls
      ]

  return asyncio.run(all_of_them())


# --- streams -----------------------------------------------------------------------------------


def joined(events, *, chat=True):
  """Choices of a stream as those of a whole answer; checks the order of events on the way."""
  assert len({(e['id'], e['created'], e['model'], e['object']) for e in events}) == 1
  found = {}
  for event in events:
    for choice in event['choices']:
      one = found.setdefault(choice['index'], {'text': '', 'logprobs': [], 'ids': []})
      assert 'finish_reason' not in one, 'after the end'
      said = choice['delta'] if chat else {'content': choice['text']}
      if chat and 'role' not in one:
        assert said == {'role': 'assistant', 'content': ''}
        one['role'] = 'assistant'
      one['text'] += said.get('content') or ''
      for call in said.get('tool_calls', ()):
        calls = one.setdefault('calls', [])
        if call['index'] == len(calls):
          assert call['id'].startswith('call_') and call['function']['arguments'] == ''
          calls.append(call['function'])
        else:
          calls[call['index']]['arguments'] += call['function']['arguments']
      one['logprobs'] += (choice['logprobs'] or {}).get('content' if chat else 'tokens', [])
      one['ids'] += choice.get('token_ids', [])
      if choice['finish_reason'] is not None:
        assert said in ({}, {'content': ''})
        one['finish_reason'] = choice['finish_reason']
  assert all('finish_reason' in one for one in found.values())
  return found


def test_a_whole_answer():
  found = asking(user('hi')).json()
  assert found['id'].startswith('chatcmpl-') and found['object'] == 'chat.completion'
  assert found['model'] == 'm' and abs(found['created']) > 1e9
  message = {'role': 'assistant', 'content': 'one and two', 'refusal': None}
  choice = {'index': 0, 'message': message, 'logprobs': None, 'finish_reason': 'stop'}
  assert found['choices'] == [choice]
  said, asked = len(TOKENIZER.encode('one and two')) + 1, found['usage']['prompt_tokens']
  assert found['usage'] == {
    **dict(prompt_tokens=asked, completion_tokens=said, total_tokens=asked + said),
    'prompt_tokens_details': {'cached_tokens': 3},
  }


def test_a_stream():
  reply = asking(user('hi', stream=True, stream_options={'include_usage': True}))
  assert reply.headers['content-type'].startswith('text/event-stream')
  assert reply.headers['cache-control'] == 'no-cache'
  assert reply.headers['x-accel-buffering'] == 'no'
  *events, last = reply.events()
  assert {e['object'] for e in events} == {'chat.completion.chunk'}
  assert all(e['usage'] is None for e in events)
  assert last['choices'] == [] and last['usage']['completion_tokens'] == len(
    [*TOKENIZER.encode('one and two'), STOP]
  )
  found = joined([*events, last])
  assert found[0]['text'] == 'one and two' and found[0]['finish_reason'] == 'stop'
  assert 'usage' not in asking(user('hi', stream=True)).events()[0]


FIELDS = [
  {},
  {'n': 3, 'seed': 1},
  {'logprobs': True, 'top_logprobs': 2, 'n': 2},
  {'stop': ['d t']},
  {'stop': 'zzz', 'max_tokens': 2},
  {'max_tokens': 1},
  {'return_token_ids': True, 'n': 2},
  {'ignore_eos': True, 'max_tokens': 6},
  {'stop_token_ids': [TOKENIZER.encode('one and two')[2]]},
]


@pytest.mark.parametrize('body', FIELDS, ids=str)
@pytest.mark.parametrize('chat', [True, False])
def test_a_stream_says_what_the_whole_answer_says(body, chat):
  if not chat:
    body = {k: v for k, v in body.items() if k not in ('logprobs', 'top_logprobs')}
    body |= {'prompt': ['one', 'two']} | ({'logprobs': 2} if 'n' in body else {})
  path, base = (CHAT, user('hi')) if chat else (TEXT, {'model': 'm'})
  say = lambda request: [*TOKENIZER.encode('one and two 🎉'), 8, STOP if chat else TOKENIZER.eos_id]
  for columns in (1, 5):
    engine = lambda columns=columns: Engine(say, columns=columns)
    whole = asking({**base, **body}, path, engine=engine()).json()
    events = asking({**base, **body, 'stream': True}, path, engine=engine()).events()
    found = joined(events, chat=chat)
    assert [c['index'] for c in whole['choices']] == sorted(found)
    for choice in whole['choices']:
      one = found[choice['index']]
      text = choice['message']['content'] if chat else choice['text']
      assert (one['text'], one['finish_reason']) == (text, choice['finish_reason'])
      told = choice['logprobs']
      assert one['logprobs'] == (told['content' if chat else 'tokens'] if told else [])
      assert one['ids'] == choice.get('token_ids', [])


def test_half_a_character_waits_and_is_not_dropped_at_the_end():
  ids = TOKENIZER.encode('🎉')
  assert len(ids) == 4
  events = asking(user('hi', stream=True), say=lambda request: [*ids, STOP]).events()
  assert [c['delta'].get('content') for e in events for c in e['choices']] == ['', '🎉', None]
  half = asking(user('hi'), say=lambda request: [*ids[:2], STOP]).json()
  assert half['choices'][0]['message']['content'] == '\ufffd'


def test_usage_counts_ids():
  for body, said in [({'max_tokens': 1}, 1), ({'n': 4}, 24), ({'stop': 'an'}, 2)]:
    usage = asking(user('hi', **body)).json()['usage']
    assert usage['completion_tokens'] == said, body
  usage = asking({'prompt': ['one', 'two'], 'n': 3}, TEXT).json()['usage']
  prompts = [[*TOKENIZER.begin, *TOKENIZER.encode(text)] for text in ('one', 'two')]
  assert usage['prompt_tokens'] == sum(map(len, prompts)) and usage['completion_tokens'] == 36


@pytest.mark.parametrize('most', [0, 1, 4])
def test_a_prompt_with_its_log_probabilities(most):
  """As lm-eval asks: one entry for each token of the prompt, and one for each that was sampled."""
  half = TOKENIZER.encode('é')  # two tokens
  ids = [TOKENIZER.bos_id, *TOKENIZER.encode('the '), *half, *TOKENIZER.encode('x')]
  body = {'prompt': ids, 'echo': True, 'logprobs': 2, 'max_tokens': most}
  say = lambda request: [*TOKENIZER.encode('y'), TOKENIZER.eos_id]
  reply = asking(body, TEXT, say=say).json()
  (choice,), log = reply['choices'], reply['choices'][0]['logprobs']
  said = [*TOKENIZER.encode('y'), TOKENIZER.eos_id][:most]
  assert len(half) == 2 and reply['usage']['completion_tokens'] == len(said)
  assert choice['text'] == 'the éx' + 'y' * bool(most)
  assert choice['finish_reason'] == ('stop' if most == 4 else 'length')
  assert log['token_logprobs'] == [None, *(-float(i) for i in ids[1:]), *[-0.5] * len(said)]
  assert log['top_logprobs'][0] is None and all(len(top) == 2 for top in log['top_logprobs'][1:])
  assert log['text_offset'][0] == 0 and log['text_offset'][-1] == 5 + len(said)
  at = log['text_offset'][len(ids) - 3 : len(ids)]
  assert at == [4, 4, 5] and len(log['tokens']) == len(log['text_offset']) == len(ids) + len(said)
  events = asking({**body, 'stream': True, 'return_token_ids': True}, TEXT, say=say).events()
  assert ''.join(event['choices'][0]['text'] for event in events) == choice['text']
  parts = [event['choices'][0]['logprobs'] for event in events]
  for name, whole in log.items():
    assert [one for part in parts if part for one in part[name]] == whole


def test_completions_in_their_order():
  say = lambda request: [*request.prompt[-1:], *TOKENIZER.encode(str(request.choice))]
  say_and_end = lambda request: [*say(request), TOKENIZER.eos_id]
  body = {'prompt': [[5, 300], [301]], 'n': 2, 'echo': True}
  found = asking(body, TEXT, say=say_and_end).json()
  assert found['object'] == 'text_completion' and found['id'].startswith('cmpl-')
  texts = [TOKENIZER.decode([i]) for i in (300, 301)]
  wanted = [f'{text * 2}{i}' for text in texts for i in range(2)]
  wanted[0] = f'{TOKENIZER.decode([5, 300])}{texts[0]}0'
  wanted[1] = f'{TOKENIZER.decode([5, 300])}{texts[0]}1'
  assert [c['text'] for c in found['choices']] == wanted
  assert [c['index'] for c in found['choices']] == [0, 1, 2, 3]
  assert asking({'prompt': 'x'}, TEXT, say=lambda request: iter([9] * 99)).json()['usage'][
    'completion_tokens'
  ] == 16  # fmt: skip


def test_log_probabilities_of_both_endpoints():
  ids = TOKENIZER.encode('é two')
  say = lambda request: [*ids, STOP]
  found = asking(user('hi', logprobs=True, top_logprobs=1), say=say).json()['choices'][0]
  content = found['logprobs']['content']
  assert len(content) == len(ids)  # the stop token is left out
  assert b''.join(bytes(one['bytes']) for one in content).decode() == 'é two'
  assert content[0]['token'] == '\ufffd' and content[0]['logprob'] == -0.5
  top = content[-1]['top_logprobs'][0]
  assert set(top) == {'token', 'logprob', 'bytes'}
  end = lambda request: [*ids, TOKENIZER.eos_id]
  found = asking({'prompt': 'x', 'logprobs': 2}, TEXT, say=end).json()['choices'][0]
  told = found['logprobs']
  assert {len(told[name]) for name in told} == {len(ids)}
  assert told['tokens'][:2] == ['bytes:\\xc3', 'bytes:\\xa9'] and told['text_offset'][:3] == [
    0,
    0,
    1,
  ]
  assert len(told['top_logprobs'][-1]) == 2 and found['text'] == 'é two'


# --- tools -------------------------------------------------------------------------------------


def test_a_call_and_its_result():
  body = user('1 + 1?', tools=[TOOL])
  engine = Engine(lambda request: [*TOKENIZER.encode('hm'), *ADD, *TOKENIZER.encode('no')])
  choice = asking(body, engine=engine).json()['choices'][0]
  (call,) = choice['message']['tool_calls']
  assert choice['finish_reason'] == 'tool_calls' and choice['message']['content'] == 'hm'
  assert call['type'] == 'function' and json.loads(call['function']['arguments']) == {'a': 1}
  assert isinstance(call['function']['arguments'], str) and call['function']['name'] == 'add'
  (request,) = engine.asked
  prompt = TOKENIZER.decode(request.prompt, specials=True)
  assert '<|im_start|>system<|im_sep|>You can call these tools:\n{"type": "function"' in prompt
  talk = [*body['messages'], choice['message'],
          {'role': 'tool', 'tool_call_id': call['id'], 'content': '2'}]  # fmt: skip
  engine = Engine(speaker('2'))
  found = asking({'messages': talk, 'tools': [TOOL]}, engine=engine).json()
  assert found['choices'][0]['message'] == {
    **dict(role='assistant', content='2', refusal=None)
  } and found['choices'][0]['finish_reason'] == 'stop'  # fmt: skip
  prompt = TOKENIZER.decode(engine.asked[0].prompt, specials=True)
  assert (
    'hm<SEARCH_START>{"name": "add", "arguments": {"a": 1}}<SEARCH_END><|im_end|>'
    '<|im_start|>tool<|im_sep|><RESULT_START>2<RESULT_END><|im_end|>'
  ) in prompt
  events = asking({**body, 'stream': True}, say=lambda request: ADD).events()
  one = joined(events)[0]
  assert one['calls'] == [{'name': 'add', 'arguments': '{"a": 1}'}]
  assert one['finish_reason'] == 'tool_calls'
  none = asking({**body, 'tool_choice': 'none'}, say=lambda request: [*ADD, STOP]).json()
  assert 'tool_calls' not in none['choices'][0]['message']
  only = asking(body, say=lambda request: ADD).json()['choices'][0]['message']
  assert only['content'] is None and len(only['tool_calls']) == 1


def test_thoughts_are_told_apart():
  think, end = (TOKENIZER.special(name) for name in MARKS['thinking'])
  ids = [think, *TOKENIZER.encode('hm'), end, *TOKENIZER.encode('yes'), STOP]
  message = asking(user('hi'), say=lambda request: ids).json()['choices'][0]['message']
  assert (message['reasoning_content'], message['content']) == ('hm', 'yes')


# --- control tokens ----------------------------------------------------------------------------


def test_no_text_becomes_a_control_token():
  """In every field that a client can write."""
  texts = [one['text'] for one in HARD['strings']] + HARD['control_tokens']
  texts += [f'a{name}b{name}' for name in HARD['control_tokens']]
  call = lambda text: {
    'id': text, 'type': 'function', 'function': {'name': text or 'f', 'arguments': text}
  }  # fmt: skip
  messages = lambda text: [
    {'role': 'system', 'content': text, 'name': text},
    {'role': 'user', 'content': [{'type': 'text', 'text': text}] * 2, 'name': text},
    {'role': 'assistant', 'content': text, 'reasoning_content': text, 'tool_calls': [call(text)]},
    {'role': 'tool', 'content': text, 'tool_call_id': text},
    {'role': 'assistant', 'content': text},
    {'role': 'user', 'content': text},
  ]
  about = lambda text: {'name': (text or 'f')[:64], 'description': text, 'parameters': {text: text}}
  body = lambda text: {
    'messages': messages(text),
    'tools': [{'type': 'function', 'function': about(text)}],
    'stop': [text] if text else None,
    'user': text,
  }
  engine = Engine(speaker(), length=10**6, columns=8)
  calls = [('POST', CHAT, body(text)) for text in texts]
  calls += [('POST', TEXT, {'prompt': text}) for text in texts]
  assert {reply.status for reply in many(*calls, engine=engine)} == {200}
  controls = {*TOKENIZER.specials.values()}
  found = [[i for i in request.prompt if i in controls] for request in engine.asked]
  chats, completions = found[: len(texts)], found[len(texts) :]
  wanted = chats[texts.index(' ')]
  for text, one in zip(texts, chats, strict=True):
    assert one == wanted or text == '', text  # a thought of the empty text is none
  assert all(one == [*TOKENIZER.begin] for one in completions)


def test_an_id_may_be_a_control_token_where_ids_are_given():
  engine = Engine(speaker())
  assert asking({'prompt': [STOP, 5]}, TEXT, engine=engine).status == 200
  assert [*engine.asked[0].prompt] == [STOP, 5]


# --- paths, keys, limits -----------------------------------------------------------------------


def test_paths_and_methods():
  found = many(
    ('GET', '/v1/models', None),
    ('GET', '/v1/models/m', None),
    ('GET', '/v1/models/x%2f', None),
    ('GET', '/health', None),
    ('HEAD', '/health', None),
    ('GET', '/nothing', None),
    ('GET', '/v1/models/', None),
    ('GET', CHAT, None),
    ('POST', '/health', b'{}'),
    ('GET', '/', None),
    ('POST', CHAT, user('hi', model='gpt')),
    ('OPTIONS', CHAT, None, {'origin': 'http://evil'}),
  )
  models, model, other, health, head, nothing, empty, method, post, root, unknown, options = found
  listed = models.json()
  assert listed['object'] == 'list' and listed['data'] == [model.json()]
  told = {k: model.json()[k] for k in ('id', 'object', 'created', 'owned_by')}
  assert told == {'id': 'm', 'object': 'model', 'created': 7, 'owned_by': 'llm_jax'}
  assert (health.status, health.json()) == (200, {'status': 'ok'})
  assert head.status == 200 and head.content == b'' and head.headers['content-length'] == '15'
  assert other.status == empty.status == 404 and other.error()['code'] == 'model_not_found'
  assert nothing.status == 404 and nothing.error()['code'] == 'not_found'
  assert (method.status, method.headers['allow']) == (405, 'POST') and post.status == 405
  assert root.status == 404 and root.error()['code'] == 'not_found'
  assert (unknown.status, unknown.error()['code']) == (404, 'model_not_found')
  assert unknown.error()['param'] == 'model'
  assert options.status == 405 and 'access-control-allow-origin' not in options.headers
  ids = [reply.headers['x-request-id'] for reply in found]
  assert len({*ids}) == len(ids)
  for reply in (other, nothing, method, root):
    assert set(reply.error()) == {'message', 'type', 'param', 'code'}


def test_keys():
  secret = 'a-key-of-more-than-16'
  calls = [
    ('POST', CHAT, user('hi'), {'authorization': given})
    for given in (None, 'Bearer', 'Bearer x', f'Basic {secret}', secret, f'Bearer {secret}x',
                  'Bearer \xff', f'Bearer {secret}')
  ]  # fmt: skip
  lines = []
  found = many(*calls, ('GET', '/health', None), keys=Keys(['other' * 4, secret]), log=lines.append)
  *wrong, right, health = found
  for reply in wrong:
    assert (reply.status, reply.error()['code']) == (401, 'invalid_api_key')
    assert reply.headers['www-authenticate'] == 'Bearer'
    assert reply.error()['type'] == 'invalid_request_error'
  assert right.status == health.status == 200
  assert not any(secret in line for line in lines)


def test_prompts_and_answers_are_in_no_log():
  lines = []

  def breaks(*what):
    raise KeyError('what the user said')

  async def fails():
    async with serving(log=lines.append, say=breaks) as app:
      app._read = breaks
      return await send(app, 'POST', CHAT, user('a secret'))

  reply = asyncio.run(fails())
  assert reply.status == 500 and reply.error()['type'] == 'server_error'
  assert reply.headers['x-request-id'] in reply.error()['message']
  many(('POST', CHAT, user('a secret', x='\n[admin]')), ('GET', '/a%0d%0asecret', None),
       log=lines.append)  # fmt: skip
  assert len(lines) == 4 and not re.search('secret|one and|user said', '\n'.join(lines))
  assert 'KeyError at ' in lines[0] and all(line.isprintable() for line in lines)


def test_bodies():
  big = b'{"x": "' + b'a' * 5000 + b'"}'
  limits = Limits(body=4096, body_seconds=0.05)

  async def all_of_them():
    async with serving(limits=limits) as app:
      post = lambda *body, **how: send(app, 'POST', CHAT, *body, **how)
      never = lambda: asyncio.sleep(5)
      return [
        await post(big),
        await post(chunks=[big[:3000], big[3000:]]),
        await post(b'', headers={'content-length': str(10**12)}),
        await post(b'{}', headers={'content-type': 'text/plain'}),
        await post(b'{}', headers={'content-type': None}),
        await post(b'{"messages"'),
        await post(chunks=[b'{"mess', never]),
        await post(user('hi')),
      ]

  large, chunked, huge, plain, none, broken, slow, right = asyncio.run(all_of_them())
  for reply in (large, chunked, huge):
    assert (reply.status, reply.error()['code']) == (413, 'request_too_large')
  assert plain.status == none.status == 415 and broken.status == 400
  assert (slow.status, slow.error()['code']) == (408, 'request_timeout') and right.status == 200


def test_rates():
  found = many(*[('POST', CHAT, user('hi'))] * 4, limits=Limits(per_minute=2))
  assert [reply.status for reply in found] == [200, 200, 429, 429]
  error = found[-1].error()
  assert (error['type'], error['code']) == ('rate_limit_error', 'rate_limit_exceeded')
  assert 20 <= int(found[-1].headers['retry-after']) <= 60


def test_hosts():
  known = {'127.0.0.1', 'mine.example', '[::1]'}
  hosts = ('127.0.0.1:8000', 'MINE.example', '[::1]:8000', '[::1]', 'evil.example:8000', '')
  found = many(*[('GET', '/v1/models', None, {'host': host}) for host in hosts], hosts=known)
  assert [reply.status for reply in found] == [200, 200, 200, 200, 400, 400]
  assert found[-1].error()['code'] == 'unknown_host'


def test_metrics():
  remote = {'x-forwarded-for': '1.2.3.4'}
  found = many(
    ('POST', CHAT, user('hi', n=2)),
    ('POST', CHAT, user('hi', stream=True)),
    ('POST', CHAT, user('hi', n=99)),
    ('GET', '/metrics', None),
    ('GET', '/metrics', None, remote),
  )
  text = found[3].content.decode()
  assert found[3].headers['content-type'].startswith('text/plain; version=0.0.4')
  assert found[4].status == 401
  value = lambda name: float(re.search(rf'^{re.escape(name)} (\S+)$', text, re.MULTILINE)[1])
  ask = 'llm_jax_requests_total{endpoint="/v1/chat/completions",status="%d"}'
  assert value(ask % 200) == 2 and value(ask % 400) == 1
  assert value('llm_jax_generation_tokens_total') == 18
  assert value('llm_jax_prompt_tokens_total') == 2 * found[0].json()['usage']['prompt_tokens']
  assert value('llm_jax_cached_prompt_tokens_total') == 6
  assert value('llm_jax_finished_total{reason="stop"}') == 3
  assert value('llm_jax_time_to_first_token_seconds_count') == 2
  assert value('llm_jax_inter_token_latency_seconds_count') == 15
  assert value('llm_jax_request_duration_seconds_bucket{le="+Inf"}') == 2
  assert value('llm_jax_kv_cache_usage_ratio') == 0.25
  assert value('llm_jax_requests_running') == value('llm_jax_compilations_total') == 0
  assert re.search(r'llm_jax_build_info\{version="\S+",model="m"\} 1', text)
  for name, kind in re.findall(r'# TYPE (\S+) (\S+)', text):
    assert (kind == 'counter') == name.endswith('_total') or kind in ('gauge', 'histogram')


def test_the_page_runs_its_own_script_alone(tmp_path):
  file = tmp_path / 'chat.html'
  assert page.read(file) is None
  file.write_text('<style>a{}</style><script type="module">let a = 1\n</script>é')
  (reply,) = many(('GET', '/', None), pages={'/': page.read(file)})
  policy = reply.headers['content-security-policy']
  assert reply.status == 200 and reply.content.decode().endswith('é')
  assert "default-src 'self'" in policy and 'unsafe' not in policy and '*' not in policy
  assert policy.count("'sha256-") == 2 and "frame-ancestors 'none'" in policy

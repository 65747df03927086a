"""Over sockets: the official client, raw bytes, and how the server ends."""

import asyncio
import contextlib
import http.client
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor as Pool
from typing import Literal

import pytest

from llm_jax.serving.driver import Driver
from llm_jax.serving.limits import Limits
from llm_jax.serving.server import Server, listen
from llm_jax.types import BadInput
from tests.serving.stand_in import TOKENIZER, Engine, application, obedient, speaker, user

pytest.importorskip('uvicorn')
CHAT = '/v1/chat/completions'
LIMITS = Limits(body=100_000, body_seconds=1.0)
WORD = TOKENIZER.encode('x')[0]


@contextlib.contextmanager
def running(say=None, *, engine=None, grace=5.0, **how):
  """A server in a thread: (port, engine, a function that ends it, a dict that gets its error)."""
  engine, sock, told = engine or Engine(say or speaker()), listen('127.0.0.1', 0), {}
  began = threading.Event()

  async def serve():
    limits = how.get('limits')
    server = Server(grace=grace, limits=limits, say=lambda line: began.set())
    app, served = application(engine, failed=server.fail, **how)
    told.update(loop=asyncio.get_running_loop(), server=server, app=app)
    await server.run(app, [served], sock)

  def run():
    try:
      asyncio.run(serve())
    except BaseException as error:
      told['error'] = error

  thread = threading.Thread(target=run)
  thread.start()
  assert began.wait(10)
  end = lambda: told['loop'].call_soon_threadsafe(told['server'].end)
  try:
    yield sock.getsockname()[1], engine, end, told
  finally:
    with contextlib.suppress(RuntimeError):  # it has ended by itself
      end()
      end()
    thread.join(15)
    assert not thread.is_alive()


@pytest.fixture(scope='module')
def server():
  def say(request):
    if request.allow is not None:
      return obedient(request)
    text = TOKENIZER.decode(request.prompt)
    answer = 'one and two 🎉' if 'endless' not in text else 'x' * 200
    return [*TOKENIZER.encode(answer), *request.stop[:1]]

  with running(engine=Engine(say, columns=2, length=1000), limits=LIMITS) as (
    port,
    engine,
    _,
    told,
  ):
    yield port, engine, told['app']


def post(port, body, path=CHAT, **headers):
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
  raw = body if isinstance(body, bytes) else json.dumps(body).encode()
  connection.request('POST', path, raw, {'content-type': 'application/json', **headers})
  reply = connection.getresponse()
  return reply, reply.read()


def raw(port, *parts):
  """The response to bytes."""
  with socket.create_connection(('127.0.0.1', port), timeout=20) as sock:
    for part in parts:
      with contextlib.suppress(OSError):
        sock.sendall(part)
    found = b''
    with contextlib.suppress(OSError):
      while part := sock.recv(65536):
        found += part
    return found


# --- the official client -----------------------------------------------------------------------


@pytest.fixture(scope='module')
def client(server):
  openai = pytest.importorskip('openai')
  with openai.OpenAI(
    base_url=f'http://127.0.0.1:{server[0]}/v1', api_key='x', max_retries=0, timeout=20
  ) as client:
    yield client


def test_the_official_client_lists_and_chats(client):
  assert [model.id for model in client.models.list()] == ['m']
  assert client.models.retrieve('m').owned_by == 'llm_jax'
  asked = dict(model='m', messages=[{'role': 'user', 'content': 'hi'}])
  whole = client.chat.completions.create(**asked, n=2, seed=1, logprobs=True, top_logprobs=2)
  assert [c.message.content for c in whole.choices] == ['one and two 🎉'] * 2
  assert len(whole.choices[0].logprobs.content) == len(TOKENIZER.encode('one and two 🎉'))
  assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
  with client.chat.completions.create(
    **asked, stream=True, stream_options={'include_usage': True}
  ) as stream:
    *chunks, last = stream
  assert ''.join(c.choices[0].delta.content or '' for c in chunks) == 'one and two 🎉'
  assert chunks[0].choices[0].delta.role == 'assistant'
  assert chunks[-1].choices[0].finish_reason == 'stop' and last.usage == type(last.usage)(
    **{**whole.usage.model_dump(), 'completion_tokens': last.usage.completion_tokens,
       'total_tokens': last.usage.total_tokens}
  )  # fmt: skip
  with client.chat.completions.stream(**asked) as stream:  # the strict helper
    for _ in stream:
      pass
    assert stream.get_final_completion().choices[0].message.content == 'one and two 🎉'
  text = client.completions.create(model='m', prompt=['a', 'b'], max_tokens=2, extra_body={
    'top_k': 5, 'return_token_ids': True})  # fmt: skip
  assert [c.index for c in text.choices] == [0, 1] and text.choices[0].finish_reason == 'length'
  assert len(text.choices[0].token_ids) == 2


def test_the_official_client_gets_our_errors(client):
  import openai

  wrong = [
    (dict(model='m', messages=[]), openai.BadRequestError, 'messages', 'invalid_value'),
    (dict(model='x', messages=[]), openai.NotFoundError, 'model', 'model_not_found'),
    (dict(model='m', messages=[{'role': 'user', 'content': 'x ' * 2000}]),
     openai.BadRequestError, 'messages', 'context_length_exceeded'),
    (dict(model='m', messages=[{'role': 'user', 'content': 'a'}], stop='a', response_format={
      'type': 'json_object'}), openai.BadRequestError, 'stop', 'unsupported_parameter'),
  ]  # fmt: skip
  for asked, kind, param, code in wrong:
    with pytest.raises(kind) as found:
      client.chat.completions.create(**asked)
    assert (found.value.param, found.value.code) == (param, code)
    assert found.value.request_id.startswith('req_')


def test_the_official_client_parses_into_a_model_of_pydantic(client):
  pydantic = pytest.importorskip('pydantic')

  class Toy(pydantic.BaseModel):
    color: Literal['red', 'blue'] = pydantic.Field(description='of most of it')

  class Pet(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=8)
    kind: Literal['cat', 'dog']
    age: int | None
    toys: list[Toy] = pydantic.Field(max_length=2)

  asked = dict(model='m', messages=[{'role': 'user', 'content': 'obey'}], seed=3)
  found = client.chat.completions.parse(**asked, response_format=Pet, n=3)
  assert all(isinstance(choice.message.parsed, Pet) for choice in found.choices)
  with client.chat.completions.stream(**asked, response_format=Pet) as stream:
    for _ in stream:
      pass
    again = stream.get_final_completion().choices[0].message
  assert again.parsed == found.choices[0].message.parsed
  tool = {'type': 'function', 'function': {'name': 'adopt', 'parameters': Pet.model_json_schema()}}
  named = {'type': 'function', 'function': {'name': 'adopt'}}
  for choice in ('required', named):
    called = client.chat.completions.create(**asked, tools=[tool], tool_choice=choice).choices[0]
    (call,) = called.message.tool_calls
    assert called.finish_reason == 'tool_calls' and call.function.name == 'adopt'
    assert Pet.model_validate_json(call.function.arguments)


def test_a_client_that_closes_its_stream(client, server):
  port, engine, app = server
  cancelled = engine.cancelled
  engine._pause = 0.01
  try:
    stream = client.chat.completions.create(
      model='m', messages=[{'role': 'user', 'content': 'endless'}], stream=True
    )
    next(iter(stream))
    stream.close()
    end = time.monotonic() + 1
    while engine.busy or app.driver.open:
      assert time.monotonic() < end
      time.sleep(0.01)
  finally:
    engine._pause = 0.0
  assert engine.cancelled == cancelled + 1


# --- bytes -------------------------------------------------------------------------------------


def test_bytes_that_are_no_request_do_no_harm(server):
  port, *_ = server
  head = f'POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n'.encode()
  head += b'content-type: application/json\r\n'
  assert b'400' in raw(port, b'\x16\x03\x01\x00\xa5 nonsense\r\n\r\n').split(b'\r\n')[0]
  assert raw(port, head + b'content-length: 5\r\ncontent-length: 6\r\n\r\n{}').startswith(
    b'HTTP/1.1 400'
  )
  huge = raw(port, head + b'content-length: 200000\r\n\r\n', b'x' * 200_000)
  assert b'413' in huge.split(b'\r\n')[0] and b'request_too_large' in huge
  endless = b'%x\r\n' % 50_000 + b'x' * 50_000 + b'\r\n'
  chunked = raw(port, head + b'transfer-encoding: chunked\r\n\r\n', *[endless] * 4, b'0\r\n\r\n')
  assert b'413' in chunked.split(b'\r\n')[0]
  slow = raw(port, head + b'content-length: 50\r\n\r\n{"mess')
  assert b'408' in slow.split(b'\r\n')[0] and b'request_timeout' in slow
  with socket.create_connection(('127.0.0.1', port)) as half:
    half.sendall(head[:40])
  expects = raw(port, head + b'expect: 100-continue\r\ncontent-length: 999999999\r\n\r\n')
  assert b'413' in expects.split(b'\r\n')[0] and b'100 Continue' not in expects
  reply, body = post(port, user('hi'))
  assert reply.status == 200 and json.loads(body)['choices'][0]['finish_reason'] == 'stop'


def test_slow_heads_and_too_many_connections():
  head = f'POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n'.encode()
  body = json.dumps(user('hi')).encode()
  whole = head + b'content-length: %d\r\n\r\n' % len(body) + body
  limits = Limits(connections=3, head_seconds=0.5)
  connect = lambda port: socket.create_connection(('127.0.0.1', port), timeout=20)
  with running(limits=limits) as (port, *_), contextlib.ExitStack() as stack:
    slow = [stack.enter_context(connect(port)) for _ in range(3)]
    for n, sock in enumerate(slow[1:]):  # the first says nothing at all
      sock.sendall(whole[: 5 + n * 40])
    refused = raw(port, whole)
    assert refused.startswith(b'HTTP/1.1 503') and b'retry-after' in refused
    assert json.loads(refused.partition(b'\r\n\r\n')[2])['error']['code'] == 'too_many_connections'
    began = time.monotonic()
    time.sleep(0.2)
    slow[2].sendall(whole[45:46])  # a byte now and then gains no time
    for sock in slow:
      found = b''.join(iter(lambda sock=sock: sock.recv(65536), b''))
      assert found.startswith(b'HTTP/1.1 408') and b'"request_timeout"' in found
    assert time.monotonic() - began < 2
    with connect(port) as sock:  # a later request of a connection has the same time
      for pause in (0.0, 0.7):  # between requests there is no hurry
        time.sleep(pause)
        sock.sendall(whole[:50])
        time.sleep(0.2)
        sock.sendall(whole[50:])
        found = b''
        while not found.endswith(b'}}}'):
          found += sock.recv(65536)
        assert found.startswith(b'HTTP/1.1 200')
      sock.sendall(whole[:50])
      assert b''.join(iter(lambda: sock.recv(65536), b'')).startswith(b'HTTP/1.1 408')


def test_one_connection_for_several_requests(server):
  connection = http.client.HTTPConnection('127.0.0.1', server[0], timeout=20)
  for body, status in [
    (user('hi'), 200),
    ({'messages': 3}, 400),
    (user('a', stream=True), 200),
  ] * 2:
    connection.request('POST', CHAT, json.dumps(body), {'content-type': 'application/json'})
    reply = connection.getresponse()
    content = reply.read()
    assert reply.status == status and reply.getheader('x-request-id').startswith('req_')
    assert not body.get('stream') or content.endswith(b'data: [DONE]\n\n')


# --- ends --------------------------------------------------------------------------------------


def streamed(port, number):
  reply, body = post(port, user(f'endless {number}', stream=True, max_tokens=150))
  return reply.status, body


def test_running_streams_end_properly_and_new_requests_are_told_so():
  engine = Engine(lambda request: itertools.repeat(WORD), slots=8, pause=0.005)
  with (
    running(engine=engine) as (port, _, end, told),
    Pool() as pool,
  ):
    streams = [pool.submit(streamed, port, i) for i in range(4)]
    while engine.running < 4:
      time.sleep(0.005)
    end()
    while not told['app'].draining:
      time.sleep(0.005)
    reply, body = post(port, user('hi'))
    assert reply.status == 503 and json.loads(body)['error']['code'] == 'shutting_down'
    assert reply.getheader('retry-after')
    for stream in streams:
      status, body = stream.result()
      assert status == 200 and body.endswith(b'data: [DONE]\n\n')
  assert 'error' not in told


def test_streams_that_outlast_the_grace_are_told_why():
  engine = Engine(lambda request: itertools.repeat(WORD), pause=0.05)
  with (
    running(engine=engine, grace=0.1) as (port, _, end, told),
    Pool() as pool,
  ):
    stream = pool.submit(streamed, port, 0)
    while engine.running < 1:
      time.sleep(0.005)
    end()
    status, body = stream.result()
    assert status == 200 and b'"code":"shutting_down"' in body and b'[DONE]' not in body
  assert 'error' not in told


def test_an_engine_that_fails_ends_the_server_with_its_error(monkeypatch):
  monkeypatch.setattr('llm_jax.serving.server.FAILED_SECONDS', 0.3)

  def breaks(request):
    yield WORD
    raise RuntimeError('device lost')

  with running(breaks) as (port, _, _, told):
    _, body = streamed(port, 0)
    assert b'"error"' in body and b'device lost' not in body
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=5)
    connection.request('GET', '/health')
    assert connection.getresponse().status == 503
  assert 'device lost' in str(told['error'])


def test_a_model_that_cannot_be_loaded_ends_the_server_with_one_line():
  async def serve():
    server = Server()

    def build():
      raise BadInput('artifact: damaged')

    app, served = application(Engine(speaker()))
    served.driver = Driver(build, failed=server.fail)
    await server.run(app, [served], listen('127.0.0.1', 0))

  with pytest.raises(BadInput, match='artifact: damaged'):
    asyncio.run(serve())


def test_an_address_that_cannot_be_had():
  with listen('127.0.0.1', 0) as sock:
    port = sock.getsockname()[1]
    with pytest.raises(BadInput, match=f'cannot listen on 127.0.0.1, port {port}: .* config.port'):
      listen('127.0.0.1', port)
  for host in ('256.1.1.1', 'a b', ''.join(['x'] * 300)):
    with pytest.raises(BadInput, match='cannot listen'):
      listen(host, 0)


PROCESS = """
import asyncio, itertools, sys
from tests.serving import stand_in
from llm_jax.serving.server import Server, listen

async def main():
  sock = listen('127.0.0.1', 0)
  engine = stand_in.Engine(lambda request: itertools.repeat(30), pause=0.005)
  server = Server(grace=10, say=lambda line: print(sock.getsockname()[1], flush=True))
  app, served = stand_in.application(engine, failed=server.fail)
  await server.run(app, [served], sock)

asyncio.run(main())
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_ends_the_process_in_peace(number):
  command = [sys.executable, '-c', PROCESS]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    port = int(process.stdout.readline())
    with Pool() as pool:
      streams = [pool.submit(streamed, port, i) for i in range(6)]  # two of them wait for a slot
      time.sleep(0.2)
      process.send_signal(number)
      found = [stream.result() for stream in streams]
    assert process.wait(15) == 0
  assert all(status == 200 and body.endswith(b'data: [DONE]\n\n') for status, body in found)

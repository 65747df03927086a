"""Clients who leave, who read slowly, and who are too many; engines that fail; servers that end."""

import asyncio
import itertools
import json
import time

import pytest

from llm_jax.serving import app as app_module
from llm_jax.serving import driver as driver_module
from llm_jax.serving.errors import ApiError
from llm_jax.serving.limits import Limits
from llm_jax.types import BadInput
from tests.serving.stand_in import (
  STOP,
  TOKENIZER,
  Engine,
  send,
  serving,
  speaker,
  user,
)

CHAT = '/v1/chat/completions'
ENDLESS = {'max_tokens': 200, 'stream': True}
WORD = TOKENIZER.encode('x')[0]


def forever(request):
  return itertools.repeat(WORD)


async def until(holds, seconds=5.0):
  start = time.monotonic()
  while not holds():
    assert time.monotonic() - start < seconds, 'it did not come to be'
    await asyncio.sleep(0.005)


@pytest.mark.parametrize('stream', [True, False])
@pytest.mark.parametrize('queued', [True, False])
def test_a_client_who_leaves_makes_room_at_once(stream, queued):
  async def scenario():
    engine = Engine(forever, slots=1, pause=0.002)
    async with serving(engine=engine) as app:
      leaves = [asyncio.Event() for _ in range(2)]
      post = lambda i: send(
        app, 'POST', CHAT, user('hi', max_tokens=240, stream=stream), leaves=leaves[i]
      )
      first = asyncio.create_task(post(0))
      await until(lambda: engine.running == 1)
      second = asyncio.create_task(post(1))
      await until(lambda: engine.waiting == 1)
      gone = 1 if queued else 0
      leaves[gone].set()
      reply = await (second if queued else first)
      assert not reply.whole
      await until(lambda: engine.waiting == 0, 1.0)
      assert engine.cancelled == 1 and engine.running == 1
      leaves[1 - gone].set()
      await (first if queued else second)
      await until(lambda: engine.running == 0 and app.driver.open == 0, 1.0)
      engine._say = speaker()
      assert (await send(app, 'POST', CHAT, user('hi'))).json()['usage']['completion_tokens'] == 6
      text = app.metrics.text()
      assert (
        'llm_jax_finished_total{reason="abort"} 2' in text and 'status="499"' in text
      ) or stream

  asyncio.run(scenario())


def test_a_client_who_leaves_before_its_body_is_there():
  async def scenario():
    async with serving() as app:

      async def receive():
        return {'type': 'http.disconnect'}

      sent = []
      scope = {'type': 'http', 'method': 'POST', 'path': CHAT, 'client': None,
               'headers': [(b'content-type', b'application/json')]}  # fmt: skip
      await app(scope, receive, lambda message: sent.append(message))
      assert sent == [] and app.driver.open == 0

  asyncio.run(scenario())


def test_whoever_reads_too_slowly_is_given_up_and_others_go_on(monkeypatch):
  monkeypatch.setattr(driver_module, 'PATIENCE', 0.05)

  async def scenario():
    engine = Engine(forever, slots=2, columns=2, pause=0.002)
    async with serving(engine=engine, limits=Limits(unread=32)) as app:
      never = asyncio.Event()
      slow = asyncio.create_task(send(app, 'POST', CHAT, user('hi', **ENDLESS), stalls=never.wait))
      other = await send(app, 'POST', CHAT, user('hi', max_tokens=100))
      assert other.json()['usage']['completion_tokens'] == 100
      await until(lambda: engine.cancelled == 1)
      reply = await asyncio.wait_for(slow, 10)
      assert not reply.whole and app.driver.open == 0

  asyncio.run(scenario())


def test_a_full_queue_says_so_and_takes_all_choices_or_none():
  async def scenario():
    engine = Engine(forever, slots=1, waiting=2, pause=0.002)
    async with serving(engine=engine) as app:
      leave = asyncio.Event()
      running = [
        asyncio.create_task(send(app, 'POST', CHAT, user('hi', **ENDLESS), leaves=leave))
        for _ in range(2)
      ]
      await until(lambda: engine.running + engine.waiting == 2)
      reply = await send(app, 'POST', CHAT, user('hi', n=2))
      assert (reply.status, reply.error()['code']) == (429, 'queue_full')
      assert reply.error()['type'] == 'rate_limit_error' and reply.headers['retry-after'] == '1'
      await asyncio.sleep(0.02)
      assert engine.running + engine.waiting == 2
      leave.set()
      await asyncio.gather(*running)

  asyncio.run(scenario())


def test_an_answer_that_takes_too_long():
  async def scenario():
    engine = Engine(forever, pause=0.01)
    async with serving(engine=engine, limits=Limits(seconds=0.1)) as app:
      whole = await send(app, 'POST', CHAT, user('hi', max_tokens=200))
      assert (whole.status, whole.error()['code']) == (500, 'timeout')
      stream = await send(app, 'POST', CHAT, user('hi', **ENDLESS))
      assert stream.whole and stream.status == 200
      *_, last, rest = stream.content.split(b'\n\n')
      assert json.loads(last.removeprefix(b'data: '))['error']['code'] == 'timeout' and rest == b''
      await until(lambda: engine.running == 0)

  asyncio.run(scenario())


def test_comments_keep_a_stream_open_while_nothing_comes(monkeypatch):
  monkeypatch.setattr(app_module, 'PING', 0.01)

  async def scenario():
    engine = Engine(speaker(), pause=0.05)
    async with serving(engine=engine) as app:
      reply = await send(app, 'POST', CHAT, user('hi', stream=True))
      assert b': ping\n\n' in reply.content and len(reply.events()) == 7

  asyncio.run(scenario())


def test_an_error_of_one_request_is_no_error_of_others():
  async def scenario():
    engine = Engine(speaker())
    submit = engine.submit

    def refuses(request):
      if request.seed == 13:
        raise BadInput('request.stop: cannot')
      return submit(request)

    engine.submit = refuses
    async with serving(engine=engine) as app:
      reply = await send(app, 'POST', CHAT, user('hi', seed=13))
      assert reply.status == 400 and reply.error()['message'] == 'stop: cannot'
      assert (await send(app, 'POST', CHAT, user('hi'))).status == 200

  asyncio.run(scenario())


def test_an_engine_that_cannot_go_on():
  async def scenario():
    failures = []

    def breaks(request):
      yield from [WORD] * 3
      raise RuntimeError('device lost')

    async with serving(breaks) as app:
      app.driver._failed = failures.append
      stream = await send(app, 'POST', CHAT, user('hi', **ENDLESS))
      assert b'"error":{"message":"the engine has failed"' in stream.content and stream.whole
      assert b'[DONE]' not in stream.content and b'device lost' not in stream.content
      assert app.driver.state == 'failed' and 'device lost' in str(failures[0])
      for method, path in (('GET', '/health'), ('POST', CHAT)):
        reply = await send(app, method, path, user('hi'))
        assert (reply.status, reply.error()['type']) == (503, 'server_error')
      assert app.driver.open == 0

  asyncio.run(scenario())


def test_loading_and_ending():
  async def scenario():
    async with serving() as app:
      app.driver.state = 'loading'
      reply = await send(app, 'POST', CHAT, user('hi'))
      assert (reply.status, reply.error()['code']) == (503, 'loading')
      assert int(reply.headers['retry-after']) > 0
      assert (await send(app, 'GET', '/health')).error()['code'] == 'loading'
      app.driver.state = 'ready'
      app.draining = True
      for method, path in (('GET', '/health'), ('POST', CHAT)):
        reply = await send(app, method, path, user('hi'))
        assert (reply.status, reply.error()['code']) == (503, 'shutting_down')

  asyncio.run(scenario())


def test_a_step_that_does_not_come_back(monkeypatch):
  monkeypatch.setattr(app_module, 'STUCK', 0.05)

  async def scenario():
    engine = Engine(forever, pause=0.3)
    async with serving(engine=engine) as app:
      leave = asyncio.Event()
      task = asyncio.create_task(send(app, 'POST', CHAT, user('hi', **ENDLESS), leaves=leave))
      await until(lambda: app.driver.stuck > 0.06)
      assert (await send(app, 'GET', '/health')).error()['code'] == 'stuck'
      leave.set()
      await task

  asyncio.run(scenario())


def test_many_clients_of_whom_some_leave():
  """Every answer is its own, nobody waits forever, and no slot is lost."""

  def say(request):
    return [*TOKENIZER.encode(f'{sum(request.prompt)} ' * (1 + request.seed % 5)), STOP]

  async def scenario():
    engine = Engine(say, slots=4, columns=3, waiting=200)
    async with serving(engine=engine) as app:
      alone = {}
      texts = ['one', 'two', 'three']
      for text in texts:
        for seed in range(5):
          reply = await send(app, 'POST', CHAT, user(text, seed=seed))
          alone[text, seed] = reply.json()['choices'][0]['message']['content']
      assert len({*alone.values()}) == 15

      async def client(number):
        text, seed, leave = texts[number % 3], number % 5, asyncio.Event()
        if number % 5 == 3:
          asyncio.get_running_loop().call_later(0.001 * (number % 7), leave.set)
        reply = await send(app, 'POST', CHAT, user(text, seed=seed, stream=True), leaves=leave)
        if not reply.whole:
          return leave.is_set()
        said = ''.join(e['choices'][0]['delta'].get('content', '') for e in reply.events())
        return said == alone[text, seed]

      assert all(await asyncio.gather(*map(client, range(100))))
      await until(lambda: not engine.busy and app.driver.open == 0, 1.0)

  asyncio.run(scenario())


def test_an_error_has_its_type():
  assert ApiError(429, 'x').type == 'rate_limit_error' and ApiError(503, 'x').type == 'server_error'

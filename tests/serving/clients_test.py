"""The clients of the benchmark notice what a server does that it must not."""

import asyncio
import itertools
import json

import pytest

from experiments.benchmarks import clients, serve
from tests.serving.stand_in import TOKENIZER, Engine

pytest.importorskip('uvicorn')
FIELDS = {'max_tokens': 8}


def test_they_hear_what_is_said_and_leave_as_they_mean_to():
  from tests.serving.server_test import running

  word = TOKENIZER.encode('x')[0]
  engine = Engine(lambda request: itertools.repeat(word), slots=4, pause=0.001)
  with running(engine=engine) as (port, *_):
    found, seconds = asyncio.run(
      clients.load(port, [[5, 6], [7]], FIELDS, clients=6, requests=40, abort=0.3)
    )
    assert seconds > 0 and serve.metric(port, 'llm_jax_requests_running') == 0
  left = [one for one in found if one.left]
  whole = [one for one in found if not one.left]
  assert len(found) == 40 and 3 < len(left) < 25 and not any(one.wrong for one in found)
  assert all(one.text == 'x' * 8 and one.tokens == 8 and len(one.gaps) <= 7 for one in whole)
  told = serve.told(found, {0: 'x' * 8, 1: 'y'})
  assert told['differ_from_alone'] == sum(one.prompt for one in whole) and told['wrong'] == {}
  assert told['whole'] == len(whole) and told['first_token_ms']['p50'] > 0


def chunk(text, finish=None, id='a', usage=None):
  return {
    'id': id, 'usage': usage, 'choices': [{'text': text, 'finish_reason': finish, 'index': 0}]
  }  # fmt: skip


USAGE = {'completion_tokens': 1, 'prompt_tokens': 1, 'prompt_tokens_details': {'cached_tokens': 0}}
STREAMS = {
  'an event after': [chunk('a', 'stop'), '[DONE]', chunk('b')],
  'text after the end': [chunk('a', 'stop'), chunk('b'), '[DONE]'],
  '0 ends': [chunk('a'), '[DONE]'],
  '2 ends': [chunk('a', 'stop'), chunk('', 'stop'), '[DONE]'],
  'done False': [chunk('a', 'stop')],
  '2 ids': [chunk('a'), chunk('', 'stop', 'b'), '[DONE]'],
  'the prompt was counted': [chunk('a', 'stop', usage={**USAGE, 'prompt_tokens': 2}), '[DONE]'],
  'broken': [{'error': {'message': 'broken'}}],
}


@pytest.mark.parametrize('wrong', STREAMS)
def test_they_notice(wrong):
  async def answer(reader, writer):
    await reader.readuntil(b'\r\n\r\n')
    writer.write(b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n')
    for event in STREAMS[wrong]:
      text = event if isinstance(event, str) else json.dumps(event)
      raw = f'data: {text}\n\n'.encode()
      writer.write(b'%x\r\n%s\r\n' % (len(raw), raw))
    writer.write(b'0\r\n\r\n')
    writer.close()

  async def scenario():
    async with await asyncio.start_server(answer, '127.0.0.1', 0) as server:
      port = server.sockets[0].getsockname()[1]
      return await clients.ask(port, 0, [5], FIELDS)

  assert wrong in ' '.join(asyncio.run(scenario()).wrong)

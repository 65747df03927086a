"""What people did with answers is kept, once, until it is deleted."""

import asyncio
import json
import subprocess
import sys

import pytest

from llm_jax.serving.feedback import Feedback
from llm_jax.types import BadInput
from tests.serving.stand_in import send, serving


def event(client='c1', **changes):
  return {
    **dict(model='m', client=client, conversation='talk', item='a1', page='0f', turn=1, store=True),
    'messages': [{'role': 'user', 'content': 'hi \u2028'}],
    'answer': {'id': 'a1', 'text': 'yes', 'tool_calls': []},
    'sampling': {'temperature': 0.5},
    'value': {'act': 'thumb', 'grade': 1, 'tags': ['kind'], 'comment': 'ok'},
    **changes,
  }


def test_events_are_kept_once_and_deleted(tmp_path):
  feedback = Feedback(tmp_path / 'new' / 'events.sqlite')

  async def scenario():
    async with serving(feedback=feedback) as app:
      post = lambda body: send(app, 'POST', '/events', body)
      assert (await send(app, 'GET', '/events')).json()['enabled'] is True
      first = (await post(event())).json()
      again = (await post(event())).json()
      assert first == {'object': 'event', 'seq': 1, 'new': True}
      assert again == {'object': 'event', 'seq': 1, 'new': False}
      assert (await post(event('c2', conversation='other'))).json()['seq'] == 2
      (kept, _) = feedback.events()
      wanted = event()
      for name in ('client', 'conversation', 'item', 'messages', 'answer', 'sampling', 'value'):
        assert kept[name] == wanted[name], name
      assert kept['kind'] == 'chat' and kept['model'] == 'm' and kept['fingerprint'] == 'f00'
      assert kept['at'].endswith('Z') and len(kept['at']) == 24
      gone = await send(app, 'DELETE', '/events/talk')
      assert gone.json() == {'id': 'talk', 'object': 'events.deleted', 'deleted': 1}
      assert [one['conversation'] for one in feedback.events()] == ['other']
      assert [name for name, _ in feedback.deleted()] == ['talk']
      assert (await post(event('c3'))).json()['seq'] == 3
      assert (await send(app, 'DELETE', '/events/')).status == 400
      assert len([*feedback.events()]) == 2

  asyncio.run(scenario())
  feedback.close()


@pytest.mark.parametrize(
  'changes, param',
  [
    ({'client': ''}, 'client'),
    ({'client': 'x' * 201}, 'client'),
    ({'conversation': None}, 'conversation'),
    ({'store': None}, 'store'),
    ({'value': {'act': 'thumb', 'grade': 1.0}}, 'event'),
    ({'messages': [*event()['messages'], {'role': 'assistant', 'content': 'yes'}]}, 'event'),
    ({'answer': {'id': 'a1', 'text': 'yes', 'others': 'x'}}, 'event'),
    ({'answer': {'id': 'a1', 'text': 'x' * 200_001}}, 'event'),
    ({'store': 'yes'}, 'store'),
    ({'tools': [{'type': 'x'}]}, 'tools[0].type'),
    ({'turn': -1}, 'turn'),
    ({'messages': []}, 'messages'),
    ({'messages': [{'role': 'x', 'content': ''}]}, 'messages[0].role'),
    ({'answer': 'yes'}, 'answer'),
    ({'answer': {}}, 'answer'),
    ({'answer': {'text': 'yes'}}, 'answer'),
    ({'value': None}, 'value.act'),
    ({'value': {'act': 'shout'}}, 'value.act'),
    ({'value': {'act': ['thumb']}}, 'value.act'),
    ({'value': {'act': 'thumb', 'grade': 2}}, 'value.grade'),
    ({'value': {'act': 'thumb', 'grade': True}}, 'value.grade'),
    ({'value': {'act': 'thumb', 'grade': False}}, 'value.grade'),
    ({'value': {'act': 'thumb', 'grade': 1, 'tags': 'x'}}, 'value.tags'),
    ({'value': {'act': 'edit'}}, 'value.text'),
    ({'value': {'act': 'pick', 'shown': [1]}}, 'value.shown'),
    ({'value': {'act': 'regenerate'}}, 'value.kept'),
    ({'sampling': 3}, 'sampling'),
    ({'model': 'x'}, 'model'),
  ],
)
def test_what_is_no_event_is_named(tmp_path, changes, param):
  feedback = Feedback(tmp_path / 'events.sqlite')

  async def scenario():
    async with serving(feedback=feedback) as app:
      return await send(app, 'POST', '/events', event(**changes))

  reply = asyncio.run(scenario())
  assert reply.status in (400, 404) and reply.error()['param'] == param
  assert not [*feedback.events()]


def test_without_a_file_nothing_is_kept():
  async def scenario():
    async with serving() as app:
      assert (await send(app, 'GET', '/events')).json()['enabled'] is False
      return await send(app, 'POST', '/events', event())

  assert asyncio.run(scenario()).status == 404


WRITER = """
import json, sys
from llm_jax.serving.feedback import Feedback
feedback = Feedback(sys.argv[1])
body = json.loads(sys.argv[2])
for i in range(10**6):
  feedback.add({**body, 'client': f'c{i}'}, {'model': 'm'})
  print(i, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path):
  file = tmp_path / 'events.sqlite'
  command = [sys.executable, '-c', WRITER, str(file), json.dumps(event())]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
    told = [int(next(writer.stdout)) for _ in range(20)]
    writer.kill()
  kept = {one['client'] for one in Feedback(file).events()}
  assert {f'c{i}' for i in told} <= kept


def test_a_file_that_cannot_be_opened(tmp_path):
  (tmp_path / 'text').write_text('this is no database, and it is long enough to look like one' * 99)
  with pytest.raises(BadInput, match=r'config.events .* cannot be opened'):
    Feedback(tmp_path / 'text')

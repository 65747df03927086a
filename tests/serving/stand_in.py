"""A model that says what it is told to, served without a device or a socket."""

import asyncio
import collections
import contextlib
import itertools
import json
import queue
import time

import numpy as np

from llm_jax.sampling.request import Event
from llm_jax.sampling.spoken_text import Spoken
from llm_jax.serving.app import App
from llm_jax.serving.conversation import Conversation
from llm_jax.serving.driver import Driver
from llm_jax.serving.limits import Limits
from llm_jax.serving.openai import About
from llm_jax.serving.served import Served
from llm_jax.text.tokenizer import Tokenizer

WORDS = ['user assistant system tool', 'one and two', 'the answer is 42'] * 20
TOKENIZER = Tokenizer.train(WORDS, vocab_size=310)
LENGTH = 256
STOP = TOKENIZER.special('<|im_end|>')


class Engine:
  """Has the interface of the engine; `say(request)` gives the ids of an answer."""

  def __init__(self, say, *, slots=4, waiting=64, columns=1, pause=0.0, length=LENGTH):
    self._say, self._slots, self._most, self.length = say, slots, waiting, length
    self._columns, self._pause = columns, pause
    self._numbers = itertools.count()
    self._queue, self._rows, self._news = collections.deque(), {}, []
    self.compilations, self.cache_usage, self.asked, self.cancelled = 0, 0.25, [], 0
    self._begun = set()

  @property
  def running(self):
    return len(self._rows)

  @property
  def waiting(self):
    return len(self._queue)

  @property
  def busy(self):
    return bool(self._rows or self._queue or self._news)

  def submit(self, request):
    request.check(TOKENIZER.vocab_size, self.length)
    if len(self._queue) >= self._most:
      raise queue.Full
    id = next(self._numbers)
    self.asked.append(request)
    self._queue.append((id, request))
    return id

  def cancel(self, id):
    before = self.running + self.waiting
    self._rows.pop(id, None)
    self._queue = collections.deque(one for one in self._queue if one[0] != id)
    if self.running + self.waiting < before:
      self.cancelled += 1
      self._news.append(Event(id, finish='abort'))

  def step(self):
    if self._pause:
      time.sleep(self._pause)
    while self._queue and len(self._rows) < self._slots:
      id, request = self._queue.popleft()
      spoken = Spoken(TOKENIZER, request.stop_strings, after=request.prompt[-1])
      self._rows[id] = (request, iter(self._say(request)), spoken, itertools.count(1))
    for id, (request, ids, spoken, count) in [*self._rows.items()]:
      said, finish = [], None
      for i in itertools.islice(ids, self._columns):
        said.append(i)
        spoken.push([i])
        if i in request.stop or spoken.stopped:
          finish = 'stop'
        elif next(count) == request.max_new:
          finish = 'length'
        if finish:
          break
      assert said, 'the text of a test ended before its request'
      first = request.scores_prompt and id not in self._begun
      self._begun.add(id)
      likely = tuple((n, -0.5 - n) for n in range(request.top_logprobs or 0))
      prompt = tuple((-float(i), likely) for i in request.prompt[1:]) if first else None
      top = tuple(tuple((i + n, -0.5 - n) for n in range(request.top_logprobs or 0)) for i in said)
      self._news.append(
        Event(id, tuple(said), (-0.5,) * len(said), top=top, finish=finish, cached=3, prompt=prompt)
      )
      if finish:
        del self._rows[id]
    news, self._news = self._news, []
    return news


def speaker(text='one and two', *more):
  """An engine's `say`: the text, then more ids, then the end of the turn or of the document."""
  return lambda request: [*TOKENIZER.encode(text), *more, *request.stop[:1]]


def obedient(request):
  """An engine's `say`: any ids that the request lets come, by its seed."""
  draw = np.random.default_rng([request.seed, request.choice])
  while True:
    i = int(draw.choice(np.flatnonzero(request.allow.mask())))
    yield i
    if i not in request.stop:
      request.allow.advance(i)


class Reply:
  """A response."""

  def __init__(self):
    self.status, self.headers, self.parts, self.whole = None, {}, [], False

  @property
  def content(self):
    return b''.join(self.parts)

  def json(self):
    return json.loads(self.content)

  def error(self):
    return self.json()['error']

  def events(self):
    """The events of a stream, as JSON; the last one has to be [DONE]."""
    *events, done, rest = self.content.split(b'\n\n')
    assert rest == b'' and done == b'data: [DONE]', self.content[-200:]
    return [json.loads(e.removeprefix(b'data: ')) for e in events if not e.startswith(b':')]


async def send(app, method, path, body=None, *, headers=(), chunks=None, leaves=None, stalls=None):
  """Calls an application as a server would.

  Args:
    body: bytes as they are, anything else as JSON.
    chunks: the body in parts, in place of `body`.
    leaves: an asyncio.Event; the client is gone when it is set.
    stalls: awaited before each part of the response is taken.
  """
  raw = body if isinstance(body, bytes) else b'' if body is None else json.dumps(body).encode()
  parts, reply = list(chunks or [raw]), Reply()
  given = {'host': '127.0.0.1', 'content-type': 'application/json', **dict(headers)}
  if chunks is None and raw:
    given.setdefault('content-length', str(len(raw)))
  scope = {
    'type': 'http', 'method': method, 'path': path, 'client': ('127.0.0.1', 1),
    'headers': [(k.encode(), str(v).encode()) for k, v in given.items() if v is not None],
  }  # fmt: skip
  ended = asyncio.Event()

  async def receive():
    if parts:
      part = parts.pop(0)
      if callable(part):
        part = await part()
      return {'type': 'http.request', 'body': part, 'more_body': bool(parts)}
    waits = [asyncio.create_task(event.wait()) for event in (ended, leaves) if event is not None]
    try:
      await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
      for one in waits:
        one.cancel()
    return {'type': 'http.disconnect'}

  async def take(message):
    if message['type'] == 'http.response.start':
      reply.status = message['status']
      reply.headers = {k.decode(): v.decode() for k, v in message['headers']}
      return
    if stalls is not None:
      await stalls()
    reply.parts.append(message['body'])
    if not message.get('more_body'):
      reply.whole = True
      ended.set()

  await app(scope, receive, take)
  return reply


def application(
  engine,
  *,
  template='llm_jax',
  limits=None,
  tokenizer=TOKENIZER,
  failed=lambda error: None,
  tools=None,
  **how,
):
  """(an application with one model, `m`, the model); of an event loop."""
  limits = limits or Limits()
  driver = Driver(
    lambda: engine,
    capacity=engine._slots + engine._most,
    unread=limits.unread,
    failed=failed,
  )
  most = limits.prompt or engine.length
  about = About(tokenizer.vocab_size, engine.length, most, limits.choices)
  served = Served('m', driver, 7, 'f00', Conversation(tokenizer, template, about, tools=tools))
  app = App([served], limits=limits, **how)
  app.engine, app.driver = engine, driver
  return app, served


@contextlib.asynccontextmanager
async def serving(say=None, *, engine=None, **how):
  """`application`, with its engine running."""
  app, served = application(engine or Engine(say or speaker()), **how)
  served.driver.start()
  await served.driver.ready.wait()
  try:
    yield app
  finally:
    await served.driver.stop()


def asking(body, path='/v1/chat/completions', **how):
  """A response of a server that is there for this request."""

  async def one():
    async with serving(**how) as app:
      return await send(app, 'POST', path, body)

  return asyncio.run(one())


def user(text='hi', **fields):
  """The body of a chat request."""
  return {'model': 'm', 'messages': [{'role': 'user', 'content': text}], **fields}

"""The server as an ASGI application: which path does what, and what goes wrong on the way.

It needs no framework. The paths are few, and what frameworks answer to errors, to large bodies and
to clients who leave is not what OpenAI's clients expect.
"""

import asyncio
import contextlib
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from llm_jax import __version__
from llm_jax.sampling.request import Request
from llm_jax.serving import openai
from llm_jax.serving.answers import Answer, Choice
from llm_jax.serving.calling import Calling
from llm_jax.serving.conversation import refused
from llm_jax.serving.driver import Reading
from llm_jax.serving.errors import ApiError
from llm_jax.serving.exchange import Exchange, Left, encoded, event
from llm_jax.serving.feedback import Feedback
from llm_jax.serving.fields import Fields, parsed, shown
from llm_jax.serving.limits import Keys, Limits, Rate, is_json
from llm_jax.serving.metrics import Metrics, Watch
from llm_jax.serving.served import Served, gauges
from llm_jax.serving.tokens import logprobs, tokens
from llm_jax.types import BadInput

PING = 15.0  # seconds without an event after which a comment keeps proxies from closing a stream
QUIET = ('/health', '/metrics')  # asked for every few seconds, and in no log
STUCK = 120.0  # seconds of one step after which an engine is taken for dead


class App:
  """Answers requests.

  Args:
    served: the models; the first answers where no model is named.
    limits: of requests.
    keys: who may ask.
    metrics_key: another key, for metrics alone.
    hosts: names by which the server may be called; None for any.
    pages: path -> a page and its headers.
    feedback: where events of the page go, or None.
    log: is given a line for each response.

  Attributes:
    draining: whether the server ends, and takes no new requests.
    active: requests that are being answered.
  """

  def __init__(
    self,
    served: Sequence[Served],
    *,
    limits: Limits | None = None,
    keys: Keys | None = None,
    metrics_key: Keys | None = None,
    hosts: Collection[str] | None = None,
    pages: Mapping[str, tuple[bytes, Mapping[str, str]]] = {},
    feedback: Feedback | None = None,
    log: Callable[[str], None] = lambda line: None,
  ) -> None:
    self._served = {one.name: one for one in served}
    self._first = served[0]
    self._limits, self._keys = limits or Limits(), keys or Keys(())
    self._metrics_key, self._rate = metrics_key or Keys(()), Rate(self._limits.per_minute)
    self._hosts, self._pages, self._feedback, self._log = hosts, pages, feedback, log
    self.draining, self.active = False, 0
    self.metrics = Metrics(gauges(served), [*self._served], __version__)
    chat = lambda x: self._generate(x, chat=True)
    texts = lambda x: self._generate(x, chat=False)
    self._routes: dict[str, dict[str, Callable[[Exchange], Awaitable[None]]]] = {
      '/v1/chat/completions': {'POST': chat},
      '/v1/completions': {'POST': texts},
      '/v1/models': {'GET': self._models},
      '/health': {'GET': self._health},
      '/metrics': {'GET': self._metrics},
      '/events': {'GET': self._has_events, 'POST': self._event},
      '/': {'GET': self._show_page},
      '/tokens': {'GET': self._show_page, 'POST': self._tokens},
    }

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    """Answers one request, whatever goes wrong."""
    if scope['type'] != 'http':
      return
    x, began = Exchange(scope, receive, send), time.monotonic()
    endpoint = x.path if x.path in self._routes else 'other'
    try:
      if x.path.startswith('/v1/models/'):
        endpoint = '/v1/models'
      with contextlib.suppress(Left):
        await self._routed(x)
    except ApiError as error:
      await self._failed(x, error)
    except Exception as error:
      self._log(f'{x.id} {_where(error)}')
      message = f'the server has failed at this request; its id is {x.id}'
      await self._failed(x, ApiError(500, message, code='internal_error'))
    finally:
      status = str(x.status or 499)  # 499: nobody was there any more
      self.metrics.requests.add(1, endpoint, status)
      if endpoint not in QUIET:
        self._log(f'{x.id} {endpoint} {status} {time.monotonic() - began:.3f} s')

  async def _failed(self, x: Exchange, error: ApiError) -> None:
    with contextlib.suppress(OSError, asyncio.TimeoutError):
      async with asyncio.timeout(5):  # nobody may read it
        await x.fail(error)

  async def _routed(self, x: Exchange) -> None:
    methods = self._routes.get(x.path)
    if methods is None and x.path.startswith('/v1/models/'):
      methods = {'GET': self._model}
    if methods is None and x.path.startswith('/events/'):
      methods = {'DELETE': self._delete_events}
    if methods is None:
      raise ApiError(404, f'there is nothing at {shown(x.path)}', code='not_found')
    handler = methods.get('GET' if x.method == 'HEAD' else x.method)
    if handler is None:
      headers = {'allow': ', '.join(methods)}
      raise ApiError(405, f'use {headers["allow"]}', code='method_not_allowed', headers=headers)
    if self._hosts is not None and x.path not in ('/health', '/metrics'):
      self._check_host(x)
    await handler(x)

  def _check_host(self, x: Exchange) -> None:
    """Refuses pages of other sites that call this machine by a name of their own."""
    host = x.headers.get('host', '')
    name = host.rsplit(':', 1)[0] if not host.endswith(']') else host
    if name.lower() not in (self._hosts or ()):
      raise ApiError(
        400, f'this server is not called {shown(name)}; set config.hosts', code='unknown_host'
      )

  # --- models, health, metrics, page -------------------------------------------------------------

  async def _models(self, x: Exchange) -> None:
    self._keys.check(x.headers.get('authorization'))
    await x.json(200, {'object': 'list', 'data': [one.listed() for one in self._served.values()]})

  async def _model(self, x: Exchange) -> None:
    self._keys.check(x.headers.get('authorization'))
    await x.json(200, self._find(x.path.removeprefix('/v1/models/')).listed())

  def _find(self, name: str | None) -> Served:
    if name is None:
      return self._first
    if name not in self._served:
      known = ', '.join(self._served)
      message = f'there is no model {shown(name)}; choose from: {known}'
      raise ApiError(404, message, code='model_not_found', param='model')
    return self._served[name]

  async def _health(self, x: Exchange) -> None:
    self._check_running()
    for one in self._served.values():
      one.driver.check()
      if one.driver.stuck > STUCK:
        raise ApiError(503, 'the engine does not come back', code='stuck')
    await x.json(200, {'status': 'ok'})

  def _check_running(self) -> None:
    if self.draining:
      headers = {'connection': 'close'}
      raise ApiError(503, 'the server is ending', code='shutting_down', headers=headers)

  async def _metrics(self, x: Exchange) -> None:
    if self._metrics_key or not x.is_local:
      if not self._metrics_key:
        raise ApiError(401, 'metrics are for this machine alone', code='invalid_api_key')
      self._metrics_key.check(x.headers.get('authorization'))
    content = self.metrics.text().encode()
    await x.respond(200, content, 'text/plain; version=0.0.4; charset=utf-8')

  async def _show_page(self, x: Exchange) -> None:
    if x.path not in self._pages:
      raise ApiError(404, 'this server has no page', code='not_found')
    content, headers = self._pages[x.path]
    await x.respond(200, content, 'text/html; charset=utf-8', headers)

  async def _tokens(self, x: Exchange) -> None:
    self._rate.check(self._keys.check(x.headers.get('authorization')))
    found = parsed(await self._body(x))
    served = self._find(openai.model_of(found))
    served.driver.check()
    assert served.conversation is not None  # of a driver that runs
    body, conversation = Fields(found), served.conversation
    said = await asyncio.to_thread(tokens, conversation, body)
    if body.flag('logprobs'):
      # A text follows the begin of a document; a conversation has written it.
      begin = () if said['trained'] else conversation.tokenizer.begin
      ids, most = [*begin, *said['ids']], conversation.about.positions
      said['logprobs'] = (await logprobs(served.driver, ids, most))[len(begin) :]
    await x.json(200, said)

  # --- feedback ----------------------------------------------------------------------------------

  async def _has_events(self, x: Exchange) -> None:
    self._keys.check(x.headers.get('authorization'))
    await x.json(200, {'object': 'events', 'enabled': self._feedback is not None})

  def _log_of_events(self) -> Feedback:
    if self._feedback is None:
      raise ApiError(404, 'this server keeps no feedback; set config.events', code='not_found')
    return self._feedback

  async def _event(self, x: Exchange) -> None:
    self._keys.check(x.headers.get('authorization'))
    feedback = self._log_of_events()
    found = parsed(await self._body(x))
    model = self._find(openai.model_of(found))
    about = {'model': model.name, 'fingerprint': model.fingerprint}
    await x.json(200, await asyncio.to_thread(feedback.add, found, about))

  async def _delete_events(self, x: Exchange) -> None:
    self._keys.check(x.headers.get('authorization'))
    feedback, conversation = self._log_of_events(), x.path.removeprefix('/events/')
    if not conversation:
      raise ApiError(400, 'name the conversation whose events are to go: DELETE /events/<id>')
    count = await asyncio.to_thread(feedback.delete, conversation)
    await x.json(200, {'id': conversation, 'object': 'events.deleted', 'deleted': count})

  async def _body(self, x: Exchange) -> bytes:
    if not is_json(x.headers):
      raise ApiError(
        415, 'send JSON, with content-type: application/json', code='unsupported_media_type'
      )
    return await x.body(self._limits.body, self._limits.body_seconds)

  # --- answers -----------------------------------------------------------------------------------

  async def _generate(self, x: Exchange, *, chat: bool) -> None:
    key = self._keys.check(x.headers.get('authorization'))
    self._check_running()
    self._rate.check(key)
    raw = await self._body(x)
    self.active += 1
    try:
      began = time.monotonic()
      # Long texts take their time; the streams of others go on meanwhile.
      served, asked, requests, echoes = await asyncio.to_thread(self._read, raw, chat, key)
      work = asyncio.create_task(self._answer(x, served, asked, requests, echoes, began))
      gone = asyncio.create_task(x.left())
      try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
      finally:
        for task in (work, gone):
          if not task.done():
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)
      if not work.cancelled():
        work.result()
    finally:
      self.active -= 1

  def _read(
    self, raw: bytes, chat: bool, key: str
  ) -> tuple[Served, openai.Asked, list[Request], list[str]]:
    """What a body asks of whom."""
    found = parsed(raw)
    served = self._find(openai.model_of(found))
    served.driver.check()
    conversation = served.conversation
    assert conversation is not None  # of a driver that runs
    asked = openai.asked(found, conversation.about, chat=chat)
    prompts = conversation.prompts(asked)
    stop = openai.ends(asked, conversation.stop_ids(asked))
    hold = conversation.hold(asked, prompts, stop)
    requests = openai.requests(asked, prompts, conversation.about, stop=stop, salt=key, hold=hold)
    echoes = [*map(conversation.text, prompts)] if asked.echo else []
    return served, asked, requests, echoes

  async def _answer(
    self,
    x: Exchange,
    served: Served,
    asked: openai.Asked,
    requests: Sequence[Request],
    echoes: Sequence[str],
    began: float,
  ) -> None:
    conversation = served.conversation
    assert conversation is not None
    hear = lambda request: conversation.listener(asked, request.prompt, request.stop)
    choices = [Choice(i, request, hear(request)) for i, request in enumerate(requests)]
    answer = Answer(
      asked,
      choices,
      conversation.tokenizer,
      model=served.name,
      created=int(time.time()),
      echoes=echoes,
    )
    try:
      reading = await served.driver.submit(requests)
    except BadInput as error:
      raise refused(error) from None
    if conversation.caller and conversation.runs(asked):
      reading = Calling(
        reading, served.driver, choices, conversation.tokenizer, conversation.caller
      )
    self.metrics.queued.observe(time.monotonic() - began)
    watch = Watch(self.metrics, began)
    try:
      async with asyncio.timeout(self._limits.seconds):
        await (self._stream if asked.stream else self._whole)(x, answer, reading, watch)
    except TimeoutError:
      message = f'the answer took longer than {self._limits.seconds:g} s'
      raise ApiError(500, message, code='timeout') from None
    finally:
      reading.close()
      watch.finish(answer)

  async def _stream(
    self, x: Exchange, answer: Answer, reading: Reading | Calling, watch: Watch
  ) -> None:
    await x.begin_stream()
    opening = b''.join(map(event, answer.opening()))
    if opening:
      await x.write(opening)
    while any(choice.finish is None for choice in answer.choices):
      events = await reading.read(PING)
      parts = []
      for number, one in events:
        watch.see(number, one)
        parts += map(event, answer.chunks(answer.choices[number], one))
      await x.write(b''.join(parts) if events else b': ping\n\n')
    await x.write(b''.join(map(event, answer.closing())) + b'data: [DONE]\n\n')
    await x.end()

  async def _whole(
    self, x: Exchange, answer: Answer, reading: Reading | Calling, watch: Watch
  ) -> None:
    answer.opening()
    while any(choice.finish is None for choice in answer.choices):
      for number, one in await reading.read(PING):
        watch.see(number, one)
        answer.chunks(answer.choices[number], one)
    await x.respond(200, encoded(answer.whole()), 'application/json')


def _where(error: BaseException) -> str:
  """Kind and place of an error; not its words, which may repeat what somebody wrote."""
  frames = traceback.extract_tb(error.__traceback__)[-4:]
  places = [f'{frame.filename.rpartition("llm_jax/")[2]}:{frame.lineno}' for frame in frames]
  return f'{type(error).__name__} at {" > ".join(places)}'

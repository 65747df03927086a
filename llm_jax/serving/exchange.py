"""One request and its response, over ASGI: a body within limits, JSON, a stream of events."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from llm_jax.serving.errors import ApiError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# A body that is too large is read and thrown away up to here, so that its sender hears the answer.
_DRAINED, _DRAIN_SECONDS = 64 * 2**20, 5.0


class Left(Exception):
  """The client has closed the connection."""


class Exchange:
  """A request, and what is sent in answer to it.

  Attributes:
    id: of the exchange, in the header `x-request-id` and in the log.
    method, path: of the request.
    headers: by their names in small letters.
    status: of the response, once it has begun.
    streams: whether the response is a stream of events.
  """

  def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    self.id = f'req_{secrets.token_hex(12)}'
    self.method, self.path = scope['method'], scope['path']
    pairs = scope['headers']
    self.headers = {name.decode('latin-1').lower(): text.decode('latin-1') for name, text in pairs}
    self.status: int | None = None
    self.streams = False
    self._receive, self._send = receive, send
    self._client = scope.get('client')
    self._whole = False

  @property
  def is_local(self) -> bool:
    """Whether the request comes from this machine, and through no proxy that says so."""
    passed_on = {'forwarded', 'x-forwarded-for', 'x-real-ip'} & self.headers.keys()
    return not passed_on and bool(self._client) and self._client[0] in ('127.0.0.1', '::1')

  async def body(self, most: int, seconds: float) -> bytes:
    """The body of the request.

    Args:
      most: its bytes.
      seconds: until it has to be there.

    Raises:
      ApiError: it is too large, or comes too slowly.
      Left: the client is gone.
    """
    refusal = ApiError(413, f'the body is larger than {most} bytes', code='request_too_large')
    length = self.headers.get('content-length', '')
    if length.isdigit() and int(length) > most:
      if 'expect' not in self.headers and int(length) <= _DRAINED:
        await self._drain()
      raise refusal
    parts, size = [], 0
    try:
      async with asyncio.timeout(seconds):
        async for part in self._parts():
          size += len(part)
          if size > most:
            break
          parts.append(part)
    except TimeoutError:
      raise ApiError(
        408,
        f'the body did not come within {seconds:g} s',
        code='request_timeout',
        headers={'connection': 'close'},
      ) from None
    if size > most:
      await self._drain()
      raise refusal
    return b''.join(parts)

  async def _parts(self) -> AsyncIterator[bytes]:
    more = not self._whole
    while more:
      message = await self._receive()
      if message['type'] == 'http.disconnect':
        raise Left
      more = message.get('more_body', False)
      self._whole = not more
      yield message.get('body', b'')

  async def _drain(self) -> None:
    size = 0
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(_DRAIN_SECONDS):
        async for part in self._parts():
          size += len(part)
          if size > _DRAINED:
            return

  async def left(self) -> None:
    """Returns when the client has closed the connection."""
    while (await self._receive())['type'] != 'http.disconnect':
      pass

  # --- the response ------------------------------------------------------------------------------

  async def respond(
    self, status: int, content: bytes, kind: str, headers: Mapping[str, str] | None = None
  ) -> None:
    """Sends a whole response."""
    await self._begin(status, {'content-type': kind, 'content-length': len(content)}, headers)
    await self._send({'type': 'http.response.body', 'body': b'' if self._bare else content})

  async def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
    """Sends a whole response of JSON."""
    await self.respond(status, encoded(value), 'application/json', headers)

  async def fail(self, error: ApiError) -> None:
    """Sends an error; in a stream that has begun as its last event."""
    if self.status is None:
      await self.json(error.status, error.body(), error.headers)
    elif self.streams:
      await self.write(event(error.body()))
      await self.end()

  async def begin_stream(self) -> None:
    """Begins a stream of events."""
    self.streams = True
    kind = {'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache'}
    await self._begin(200, {**kind, 'x-accel-buffering': 'no'})

  async def write(self, content: bytes) -> None:
    """Sends a part of a stream; waits while the client reads too slowly."""
    await self._send({'type': 'http.response.body', 'body': content, 'more_body': True})

  async def end(self) -> None:
    """Ends a stream."""
    await self._send({'type': 'http.response.body', 'body': b''})

  @property
  def _bare(self) -> bool:
    return self.method == 'HEAD'

  async def _begin(
    self, status: int, own: Mapping[str, Any], more: Mapping[str, str] | None = None
  ) -> None:
    self.status = status
    headers = {**own, **(more or {}), 'x-request-id': self.id, 'x-content-type-options': 'nosniff'}
    pairs = [(name.encode(), str(value).encode('latin-1')) for name, value in headers.items()]
    await self._send({'type': 'http.response.start', 'status': status, 'headers': pairs})


def encoded(value: Any) -> bytes:
  """JSON in ASCII, which no reader of lines can divide in the wrong place."""
  return json.dumps(value, separators=(',', ':'), allow_nan=False).encode()


def event(value: Any) -> bytes:
  r"""An event of a stream.

  >>> event({'a': '\u2028'})
  b'data: {"a":"\\u2028"}\n\n'
  """
  return b'data: ' + encoded(value) + b'\n\n'

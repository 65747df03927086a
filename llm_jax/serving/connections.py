"""Connections within limits: how many there are, and how long the head of a request may take.

Bodies have their own deadline (`Exchange.body`), and so have answers.
"""

import contextlib
from typing import Any

from llm_jax.serving.errors import ApiError
from llm_jax.serving.exchange import encoded

_REFUSED_SECONDS = 1.0  # for which a connection too many is kept, so that its client hears why


def protocol(base: Any, *, most: int, head_seconds: float) -> Any:
  """uvicorn's protocol of HTTP, within limits.

  Args:
    base: the protocol.
    most: connections at a time.
    head_seconds: until the head of a request has to be there, from the connection or from the first
      byte after another request.
  """
  full = ApiError(
    503,
    f'{most} connections are open; try again',
    code='too_many_connections',
    headers={'retry-after': '1'},
  )
  slow = ApiError(
    408, f'the head of the request did not come within {head_seconds:g} s', code='request_timeout'
  )
  counted: set[Any] = set()

  class Guarded(base):
    """A connection."""

    def connection_made(self, transport: Any) -> None:
      super().connection_made(transport)
      self._timer: Any = None
      if len(counted) < most:
        counted.add(self)
        self._wait(head_seconds, slow)
      else:
        self._wait(_REFUSED_SECONDS, full)

    def data_received(self, data: bytes) -> None:
      if self not in counted:
        self._refuse(full)
        return
      super().data_received(data)
      if self._answers:
        self._stop()
      elif self._timer is None:
        self._wait(head_seconds, slow)

    def connection_lost(self, exc: Any) -> None:
      counted.discard(self)
      self._stop()
      super().connection_lost(exc)

    @property
    def _answers(self) -> bool:
      return self.cycle is not None and not self.cycle.response_complete

    def _wait(self, seconds: float, error: ApiError) -> None:
      self._timer = self.loop.call_later(seconds, self._refuse, error)

    def _stop(self) -> None:
      if self._timer is not None:
        self._timer.cancel()
        self._timer = None

    def _refuse(self, error: ApiError) -> None:
      self._stop()
      if not self._answers and not self.transport.is_closing():
        with contextlib.suppress(OSError):
          self.transport.write(_response(error))
        self.transport.close()

  return Guarded


def _response(error: ApiError) -> bytes:
  """An error as the bytes of a whole response, after which the connection is closed."""
  content = encoded(error.body())
  headers = {
    'content-type': 'application/json',
    'content-length': str(len(content)),
    'connection': 'close',
    **error.headers,
  }
  lines = [f'HTTP/1.1 {error.status} {_WORDS[error.status]}']
  lines += [f'{name}: {value}' for name, value in headers.items()]
  return '\r\n'.join([*lines, '', '']).encode() + content


_WORDS = {408: 'Request Timeout', 503: 'Service Unavailable'}

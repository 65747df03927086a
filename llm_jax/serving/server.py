"""Runs the application: it listens at once, answers when the models are ready, and ends in peace.

SIGTERM and SIGINT end it. Streams that run may go on for some seconds, and new requests are told to
come back later. An engine that cannot go on ends it too, with an error.
"""

import asyncio
import contextlib
import importlib
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llm_jax.clean.extra import library
from llm_jax.serving import connections
from llm_jax.serving.app import App
from llm_jax.serving.errors import ApiError
from llm_jax.serving.limits import Limits
from llm_jax.serving.served import Served
from llm_jax.types import BadInput

FAILED_SECONDS = 2.0  # for which an engine's failure can be seen in /health


def listen(host: str, port: int) -> socket.socket:
  """A socket that takes connections.

  Raises:
    BadInput: the address cannot be had.
  """
  try:
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)
  except (OSError, OverflowError) as error:
    why = getattr(error, 'strerror', None) or error
    raise BadInput(
      f'serve: cannot listen on {host}, port {port}: {why}; choose another config.port'
    ) from None


class Server:
  """Runs an application until it is told to end.

  Args:
    grace: seconds that running answers have to end.
    limits: of connections.
    say: is given lines for the person who started it.
  """

  def __init__(
    self,
    *,
    grace: float = 30.0,
    limits: Limits | None = None,
    say: Callable[[str], None] = lambda line: None,
  ) -> None:
    # Found missing here, before any model is loaded.
    self._uvicorn = library('uvicorn', 'job serve', 'serve')
    self._grace, self._limits, self._say = grace, limits or Limits(), say
    self._error: BaseException | None = None
    self._ending = asyncio.Event()
    self._at_once = False

  def fail(self, error: BaseException) -> None:
    """Ends the server with an error; of the loop alone."""
    self._error = self._error or error
    self._ending.set()

  def end(self) -> None:
    """Ends the server; a second call does not wait for running answers."""
    self._at_once = self._ending.is_set()
    self._ending.set()

  async def run(self, app: App, served: Sequence[Served], sock: socket.socket) -> None:
    """Serves until `end` or a signal.

    Raises:
      BaseException: that of an engine which failed.
    """
    base: Any = self._uvicorn.Server

    class Quiet(base):
      """Signals are ours."""

      @contextlib.contextmanager
      def capture_signals(self) -> Iterator[None]:
        yield

    auto: Any = importlib.import_module('uvicorn.protocols.http.auto')
    limits = self._limits
    guarded = connections.protocol(
      auto.AutoHTTPProtocol, most=limits.connections, head_seconds=limits.head_seconds
    )
    config = self._uvicorn.Config(
      app,
      http=guarded,
      lifespan='off',
      log_config=None,
      log_level='critical',
      access_log=False,
      server_header=False,
      proxy_headers=False,
      ws='none',
      timeout_keep_alive=30,
      timeout_graceful_shutdown=2,
    )
    web = Quiet(config)
    with self._signals():
      running = asyncio.create_task(web.serve(sockets=[sock]))
      for one in served:
        one.driver.start()
      try:
        await self._until_end(app, served, running)
      finally:
        web.should_exit = True
        with contextlib.suppress(Exception):
          await running
        for one in served:
          await one.driver.stop()
    if self._error is not None:
      raise self._error

  async def _until_end(self, app: App, served: Sequence[Served], running: Any) -> None:
    ready = asyncio.create_task(self._ready(served))
    ending = asyncio.create_task(self._ending.wait())
    await asyncio.wait({ending, running}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    app.draining = True
    loaded = all(one.driver.engine is not None for one in served)
    seconds = self._grace if self._error is None else FAILED_SECONDS * loaded
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(seconds):
        while not self._at_once and (app.active or self._error is not None):
          await asyncio.sleep(0.02)
    for one in served:
      one.driver.end_all(ApiError(503, 'the server is ending', code='shutting_down'))
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(2):
        while app.active:
          await asyncio.sleep(0.02)

  async def _ready(self, served: Sequence[Served]) -> None:
    for one in served:
      await one.driver.ready.wait()
    if all(one.driver.state == 'ready' for one in served):
      self._say('ready')

  @contextlib.contextmanager
  def _signals(self) -> Iterator[None]:
    loop, known = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
    try:
      for number in known:
        loop.add_signal_handler(number, self.end)
    except (ValueError, RuntimeError):  # in another thread than the main one, as in tests
      known = ()
    try:
      yield
    finally:
      for number in known:
        loop.remove_signal_handler(number)

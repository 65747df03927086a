"""A thread that owns an engine, and the queues through which the event loop talks to it.

All that is done with the engine happens in this thread. The loop sends requests and cancellations;
events come back to the loop, in order, and wait there for whoever reads them. Nobody waits for a
reader: one that leaves too much unread is given up, and its request is cancelled.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from llm_jax.sampling.request import Event, Request
from llm_jax.serving.errors import ApiError
from llm_jax.types import BadInput

PATIENCE = 1.0  # seconds after which a reader who leaves too much unread is slow, and not the loop


class Reading:
  """Requests that were accepted together; their events are read here.

  Attributes:
    ids: of the requests in the engine.
    open: how many of them have not ended.
  """

  def __init__(
    self, driver: 'Driver', ids: Sequence[int], unread: int, reader: asyncio.Task[Any] | None
  ) -> None:
    self.ids, self.open, self._reader = ids, len(ids), reader
    self._driver, self._most, self._unread = driver, unread * len(ids), 0
    self._events: list[tuple[int, Event]] = []
    self._came = asyncio.Event()
    self._error: ApiError | None = None
    self._since = time.monotonic()  # when the reader last took what there was

  @property
  def ready(self) -> bool:
    """Whether something can be read at once."""
    return bool(self._events or self._error)

  async def read(self, seconds: float) -> list[tuple[int, Event]]:
    """(number of the request, event) of all that has come; [] if nothing does for so long.

    Raises:
      ApiError: the engine failed, or the server ends.
    """
    if not self._events and self._error is None:
      self._came.clear()
      with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
          await self._came.wait()
    found, self._events, self._unread = self._events, [], 0
    self._since = time.monotonic()
    if not found and self._error is not None:
      raise self._error
    return found

  def put(self, number: int, event: Event) -> None:
    """Takes an event; of the loop alone."""
    self._events.append((number, event))
    self._unread += len(event.tokens)
    self.open -= event.finish is not None
    self._came.set()
    is_slow = self._unread > self._most and time.monotonic() - self._since > PATIENCE
    if is_slow and self.open:
      self.close()
      self._events.clear()
      self.fail(ApiError(500, 'the answer was not read in time', code='slow_reader'))
      if self._reader is not None:  # it may be stuck in sending what nobody takes
        self._reader.cancel()

  def fail(self, error: ApiError) -> None:
    """Ends it by an error that its reader gets."""
    self._error = error
    self._came.set()

  def close(self) -> None:
    """Nobody reads any more; what is left to do is not done."""
    self._driver.forget(self)


class Driver:
  """Runs the engine of one model.

  Args:
    build: makes a `llm_jax.sampling.engine.Engine`, in the thread that will use it; it returns when
      the engine is warm.
    capacity: requests that run or wait at a time.
    unread: tokens that may wait for a reader.
    failed: is called in the loop, with the error, when the engine cannot go on.

  Attributes:
    engine: once it is ready.
    state: 'loading', 'ready', 'failed' or 'stopped'.
    ready: set when the state is another than 'loading'.
  """

  def __init__(
    self,
    build: Callable[[], Any],
    *,
    capacity: int = 264,
    unread: int = 1024,
    failed: Callable[[BaseException], None] = lambda error: None,
  ) -> None:
    self.engine: Any = None
    self.state, self.ready = 'loading', asyncio.Event()
    self._build, self._capacity, self._unread, self._failed = build, capacity, unread, failed
    self._commands: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    self._readings: dict[int, tuple[int, Reading]] = {}  # by the id of a request that has not ended
    self._coming = 0  # requests that were sent to the thread and are not accepted yet
    self._loop = asyncio.get_running_loop()
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._since: float | None = None

  def start(self) -> None:
    """Begins to build the engine."""
    self._thread.start()

  @property
  def open(self) -> int:
    """Requests that have not ended."""
    return len(self._readings) + self._coming

  @property
  def stuck(self) -> float:
    """Seconds since the step began that has not come back."""
    since = self._since
    return 0.0 if since is None else time.monotonic() - since

  async def submit(self, requests: Sequence[Request]) -> Reading:
    """Accepts all of the requests, or none; the task that calls it is the one to read.

    Raises:
      ApiError: there is no room for them, or the engine does not run.
      BadInput: the engine can never serve one of them.
    """
    self.check()
    if self.open + len(requests) > self._capacity:
      raise ApiError(429, 'too many requests are waiting; try again', code='queue_full')
    answered: asyncio.Future[Reading] = self._loop.create_future()
    self._coming += len(requests)
    self._commands.put(('submit', (requests, answered, asyncio.current_task())))
    return await answered

  def check(self) -> None:
    """Raises ApiError unless the engine runs."""
    if self.state == 'loading':
      raise ApiError(503, 'the model is being loaded', code='loading')
    if self.state != 'ready':
      raise ApiError(503, 'the model has stopped', code='shutting_down')

  def forget(self, reading: Reading) -> None:
    """Cancels those of its requests that have not ended."""
    for id in reading.ids:
      if self._readings.pop(id, None) is not None:
        self._commands.put(('cancel', id))

  def end_all(self, error: ApiError) -> None:
    """Cancels all requests; their readers get the error."""
    for reading in {id(reading): reading for _, reading in self._readings.values()}.values():
      reading.fail(error)
      reading.close()

  async def stop(self, seconds: float = 5.0) -> None:
    """Ends the thread, after the step that it is in."""
    self._commands.put(('stop', None))
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(seconds):
        while self._thread.is_alive():
          await asyncio.sleep(0.01)

  # --- in the loop -------------------------------------------------------------------------------

  def _set(self, state: str, error: BaseException | None = None) -> None:
    if self.state in ('failed', 'stopped'):
      return
    self.state = state
    self.ready.set()
    if error is not None:
      self.end_all(ApiError(500, 'the engine has failed', code='engine_error'))
      self._failed(error)

  def _accepted(self, answered: Any, reader: Any, count: int, result: Any) -> None:
    self._coming -= count
    if not isinstance(result, list):
      if not answered.cancelled():
        answered.set_exception(result)
      return
    reading = Reading(self, result, self._unread, reader)
    self._readings.update({id: (number, reading) for number, id in enumerate(result)})
    if answered.cancelled():  # the client has left meanwhile
      reading.close()
    else:
      answered.set_result(reading)

  def _deliver(self, events: Sequence[Event]) -> None:
    for event in events:
      if event.id in self._readings:
        number, reading = self._readings[event.id]
        if event.finish is not None:
          del self._readings[event.id]
        reading.put(number, event)

  # --- in the thread -----------------------------------------------------------------------------

  def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has been closed
      self._loop.call_soon_threadsafe(function, *arguments)

  def _run(self) -> None:
    try:
      self.engine = engine = self._build()
      self._tell(self._set, 'ready')
      while self._obey(engine):
        self._since = time.monotonic()
        events = engine.step()
        self._since = None
        if events:
          self._tell(self._deliver, events)
      self._tell(self._set, 'stopped')
    except BaseException as error:
      self._since = None
      self._tell(self._set, 'failed', error)
      self._refuse()

  def _obey(self, engine: Any) -> bool:
    """Does what was asked for; waits for it where there is nothing else to do."""
    idle = not engine.busy
    while True:
      try:
        name, what = self._commands.get(block=idle)
      except queue.Empty:
        return True
      idle = False
      if name == 'stop':
        return False
      if name == 'cancel':
        engine.cancel(what)
      else:
        self._submit(engine, *what)

  def _submit(self, engine: Any, requests: Sequence[Request], answered: Any, reader: Any) -> None:
    ids: list[int] = []
    tell = lambda result: self._tell(self._accepted, answered, reader, len(requests), result)
    try:
      for request in requests:
        ids.append(engine.submit(request))
    except (BadInput, queue.Full) as error:
      for id in ids:
        engine.cancel(id)
      full = ApiError(429, 'too many requests are waiting; try again', code='queue_full')
      tell(full if isinstance(error, queue.Full) else error)
    except BaseException:
      tell(ApiError(500, 'the engine has failed', code='engine_error'))
      raise
    else:
      tell(ids)

  def _refuse(self) -> None:
    """Answers those who asked while the engine failed."""
    while True:
      try:
        name, what = self._commands.get(block=True, timeout=1.0)
      except queue.Empty:
        return
      if name == 'submit':
        error = ApiError(503, 'the model has stopped', code='shutting_down')
        self._tell(self._accepted, what[1], None, len(what[0]), error)
      elif name == 'stop':
        return

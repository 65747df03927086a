"""Tools that the server runs itself: an answer that stops at a call goes on behind the result.

The engine answers prompts. So whoever reads an answer that has called asks it to continue another
prompt: all that was said, and what the tool says, in the same ids as in training.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from llm_jax.sampling.calls import Caller, Going
from llm_jax.sampling.request import Event, Request
from llm_jax.serving.answers import Choice
from llm_jax.serving.driver import Driver, Reading
from llm_jax.types import Tokenizer


class Calling:
  """Reads as `Reading` does; the calls in between are answered.

  Args:
    reading: of the first requests.
    driver: of the model.
    choices: in order of these requests.
    tokenizer: of the model.
    caller: runs the calls.
  """

  def __init__(
    self,
    reading: Reading,
    driver: Driver,
    choices: Sequence[Choice],
    tokenizer: Tokenizer,
    caller: Caller,
  ) -> None:
    self._driver, self._choices, self._tokenizer = driver, choices, tokenizer
    length = driver.engine.length
    self._going = [Going(caller, choice.request, length) for choice in choices]
    self._parts: dict[Reading, Sequence[int]] = {reading: range(len(choices))}
    self._reads: dict[asyncio.Task[Any], Reading] = {}
    self._runs: dict[asyncio.Task[Any], tuple[int, Event]] = {}  # events that end with a call

  async def read(self, seconds: float) -> list[tuple[int, Event]]:
    """(number of the request, event) of all that has come; [] if nothing does for so long.

    Raises:
      ApiError: see `Reading.read`.
    """
    waited = set(self._reads.values())
    for part in self._parts:
      if part not in waited and (part.open or part.ready):
        self._reads[asyncio.create_task(part.read(seconds))] = part
    tasks = [*self._reads, *self._runs]
    if not tasks:
      return []
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    found = []
    for task in done:
      if task in self._runs:
        number, event = self._runs.pop(task)
        found.append((number, await self._gone_on(number, event, task.result())))
        continue
      numbers = self._parts[self._reads.pop(task)]
      for i, event in task.result():
        going = self._going[numbers[i]]
        if going.hear(event):  # the others go on while the tool works
          run = asyncio.create_task(asyncio.to_thread(going.run))
          self._runs[run] = numbers[i], event
        else:
          found.append((numbers[i], event))
    return found

  def close(self) -> None:
    """Nobody reads any more."""
    for task in (*self._reads, *self._runs):
      task.cancel()
    for part in self._parts:
      part.close()

  async def _gone_on(
    self, number: int, event: Event, more: tuple[list[int], Request] | None
  ) -> Event:
    """The event; one whose call was run does not end the answer, which then goes on."""
    if more is None:
      return event
    result, request = more
    self._choices[number].listener.told(self._tokenizer.decode(result[1:-1]))
    self._parts[await self._driver.submit([request])] = [number]
    return event._replace(finish=None)

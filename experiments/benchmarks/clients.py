"""Clients of an OpenAI-compatible server on this machine, who check each stream that they read.

Standard library alone, so that they take little of the machine that the server needs too.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any


@dataclasses.dataclass
class Heard:
  """What one client got.

  Attributes:
    prompt: the number of its prompt.
    text: of the answer.
    tokens: as the server counted them.
    cached: tokens of the prompt that were not read again.
    first: seconds to the first text; None if there was none.
    gaps: seconds between events with text.
    left: whether the client went away in the middle, as it meant to.
    wrong: what the server did that it must not do.
  """

  prompt: int
  text: str = ''
  tokens: int = 0
  cached: int = 0
  first: float | None = None
  gaps: list[float] = dataclasses.field(default_factory=list)
  left: bool = False
  wrong: list[str] = dataclasses.field(default_factory=list)


async def events(port: int, body: dict[str, Any]) -> AsyncIterator[str]:
  """The payloads of a stream; a response that is none is a RuntimeError."""
  reader, writer = await asyncio.open_connection('127.0.0.1', port, limit=2**22)
  try:
    raw = json.dumps(body).encode()
    head = 'POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n'
    head += f'content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n'
    writer.write(head.encode() + raw)
    status = await reader.readline()
    while (await reader.readline()).strip():
      pass
    if b' 200 ' not in status:
      raise RuntimeError(f'{status.decode().strip()}: {(await reader.read(500)).decode()}')
    buffer = b''
    while size := int((await reader.readline()).split(b';')[0] or b'0', 16):
      buffer += await reader.readexactly(size)
      await reader.readline()
      *whole, buffer = buffer.split(b'\n\n')
      for event in whole:
        if event.startswith(b'data: '):
          yield event.removeprefix(b'data: ').decode()
  finally:
    writer.close()
    with contextlib.suppress(OSError):
      await writer.wait_closed()


async def ask(
  port: int, number: int, prompt: Sequence[int], fields: dict[str, Any], leave: int | None = None
) -> Heard:
  """One request.

  Args:
    port: of the server.
    number: of the prompt.
    prompt: ids.
    fields: of the body, besides.
    leave: events after which the client goes away.
  """
  heard, began, last = Heard(number), time.perf_counter(), 0.0
  body = {'prompt': [*prompt], 'stream': True, 'stream_options': {'include_usage': True}, **fields}
  ends, done, ids, count = 0, False, set(), 0
  stream = events(port, body)
  try:
    async with contextlib.aclosing(stream):
      async for payload in stream:
        if done:
          heard.wrong.append('an event after [DONE]')
        if payload == '[DONE]':
          done = True
          continue
        event = json.loads(payload)
        if 'error' in event:
          heard.wrong.append(event['error']['message'])
          continue
        ids.add(event['id'])
        if event['usage']:
          usage = event['usage']
          heard.tokens = usage['completion_tokens']
          heard.cached = usage['prompt_tokens_details']['cached_tokens']
          if usage['prompt_tokens'] != len(prompt):
            heard.wrong.append('the prompt was counted otherwise')
        for choice in event['choices']:
          if choice['text']:
            now = time.perf_counter()
            heard.text += choice['text']
            if ends:
              heard.wrong.append('text after the end')
            if heard.first is None:
              heard.first = now - began
            else:
              heard.gaps.append(now - last)
            last = now
          ends += choice['finish_reason'] is not None
        count += 1
        if leave is not None and count >= leave:
          heard.left = True
          return heard
  except (OSError, RuntimeError, ValueError, KeyError, asyncio.IncompleteReadError) as error:
    heard.wrong.append(f'{type(error).__name__}: {error}')
    return heard
  if not done or ends != 1 or len(ids) != 1:
    heard.wrong.append(f'done {done}, {ends} ends, {len(ids)} ids')
  return heard


async def load(
  port: int,
  prompts: Sequence[Sequence[int]],
  fields: dict[str, Any],
  *,
  clients: int,
  requests: int | None = None,
  seconds: float | None = None,
  abort: float = 0.0,
  seed: int = 0,
) -> tuple[list[Heard], float]:
  """What `clients` heard, each of whom asks again as soon as it has its answer, and the seconds.

  Args:
    port: of the server.
    prompts: taken in turns.
    fields: of each body.
    clients: at a time.
    requests: in all; or
    seconds: after which nobody asks again.
    abort: the share of clients who go away in the middle.
    seed: of who does.
  """
  draw, found = random.Random(seed), []
  began = time.perf_counter()
  numbers = iter(range(requests if requests is not None else 2**62))

  async def client() -> None:
    for number in numbers:
      if seconds is not None and time.perf_counter() - began > seconds:
        return
      which = number % len(prompts)
      leave = draw.randrange(1, 12) if draw.random() < abort else None
      found.append(await ask(port, which, prompts[which], fields, leave))

  await asyncio.gather(*(client() for _ in range(clients)))
  return found, time.perf_counter() - began

"""Answers for one reader, as they are written: by an engine, and with the results of tools in them.

What a conversation has said so far is the beginning of its next prompt, so the engine's cache of
beginnings leaves little to read. Where a model calls a tool, its prompt with all that was said and
the result is the next prompt.
"""

import dataclasses
from collections.abc import Generator
from typing import Any

from llm_jax.parallel.mesh import batch_shards
from llm_jax.sampling.calls import Caller, Going
from llm_jax.sampling.engine import Engine, positions
from llm_jax.sampling.request import Event, Request
from llm_jax.types import BadInput, Model, Params, Tokenizer

SHORTEST = 1024  # positions of the first engine; each next has at least twice as many
COLUMNS = 4  # tokens that are written between two looks at them


class Turns:
  """Answers requests of one reader; nothing is compiled before the first one.

  Args:
    model: a causal language model.
    params: of the model.
    tokenizer: of the model.
    mesh: where it lives, or None.

  Attributes:
    positions: most tokens of a prompt with its answer and the results of tools.
  """

  def __init__(self, model: Model, params: Params, tokenizer: Tokenizer, mesh: Any = None) -> None:
    self.positions = positions(model)
    self._made, self._mesh = (model, params, tokenizer), mesh
    self._engine: Engine | None = None
    self._unread: dict[int, list[Event]] = {}  # by the id of an answer that somebody reads

  def answer(self, request: Request, caller: Caller | None = None) -> Generator[Event]:
    """What is new of an answer, until it ends; whoever reads no further stops it.

    Of results only `tokens` are told, in events of their own.

    Args:
      request: what is asked. Its `max_new` counts no results.
      caller: runs the calls that the model makes; None leaves them without an answer.

    Raises:
      BadInput: there is no room for it.
    """
    width = len(request.prompt) + request.max_new + (caller.tools.slots if caller else 0)
    if width > self.positions:
      raise BadInput(
        f'sampling: a prompt of {len(request.prompt)} tokens, its answer and the results of tools '
        f'take up to {width} of the {self.positions} positions of the model; lower max_new'
      )
    if caller is None:
      yield from self._events(request, width)
      return
    asked = dataclasses.replace(request, stop=(*request.stop, caller.end))
    going, calls = Going(caller, asked, self.positions), True
    while calls:
      for event in self._events(asked, width):
        calls = going.hear(event)
        yield event._replace(finish=None) if calls else event
      if calls:
        result, asked = going.run() or ([], None)
        if asked is None:
          yield Event(-1, finish='stop')
          return
        yield Event(-1, tokens=tuple(result))

  def _events(self, request: Request, width: int) -> Generator[Event]:
    """The events of one request, beside which others may be read in turn."""
    engine, unread = self._fitting(width), self._unread
    id = engine.submit(request)
    unread[id] = []
    try:
      while True:
        while not unread[id]:
          for event in engine.step():
            if event.id in unread:
              unread[event.id].append(event)
        event = unread[id].pop(0)
        yield event
        if event.finish is not None:
          return
    finally:
      del unread[id]
      engine.cancel(id)

  def _fitting(self, width: int) -> Engine:
    """An engine whose rows have room for so many tokens."""
    if self._engine is None or self._engine.length < width:
      length = SHORTEST if self._engine is None else 2 * self._engine.length
      slots = 1 if self._mesh is None else batch_shards(self._mesh)
      length = min(max(length, width), self.positions)
      how: Any = dict(slots=slots, length=length, columns=COLUMNS, mesh=self._mesh)
      self._engine, self._unread = Engine(*self._made, **how), {}
    return self._engine

"""Continuous batching: requests come and go, and each gets the answer that it would get alone.

Rows live in slots on the device (`runner.py`). A step lets requests into free slots, reads a few
chunks of their prompts and writes a few tokens to all rows; what the device writes now is looked at
while it writes the next. Prompts are read in chunks of a fixed size from their first token on, so
that what the cache of beginnings (`prefix.py`) holds is what would be computed again.
"""

import collections
import dataclasses
import itertools
import queue
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import numpy as np

from llm_jax.options import Count, at_least, within
from llm_jax.parallel.mesh import batch_shards
from llm_jax.sampling.prefix import Prefixes
from llm_jax.sampling.request import Event, Request
from llm_jax.sampling.runner import Runner, compiled
from llm_jax.sampling.spoken_text import Spoken
from llm_jax.types import JUDGES, BadInput, Model, Params, Tokenizer

FEW = 16  # most tokens that are read together with the bits that each has alone, see models/attend
# A prompt's token is read in a fraction of the time that it takes to write one to each row.
PER_TOKEN = 4
# Tokens that others are written while a constrained row waits for what it may say next.
BESIDE = 3


@dataclasses.dataclass(eq=False)
class Run:
  """A request on its way.

  Attributes:
    id, request: what was asked.
    spoken: watches for stop strings, if there are any.
    slot: where it is written; -1 before and after.
    names: of the chunks of the prompt, see `prefix.py`.
    read: tokens of the prompt that have been read.
    launched: tokens that the device was told to write, at most.
    said: tokens that it wrote.
    cached: tokens of the prompt that did not have to be read.
    ended: whether its last event has been made.
    scores: of the chunks of its prompt, if asked for, and how many tokens of each have one.
  """

  id: int
  request: Request
  spoken: Spoken | None
  slot: int = -1
  names: Sequence[bytes] = ()
  read: int = 0
  launched: int = 0
  said: int = 0
  cached: int = 0
  ended: bool = False
  scores: list[tuple[Any, int]] = dataclasses.field(default_factory=list)


class Engine:
  """Answers requests with one model, many at a time; one thread uses it.

  Attributes:
    length: positions of a row.

  Args:
    model: a causal language model; its `compute.cache_dtype` is that of keys and values.
    params: of the model.
    tokenizer: of the model.
    slots: rows that are written at a time; on a mesh a multiple of its batch shards.
    length: positions of a row; by default all that the model has.
    chunk: tokens of a prompt that are read at a time, and that the cache of beginnings keeps.
    columns: most tokens that the device writes to a row between two looks of the host.
    blocks: chunks that are kept; by default as many as fill all slots. 0 keeps none.
    lookup: tokens that are proposed to a row which is written alone, where its last ones stand in
      it already; the answer is the same. 0 proposes none, and without `warm` none are.
    waiting: most requests that wait for a slot.
    mesh: where rows live.

  Raises:
    BadInput: the model cannot answer, or the numbers do not fit it or the mesh.
  """

  def __init__(
    self,
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    *,
    slots: Count = 8,
    length: Count | None = None,
    chunk: Count = 64,
    columns: Count = 8,
    blocks: Annotated[int, at_least(0)] | None = None,
    lookup: Annotated[int, within(0, FEW - 1)] = 0,
    waiting: Count = 256,
    mesh: Any = None,
  ) -> None:
    shape = model.shape
    if not shape.causal or getattr(shape, 'head', '') in JUDGES:
      raise BadInput('engine: only a causal language model can answer')
    most = positions(model)
    self.length = most if length is None else length
    if self.length > most:
      raise BadInput(f'engine: length {length}; rows of this model can have up to {most} positions')
    if mesh is not None and slots % batch_shards(mesh):
      raise BadInput(
        f'engine: slots {slots} must be a multiple of the {batch_shards(mesh)} shards of a batch'
      )
    self._tokenizer, self._vocab_size = tokenizer, shape.vocab_size
    self._slots, self._columns, self._most_waiting = slots, columns, waiting
    chunk = self._chunk = min(chunk, self.length)
    kept = slots * (self.length // chunk) if blocks is None else blocks
    sizes: Any = dict(
      slots=slots, length=self.length, chunk=chunk, columns=columns, blocks=kept, lookup=lookup
    )
    self._prefixes = Prefixes(kept, chunk)
    self._before = compiled()
    self._runner = Runner(model, tokenizer, mesh=mesh, **sizes)
    self._queue: collections.deque[Run] = collections.deque()
    self._reading: list[Run] = []
    self._writing: list[Run] = []
    self._free = list(range(slots))
    self._prompts: dict[int, tuple[str, tuple[int, ...]]] = {}  # what was read into each slot
    self._pending: collections.deque[tuple[Any, list[tuple[int, Run]]]] = collections.deque()
    self._runs: dict[int, Run] = {}
    self._news: list[Event] = []
    self._kill_R = np.zeros(slots, bool)
    self._numbers = itertools.count()
    self.load(params)

  # --- what users call -------------------------------------------------------------------------

  def load(self, params: Params) -> None:
    """Other parameters from now on; nothing may be on its way.

    Raises:
      BadInput: a request is.
    """
    self._idle()
    with self._runner.on_mesh():
      self._runner.load(params)
    self._forget()

  def warm(self) -> None:
    """Compiles whatever any request can need; nothing may be on its way.

    Without it one program, for all slots and columns, serves all; and compiles when it is needed.

    Raises:
      BadInput: a request is.
    """
    self._idle()
    with self._runner.on_mesh():
      self._runner.warm()
    self._forget()

  def submit(self, request: Request) -> int:
    """Takes a request; the number that its events will have.

    Raises:
      BadInput: it can never be answered.
      queue.Full: too many are waiting.
    """
    request.check(self._vocab_size, self.length)
    if len(self._queue) >= self._most_waiting:
      raise queue.Full
    watch = None
    if request.stop_strings:
      watch = Spoken(self._tokenizer, request.stop_strings, after=request.prompt[-1])
    run = Run(next(self._numbers), request, watch)
    self._runs[run.id] = run
    self._queue.append(run)
    return run.id

  def cancel(self, id: int) -> None:
    """Ends a request, wherever it is; one that has ended stays so."""
    if run := self._runs.get(id):
      self._news.append(self._end(run, 'abort'))

  def step(self) -> list[Event]:
    """Goes on with all requests for a moment; what is new, which may be nothing.

    It is to be called as long as `busy`. Errors of the device pass through; the engine cannot go on
    after one.
    """
    with self._runner.on_mesh():
      self._let_in()
      self._read()
      self._write()
      # A request that waits wants to know at once which slots are free.
      while len(self._pending) > (1 if self._writing and not self._queue else 0):
        self._collect()
    news, self._news = self._news, []
    return news

  def answers(self, requests: Iterable[Request]) -> list[Event]:
    """All requests answered, each as one event; nothing else may be on its way."""
    asked, whole, order = iter(requests), {}, []
    more = True
    while more or self._runs:
      while more and len(self._queue) < self._most_waiting:
        if more := (request := next(asked, None)) is not None:
          order.append(self.submit(request))
          whole[order[-1]] = []
      for event in self.step():
        whole[event.id].append(event)
    return [_joined(whole[id]) for id in order]

  @property
  def busy(self) -> bool:
    """Whether there are events to come."""
    return bool(self._runs or self._news)

  @property
  def running(self) -> int:
    """Requests that are being answered."""
    return len(self._runs) - len(self._queue)

  @property
  def waiting(self) -> int:
    """Requests that have no slot yet."""
    return len(self._queue)

  @property
  def looks(self) -> bool:
    """Whether rows that are written alone are looked up: `warm` found that it changes no bit."""
    return self._runner.looks

  @property
  def compilations(self) -> int:
    """Programs that this process has compiled since the engine was made."""
    return compiled() - self._before

  @property
  def cache_usage(self) -> float:
    """The share of all columns that rows have filled."""
    used = sum(run.read + run.launched for run in (*self._reading, *self._writing))
    return used / (self._slots * self.length)

  # --- a step ----------------------------------------------------------------------------------

  def _let_in(self) -> None:
    """Gives the lowest free slots to those that wait."""
    while self._queue and self._free:
      run = self._queue.popleft()
      run.slot = min(self._free)
      self._free.remove(run.slot)
      self._reading.append(run)

  def _read(self) -> None:
    """Reads chunks of prompts.

    Where rows are being written, not more than PER_TOKEN times as many tokens as these can be
    written; where there are none, a chunk for each slot at least.
    """
    budget = PER_TOKEN * self._columns * self._slots // self._chunk
    budget = max(1, budget, 0 if self._writing else self._slots)
    while self._reading and budget > 0:
      run, prompt = self._reading[0], self._reading[0].request.prompt
      if run.read == 0:
        self._begin(run)
      while run.read < len(prompt) and budget > 0:
        ids, number = prompt[run.read : run.read + self._chunk], run.read // self._chunk
        block = self._prefixes.add(run.names[number]) if number < len(run.names) else None
        last, after = run.read + len(ids) == len(prompt), None
        if run.request.scores_prompt:
          after = 0 if last else prompt[run.read + len(ids)]
        logits_V, scores = self._runner.read(ids, run.read, block, after)
        if scores is not None:
          run.scores.append((scores, len(ids) - last))
        run.read += len(ids)
        budget -= 1
        if last:
          self._runner.seat(run.slot, prompt, logits_V)
      if run.read == len(prompt):
        self._reading.remove(run)
        self._writing.append(run)
        if not run.request.scores_prompt:
          self._prompts[run.slot] = (run.request.salt, tuple(prompt))

  def _begin(self, run: Run) -> None:
    """Fills a slot with a request, and finds what is known of its prompt."""
    asked = (run.request.salt, tuple(run.request.prompt))
    source = None
    if not run.request.scores_prompt:  # another program reads those, perhaps with other bits
      run.names = self._prefixes.names(run.request.prompt, run.request.salt)
      source = next((slot for slot, known in self._prompts.items() if known == asked), None)
    self._prompts.pop(run.slot, None)
    self._runner.admit(run.slot, run.request)
    self._kill_R[run.slot] = False
    if source is not None:
      run.read = len(run.request.prompt)
      self._runner.fork(source, run.slot, run.read)
    else:
      found = self._prefixes.find(run.names)
      self._runner.begin(found)
      run.read = len(found) * self._chunk
    run.cached = run.read

  def _write(self) -> None:
    """Lets the device write to all rows that it has not been told to finish."""
    # What a constrained row may say next depends on what it said last. While the host finds out,
    # the device writes some tokens to the others.
    while any(run.request.allow is not None for _, rows in self._pending for _, run in rows):
      self._collect()
    for run in self._steered():
      self._steer(run)
    if not self._writing:
      return
    self._gather()
    if self._kill_R.any():
      self._runner.stop(self._kill_R)
      self._kill_R = np.zeros_like(self._kill_R)
    if self._steered():
      self._launch(list(self._writing), 1)
      if free := [run for run in self._writing if run.request.allow is None]:
        self._launch(free, min(BESIDE, self._columns))
      return
    left = [run.request.max_new - run.launched for run in self._writing]
    columns = min(self._columns, min(left) if self._queue else max(left))
    # First tokens are wanted soon; others are written while the host looks at them.
    first = any(run.launched == 0 for run in self._writing)
    self._launch(list(self._writing), 1 if first else columns)

  def _steered(self) -> list[Run]:
    return [run for run in self._writing if run.request.allow is not None]

  def _launch(self, runs: Sequence[Run], columns: int) -> None:
    """Tells the device to write so many tokens to these rows."""
    columns_R = np.zeros(self._slots, np.int32)
    columns_R[[run.slot for run in runs]] = columns
    self._hold(columns)
    written = self._runner.write(columns_R)
    self._pending.append((written, [(run.slot, run) for run in runs]))
    for run in runs:
      run.launched = min(run.launched + columns, run.request.max_new)
      if run.launched == run.request.max_new:  # nothing is left to do in the slot
        self._leave(run)

  def _hold(self, columns: int) -> None:
    """Lets the device hold the rows that are written, and little else; forgets what is lost."""
    size = max(run.read + run.launched for run in self._writing) + columns
    self._runner.fit(max(run.slot for run in self._writing) + 1, size)
    rows, width = self._runner.size
    lost = [s for s, (_, ids) in self._prompts.items() if s >= rows or len(ids) > width]
    for slot in lost:
      del self._prompts[slot]

  def _gather(self) -> None:
    """Moves rows down where a program for fewer slots is enough for them."""
    sizes, count = self._runner.sizes, len(self._writing)
    fits = next(size for size in sizes if size >= count)
    while not self._reading:
      last = max(self._writing, key=lambda run: run.slot)
      if last.slot < fits:
        return
      free = min(self._free)
      self._runner.move(last.slot, free)
      self._free.remove(free)
      self._free.append(last.slot)
      if last.slot in self._prompts:
        self._prompts[free] = self._prompts.pop(last.slot)
      self._kill_R[free], last.slot = False, free

  def _steer(self, run: Run) -> None:
    """Tells the device what a constrained row may say next."""
    try:
      mask_V = run.request.allow.mask()
      if mask_V is not None and not (np.asarray(mask_V) & self._runner.allowed_V).any():
        raise BadInput('nothing may follow what was said')
    except Exception as error:  # of code that belongs to one request, and ends this one only
      self._news.append(self._end(run, 'error')._replace(error=str(error)))
    else:
      self._runner.dress(run.slot, run.request, mask_V)

  def _collect(self) -> None:
    """Makes events of what the device was told to write longest ago; waits for it."""
    written, rows = self._pending.popleft()
    token_CR, logp_CR, sampled_CR = map(np.asarray, (written.token, written.logp, written.sampled))
    for slot, run in rows:
      found = token_CR[:, slot][token_CR[:, slot] >= 0].tolist() if not run.ended else []
      count, finish, error = 0, None, ''
      while finish is None and count < len(found):
        finish, error = self._heard(run, found[count])
        count += 1
      if count:
        column = lambda x_CR, slot=slot, count=count: tuple(x_CR[:count, slot].tolist())
        new = Event(run.id, column(token_CR), column(logp_CR), column(sampled_CR))
        top = _top(written, slot, count, run.request.top_logprobs)
        if finish:
          self._end(run, finish)
        new = new._replace(top=top, finish=finish, cached=run.cached, error=error)
        if run.scores:
          new, run.scores = new._replace(prompt=_scores(run)), []
        self._news.append(new)

  def _heard(self, run: Run, token: int) -> tuple[str | None, str]:
    """Whether a token ends its row, and how; and what went wrong."""
    run.said += 1
    if token in run.request.stop:
      return 'stop', ''
    if run.request.allow is not None:
      try:
        run.request.allow.advance(token)
      except Exception as error:  # see `_steer`
        return 'error', str(error)
    if run.spoken is not None:
      run.spoken.push([token])
      if run.spoken.stopped:
        return 'stop', ''
    return ('length' if run.said == run.request.max_new else None), ''

  def _end(self, run: Run, finish: str) -> Event:
    """Takes a request out of wherever it is."""
    run.ended = True
    del self._runs[run.id]
    if run in self._queue:
      self._queue.remove(run)
    elif run in self._reading:
      self._reading.remove(run)
      self._give(run)
    elif run in self._writing:
      # Of a stop id the device knows itself.
      self._kill_R[run.slot] = finish != 'stop' or run.spoken is not None
      self._leave(run)
    return Event(run.id, finish=finish, cached=run.cached)

  def _leave(self, run: Run) -> None:
    self._writing.remove(run)
    self._give(run)

  def _give(self, run: Run) -> None:
    self._free.append(run.slot)
    run.slot = -1

  def _idle(self) -> None:
    if self._runs:
      raise BadInput(f'engine: {len(self._runs)} requests are being answered; let them end first')

  def _forget(self) -> None:
    """Nothing of what was read is valid any more."""
    self._prefixes.clear()
    self._prompts.clear()


def positions(model: Model) -> int:
  """Most tokens of a row: a prompt and its answer."""
  shape = model.shape
  return min(shape.max_length, getattr(shape, 'moves_after', None) or shape.max_length)


def _top(written: Any, slot: int, count: int, most: int | None) -> tuple[Any, ...]:
  """The likeliest tokens of a row, with their log-probabilities."""
  if most is None:
    return ()
  tokens, logps = (
    np.asarray(x)[:count, slot, :most].tolist() for x in (written.top_token, written.top_logp)
  )
  return tuple(tuple(zip(*both, strict=True)) for both in zip(tokens, logps, strict=True))


def _scores(run: Run) -> tuple[Any, ...]:
  """Of each token of a prompt but the first: its log-probability, and the likeliest tokens."""
  found, most = [], run.request.top_logprobs or 0
  for scores, count in run.scores:
    logp_C, top_CT, token_CT = (np.asarray(x)[:count].tolist() for x in scores)
    top_C = (
      tuple(zip(ids[:most], logps[:most], strict=True))
      for ids, logps in zip(token_CT, top_CT, strict=True)
    )
    found += zip(logp_C, top_C, strict=True)
  return tuple(found)


def _joined(events: Sequence[Event]) -> Event:
  """The events of a request as one."""
  join = lambda name: tuple(x for event in events for x in getattr(event, name))
  return events[-1]._replace(
    prompt=events[0].prompt,
    **{name: join(name) for name in ('tokens', 'logprobs', 'sampled', 'top')},
  )

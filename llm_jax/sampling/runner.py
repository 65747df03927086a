"""The device side of the engine: the slots, and the compiled programs that work on them.

Small programs, for the first slots and the first columns of their caches alone, are used where they
give the very bits of the whole one. Whether they do depends on how a compiler adds up, so `warm`
compares them, on the machine and the model at hand. Keys and values are held in the size of the
program that works on them, and are copied when another one has to take over.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.parallel.mesh import batch_shards, constrain, platform
from llm_jax.sampling import lookup as looking
from llm_jax.sampling import slots as programs
from llm_jax.sampling import writing
from llm_jax.sampling.complete import spoken
from llm_jax.sampling.request import STOPS, Request
from llm_jax.types import Model, Params, Tokenizer

NARROWEST = 128  # columns of the narrowest caches; then come 1.5, 2, 3, 4, 6, ... times as many
ROWS = (1, 8, 32)  # slots of small programs
# On a CPU: YNNPACK adds up few numbers in another order than many.
OPTIONS = {'xla_cpu_experimental_ynn_fusion_type': ''}
_COMPILED = '/jax/core/compile/backend_compile_duration'
_counted = [0]


class Runner:
  """Slots on the device.

  Attributes:
    sizes: numbers of slots for which there are programs, the last of all slots.
    widths: numbers of columns for which there are programs, the last of all columns.
    reads: the same for programs that read prompts.
    allowed_V: bool, which ids stand for something.
    looks: whether a single row is written by look-up; not before `warm`.
  """

  def __init__(
    self,
    model: Model,
    tokenizer: Tokenizer,
    *,
    slots: int,
    length: int,
    chunk: int,
    columns: int,
    blocks: int,
    lookup: int,
    mesh: Any,
  ) -> None:
    """Arguments as those of `Engine`; nothing is compiled yet."""
    self.sizes, self.widths, self.reads = [slots], [length], [length]
    self._doubled: list[int] = []
    allowed_V = spoken(model, tokenizer)
    self.allowed_V = np.ones(model.shape.vocab_size, bool) if allowed_V is None else allowed_V
    self.looks, self._ahead = False, lookup + 1
    self._slots, self._length, self._chunk, self._columns = slots, length, chunk, columns
    self._vocab_size, self._mesh, self._blocks = model.shape.vocab_size, mesh, blocks
    self._fast: Any = None  # the model in the form that decodes
    self._params: Any = None
    self._state: Any = None
    self._layers: Any = None
    self._desk: Any = None
    self._pool: Any = None

    def arranged(params: Params) -> Params:
      self._fast, params = model.for_decoding(params)
      alone = mesh is None or mesh.size == 1
      return self._fast.in_blocks(params) if platform() == 'cpu' and alone else params

    self._kept = length if lookup else 0  # columns of texts
    empty = functools.partial(programs.layers, model)

    def fresh() -> Any:
      return self._placed(programs.empty(model, slots, jnp.asarray(self.allowed_V), self._kept))

    def desk() -> Any:
      return programs.Desk(self._heads(empty(1, length)), jnp.int32(0))

    def prefill(width: int, scored: bool, *args: Any) -> Any:
      how: Any = dict(model=self._fast, width=width, scored=scored)
      desk, pool, *rest = programs.prefill(*args, **how)
      return dataclasses.replace(desk, layers=self._heads(desk.layers)), self._heads(pool), *rest

    def decode(*args: Any) -> Any:
      how: Any = dict(model=self._fast, most=columns)
      state, layers, written = writing.decode(*args, **how)
      return self._placed(state), self._rows(layers), written

    def look(*args: Any) -> Any:
      how: Any = dict(model=self._fast, most=columns, ahead=self._ahead)
      state, layers, written = looking.decode(*args, **how)
      return self._placed(state), self._rows(layers), written

    keep = lambda f, place: jax.jit(lambda *args: place(f(*args)), donate_argnums=0)
    self._arranged, self._fresh, self._desked = jax.jit(arranged), jax.jit(fresh), jax.jit(desk)
    self._pooled = jax.jit(lambda: self._heads(empty(blocks + 1, chunk)))
    self._room = jax.jit(lambda r, w: self._rows(empty(r, w)), static_argnums=(0, 1))
    self._resized = jax.jit(
      lambda x, r, w: self._rows(programs.resized(x, r, w)), static_argnums=(1, 2)
    )
    self._invented = jax.jit(lambda x: programs.invented(x, self._vocab_size))
    with self.on_mesh():
      options = OPTIONS if platform() == 'cpu' else None
    how: Any = dict(compiler_options=options)
    self._prefill = jax.jit(prefill, static_argnums=(0, 1), donate_argnums=(3, 4), **how)
    self._decode = jax.jit(decode, donate_argnums=(1, 2), **how)
    self._look = jax.jit(look, donate_argnums=(1, 2), **how)
    self._admit, self._dress, self._forked, self._begun, self._stopped, self._moved = (
      keep(getattr(programs, name), self._placed) for name in _OF_STATE
    )
    self._filled = jax.jit(lambda *args: self._placed(programs.filled(*args)))
    self._seated, self._copied = (keep(f, self._rows) for f in (programs.seated, programs.copied))
    self._begin = keep(
      programs.begin, lambda desk: dataclasses.replace(desk, layers=self._heads(desk.layers))
    )

  def on_mesh(self) -> Any:
    """The context in which all else is called."""
    return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

  def load(self, params: Params) -> None:
    """Other parameters; the slots are empty then."""
    self._params = self._arranged(params)
    if self._state is None:
      self._empty()

  def _empty(self) -> None:
    """Slots without rows, of the smallest size."""
    self._state, self._desk, self._pool = self._fresh(), self._desked(), self._pooled()
    self._layers = self._room(self.sizes[0], self._widths(self.sizes[0])[0])

  @property
  def size(self) -> tuple[int, int]:
    """Slots and columns whose keys and values are held; those of others are lost."""
    shape = jax.tree.leaves(self._layers)[0].shape
    return shape[0], shape[2]

  def fit(self, slots: int, columns: int) -> None:
    """Holds keys and values of so many slots and columns at least, and of few more."""
    rows = _first(self.sizes, slots)
    width = _first(self._widths(rows), min(columns, self._length))
    while (has := self.size) != (rows, width):
      beside = rows if rows == has[0] else _nearer(self.sizes, has[0], rows)
      if beside != has[0] and has[1] in self._widths(beside):
        has = (beside, has[1])
      else:
        wanted = self._length if width == has[1] else width  # of all sizes
        has = (has[0], _nearer(self._widths(has[0]), has[1], wanted))
      self._layers = self._resized(self._layers, *has)

  def _widths(self, rows: int) -> list[int]:
    """Numbers of columns for so many slots; a single row gains little from those in between."""
    return [w for w in self.widths if rows > 1 or w in self._doubled or w == self._length]

  def admit(self, slot: int, request: Request) -> None:
    """Gives a slot to a request."""
    words = request.key
    if words is None:
      words = (request.seed >> 32 & _WORD, request.seed & _WORD)
    self._state = self._admit(
      self._state,
      np.int32(slot),
      _options(request, self._vocab_size),
      np.array(words, np.uint32),
      np.int32(request.choice),
      np.bool_(request.key is not None),
      self.allowed_V,
    )
    if request.logit_bias or request.repetition_penalty != 1:
      self.dress(slot, request)

  def dress(self, slot: int, request: Request, mask_V: Any = None) -> None:
    """Tells a row its biases, the tokens of its prompt, and which ids alone may come next."""
    bias_V, prompt_V = np.zeros(self._vocab_size, np.float32), np.zeros(self._vocab_size, bool)
    for i, bias in request.logit_bias.items():
      bias_V[i] = bias
    if request.repetition_penalty != 1:
      prompt_V[list(request.prompt)] = True
    allowed_V = self.allowed_V if mask_V is None else self.allowed_V & np.asarray(mask_V, bool)
    self._state = self._dress(self._state, np.int32(slot), bias_V, prompt_V, allowed_V)

  def fork(self, source: int, slot: int, length: int) -> None:
    """Lets a row begin with the prompt of another, `length` tokens, and be written."""
    self._hold(slot + 1, length)
    self._layers = self._copied(self._layers, np.int32(source), np.int32(slot))
    self._state = self._forked(self._state, np.int32(source), np.int32(slot), np.int32(length))

  def begin(self, found: Sequence[int]) -> None:
    """Clears the desk for a prompt whose first chunks lie in the blocks `found`."""
    where_N = np.zeros(max(self._length // self._chunk, 1), np.int32)
    where_N[: len(found)] = found
    self._desk = self._begin(self._desk, self._pool, where_N, np.int32(len(found)))

  def read(
    self, ids: Sequence[int], done: int, block: int | None, after: int | None = None
  ) -> tuple[Any, Any]:
    """Reads the next tokens of the prompt at the desk, at most a chunk; see `slots.prefill`.

    Args:
      ids: the tokens.
      done: how many are read already.
      block: where the chunk is kept, or None.
      after: the id behind them, or None where nobody asks how likely they were.
    """
    ids_C = np.zeros(self._chunk, np.int32)
    ids_C[: len(ids)] = ids
    where = np.int32(self._blocks if block is None else block)
    width = _first(self.reads, min(done + self._chunk, self._length))
    self._desk, self._pool, logits_V, scores = self._prefill(
      width if after is None else self._length,  # rare, so one program will do
      after is not None,
      self._params,
      self._desk,
      self._pool,
      ids_C,
      np.int32(len(ids)),
      where,
      np.int32(after or 0),
    )
    return logits_V, scores

  def seat(self, slot: int, ids: Sequence[int], logits_V: Any) -> None:
    """Lets the row whose prompt was read at the desk be written."""
    self._hold(slot + 1, len(ids))
    self._layers = self._seated(self._layers, self._desk, np.int32(slot))
    text_S = np.zeros(self._kept, np.int32)
    text_S[: len(ids)] = ids[: self._kept]
    where = np.int32(slot), logits_V, np.int32(len(ids)), text_S
    self._state = self._begun(self._state, *where)

  def _hold(self, slots: int, columns: int) -> None:
    """As `fit`, but for less than there is."""
    has = self.size
    self.fit(max(slots, has[0]), max(columns, has[1]))

  def write(self, columns_R: np.ndarray) -> programs.Written:
    """Writes tokens to living rows, for which there is room.

    Args:
      columns_R: int32, most tokens of each slot; 0 lets a row rest.
    """
    write = self._look if self.looks and self.size[0] == 1 else self._decode
    self._state, self._layers, written = write(self._params, self._state, self._layers, columns_R)
    return written

  def stop(self, stop_R: np.ndarray) -> None:
    """Ends rows."""
    self._state = self._stopped(self._state, stop_R)

  def move(self, source: int, slot: int) -> None:
    """Puts a row into another slot."""
    where = np.int32(source), np.int32(slot)
    self._layers = self._copied(self._layers, *where)
    self._state = self._moved(self._state, *where)

  def warm(self) -> None:
    """Compiles everything, and finds out which small programs can be used; slots are empty then."""
    self._state = self._layers = self._desk = self._pool = None  # room for those that are compared
    alone = self._mesh is None or batch_shards(self._mesh) == 1
    rows = [size for size in ROWS if size < self._slots] if alone else []
    least = max(self._chunk, self._columns + 2)
    doubled = self._doubled = [NARROWEST << i for i in range(self._length.bit_length())]
    fits = lambda sizes: [*sorted(w for w in sizes if least <= w < self._length), self._length]
    # A chunk is many tokens: fewer columns save little of its time, and a program takes seconds.
    self.reads = fits([w for w in doubled if 4 * w <= self._length])
    self.sizes = [*rows, self._slots]
    self.widths = fits([*doubled, *(w // 2 * 3 for w in doubled)])
    for width in self.reads[:]:
      if not _same(self._tried_read(self._length, width), self._tried_read(width, width)):
        self.reads.remove(width)
    found = {}
    for width in self.widths:
      whole = self._tried_write(self._slots, self._length, width)
      for size in (size for size in self.sizes if width in self._widths(size)):
        first = jax.tree.map(lambda x, size=size: x[:size], whole)
        found[size, width] = _same(first, self._tried_write(size, width, width))
    self.widths = [w for w in self.widths if found.get((self._slots, w))]
    self.sizes = [r for r in self.sizes if all(found[r, w] for w in self._widths(r))]
    alone = self._ahead > 1 and self.sizes[0] == 1
    self.looks = alone and all(map(self._same_looked, self._widths(1)))
    self._empty()
    self.admit(0, request := Request(prompt=[0], max_new=1))
    self.dress(0, request)
    self.begin([])
    self.read(request.prompt, 0, None, after=0)
    self.begin([])
    logits_V, _ = self.read(request.prompt, 0, None)
    for size, width in ((r, w) for r in self.sizes for w in self._widths(r)):
      self._layers = self._room(size, width)
      self.seat(0, request.prompt, logits_V)
      self.write(np.zeros(self._slots, np.int32))
      self.move(0, 0)
      for rows in _beside(self.sizes, size):
        if width in self._widths(rows):
          self._resized(self._layers, rows, width)
      for columns in _beside(self._widths(size), width):
        self._resized(self._layers, size, columns)
    self.fork(0, 0, 1)
    self.stop(np.ones(self._slots, bool))
    self._layers = self._room(self.sizes[0], self._widths(self.sizes[0])[0])

  def _tried_read(self, width: int, columns: int) -> Any:
    """What a program for so many columns makes of a chunk that ends at the last of `columns`."""
    desk = self._desked()
    ids_C = np.random.default_rng(columns).integers(0, self._vocab_size, self._chunk, np.int32)
    done = np.int32((columns - self._chunk) // self._chunk * self._chunk)
    desk = dataclasses.replace(desk, layers=self._invented(desk.layers), index=done)
    sizes = np.int32(self._chunk), np.int32(0), np.int32(0)
    desk, _, logits_V, _ = self._prefill(
      width, False, self._params, desk, self._pooled(), ids_C, *sizes
    )
    return jax.device_get((desk.layers, logits_V))

  def _tried_write(self, rows: int, width: int, columns: int) -> Any:
    """What a program of a size writes to rows that end before the last of `columns`."""
    draw = np.random.default_rng(columns)
    most = max(columns - self._columns, 1)
    index_R = draw.integers(0, most, self._slots, np.int32) + 1
    state, layers, written = self._written(self._decode, rows, width, index_R)
    rows_first = jax.tree.map(lambda x: np.asarray(x).swapaxes(0, 1), written)
    layers = jax.tree.map(lambda x: np.asarray(x)[:, :, :columns], layers)
    return rows_first, layers, np.asarray(state.logits_RV)[:rows]

  def _written(self, program: Any, rows: int, width: int, index_R: Any, text_S: Any = 0) -> Any:
    """What a program writes to rows of such lengths."""
    state = self._filled(self._fresh(), index_R)
    state = dataclasses.replace(state, text_RS=state.text_RS + text_S)
    self._layers = self._invented(self._room(self._slots, self._length))
    self.fit(rows, width)
    layers, self._layers = self._layers, None
    return program(self._params, state, layers, np.full_like(index_R, self._columns))

  def _same_looked(self, width: int) -> bool:
    """Whether a row that is written by look-up has the bits of one that is not."""
    at, least = width - self._columns, looking.LEAST - 1
    if at <= least:
      return False
    index_R, text_S = np.full(self._slots, at, np.int32), np.arange(self._length, dtype=np.int32)
    found = []
    for program in (self._decode, self._look):
      state, layers, written = self._written(program, 1, width, index_R, text_S)
      found.append(jax.device_get((written, state.logits_RV[0], layers)))
      # What was written stands in the text before, but for the last token.
      said = found[0][0].token[:-1, 0]
      text_S[: least + len(said)] = np.append(text_S[at - least : at], said)
    return _same(*found)

  def _placed(self, state: Any) -> Any:
    """Rows cut over the mesh, always in the same way."""
    return jax.tree.map(lambda x: constrain(x, 'batch'), state)

  def _rows(self, layers: Any) -> Any:
    """The same for rows and heads."""
    return jax.tree.map(lambda x: constrain(x, 'batch', 'tensor'), layers)

  def _heads(self, layers: Any) -> Any:
    """The same for heads alone."""
    return jax.tree.map(lambda x: constrain(x, None, 'tensor'), layers)


_OF_STATE = ('admit', 'dress', 'forked', 'begun', 'stopped', 'moved')
_WORD = 2**32 - 1


def keep_programs() -> None:
  """Lets JAX's cache keep all programs, the small ones too, for who starts again and should answer
  soon."""
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def compiled() -> int:
  """How many programs this process has compiled since it first asked."""
  _listen()
  return _counted[0]


@functools.cache
def _listen() -> None:
  def count(event: str, duration_secs: float, **about: Any) -> None:
    del duration_secs, about
    _counted[0] += event == _COMPILED

  jax.monitoring.register_event_duration_secs_listener(count)


def _first(sizes: Sequence[int], least: int) -> int:
  """The smallest that is large enough."""
  return next(size for size in sizes if size >= least)


def _same(found: Any, other: Any) -> bool:
  """Whether all bits are the same."""
  same = lambda x, y: np.array_equal(x, y, equal_nan=True)
  return all(jax.tree.leaves(jax.tree.map(same, found, other)))


def _beside(sizes: Sequence[int], size: int) -> list[int]:
  """The next smaller and the next larger one, where there are any."""
  at = sizes.index(size)
  return [*sizes[max(at - 1, 0) : at], *sizes[at + 1 : at + 2]]


def _nearer(sizes: Sequence[int], size: int, wanted: int) -> int:
  """The next one on the way from a size to another."""
  return _beside(sizes, size)[-1 if wanted > size else 0]


def _options(request: Request, vocab_size: int) -> programs.Options:
  """Of one row."""
  stop = sorted(set(request.stop))
  return programs.Options(
    temperature=np.float32(request.temperature),
    top_p=np.float32(1 if request.top_p is None else request.top_p),
    min_p=np.float32(0 if request.min_p is None else request.min_p),
    repetition=np.float32(request.repetition_penalty),
    frequency=np.float32(request.frequency_penalty),
    presence=np.float32(request.presence_penalty),
    top_k=np.int32(min(request.top_k or vocab_size, vocab_size)),
    min_new=np.int32(min(request.min_new, request.max_new)),
    max_new=np.int32(request.max_new),
    top=np.bool_(bool(request.top_logprobs)),
    masked=np.bool_(bool(request.logit_bias) or request.allow is not None),
    stop=np.array(stop + [-1] * (STOPS - len(stop)), np.int32),
  )

"""The device side of the engine: the slots, and the compiled programs that work on them.

Small programs, for the first slots and the first columns of their caches alone, are used where they
give the very bits of the whole one. Whether they do depends on how a compiler adds up, so `warm`
compares them, on the machine and the model at hand.
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
from llm_jax.sampling import slots as programs
from llm_jax.sampling.complete import spoken
from llm_jax.sampling.request import STOPS, Request
from llm_jax.types import Model, Params, Tokenizer

NARROWEST = 128  # columns of the narrowest caches that are looked at; each next is twice as wide
ROWS = (1, 8, 32)  # slots of small programs
_COMPILED = '/jax/core/compile/backend_compile_duration'
_counted = [0]


class Runner:
  """Slots on the device.

  Attributes:
    sizes: numbers of slots for which there are programs, the last of all slots.
    widths: numbers of columns for which there are programs, the last of all columns.
    allowed_V: bool, which ids stand for something.
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
    mesh: Any,
  ) -> None:
    """Arguments as those of `Engine`; nothing is compiled yet."""
    self.sizes, self.widths = [slots], [length]
    allowed_V = spoken(model, tokenizer)
    self.allowed_V = np.ones(model.shape.vocab_size, bool) if allowed_V is None else allowed_V
    self._slots, self._length, self._chunk, self._columns = slots, length, chunk, columns
    self._vocab_size, self._mesh, self._blocks = model.shape.vocab_size, mesh, blocks
    self._fast: Any = None  # the model in the form that decodes
    self._params: Any = None
    self._state: Any = None
    self._pool: Any = None

    def arranged(params: Params) -> Params:
      self._fast, params = model.for_decoding(params)
      alone = mesh is None or mesh.size == 1
      return self._fast.in_blocks(params) if platform() == 'cpu' and alone else params

    def fresh() -> Any:
      state = programs.empty(model, slots, length, jnp.asarray(self.allowed_V))
      return self._placed(state), self._placed_pool(programs.blocks(model, blocks, chunk))

    def prefill(width: int, scored: bool, params: Params, state: Any, pool: Any, *args: Any) -> Any:
      how: Any = dict(model=self._fast, width=width, scored=scored)
      state, pool, scores = programs.prefill(params, state, pool, *args, **how)
      return self._placed(state), self._placed_pool(pool), scores

    def decode(rows: int, width: int, params: Params, state: Any, columns_R: Any) -> Any:
      how: Any = dict(model=self._fast, rows=rows, width=width, most=columns)
      state, written = programs.decode(params, state, columns_R, **how)
      return self._placed(state), written

    keep = lambda f: jax.jit(lambda *args: self._placed(f(*args)), donate_argnums=0)
    self._arranged, self._fresh = jax.jit(arranged), jax.jit(fresh)
    self._cut = jax.jit(programs.part, static_argnums=(1, 2))
    with self.on_mesh():
      # YNNPACK adds up few numbers in another order than many.
      options = {'xla_cpu_experimental_ynn_fusion_type': ''} if platform() == 'cpu' else None
    how: Any = dict(compiler_options=options)
    self._prefill = jax.jit(prefill, static_argnums=(0, 1), donate_argnums=(3, 4), **how)
    self._decode = jax.jit(decode, static_argnums=(0, 1), donate_argnums=3, **how)
    self._admit, self._dress, self._fork, self._stopped, self._moved, self._filled = map(
      keep, (*(getattr(programs, name) for name in _ROWS), programs.filled)
    )

  @property
  def decoding(self) -> tuple[Any, Any]:
    """The model in the form that decodes, and its parameters."""
    return self._fast, self._params

  def on_mesh(self) -> Any:
    """The context in which all else is called."""
    return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

  def load(self, params: Params) -> None:
    """Other parameters; the slots are empty then."""
    self._params = self._arranged(params)
    if self._state is None:
      self._state, self._pool = self._fresh()

  def admit(self, slot: int, request: Request, found: Sequence[int]) -> None:
    """Gives a slot to a request whose first chunks lie in the blocks `found`."""
    where_N = np.zeros(max(self._length // self._chunk, 1), np.int32)
    where_N[: len(found)] = found
    words = request.key
    if words is None:
      words = (request.seed >> 32 & _WORD, request.seed & _WORD)
    self._state = self._admit(
      self._state,
      self._pool,
      np.int32(slot),
      _options(request, self._vocab_size),
      np.array(words, np.uint32),
      np.int32(request.choice),
      np.bool_(request.key is not None),
      self.allowed_V,
      where_N,
      np.int32(len(found)),
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
    self._state = self._fork(self._state, np.int32(source), np.int32(slot), np.int32(length))

  def read(
    self,
    slot: int,
    ids: Sequence[int],
    done: int,
    block: int | None,
    last: bool,
    after: int | None = None,
  ) -> Any:
    """Reads the next tokens of a prompt, at most a chunk; see `slots.prefill`.

    Args:
      slot: of the row.
      ids: the tokens.
      done: how many are read already.
      block: where the chunk is kept, or None.
      last: whether the row is to be written now.
      after: the id behind them, or None where nobody asks how likely they were.
    """
    ids_C = np.zeros(self._chunk, np.int32)
    ids_C[: len(ids)] = ids
    where = np.int32(self._blocks if block is None else block)
    width = _first(self.widths, min(done + self._chunk, self._length))
    arguments = (np.int32(slot), ids_C, np.int32(len(ids)), where, np.bool_(last))
    self._state, self._pool, scores = self._prefill(
      width if after is None else self._length,  # rare, so one program will do
      after is not None,
      self._params,
      self._state,
      self._pool,
      *arguments,
      np.int32(after or 0),
    )
    return scores

  def write(self, slots: int, columns_R: np.ndarray, size: int) -> programs.Written:
    """Writes tokens to living rows, which are in the first `slots`.

    Args:
      slots: how many.
      columns_R: int32, most tokens of each slot; 0 lets a row rest.
      size: tokens of the longest row then, at most.
    """
    rows, width = _first(self.sizes, slots), _first(self.widths, min(size, self._length))
    self._state, written = self._decode(rows, width, self._params, self._state, columns_R)
    return written

  def stop(self, stop_R: np.ndarray) -> None:
    """Ends rows."""
    self._state = self._stopped(self._state, stop_R)

  def move(self, source: int, slot: int) -> None:
    """Puts a row into another slot."""
    self._state = self._moved(self._state, np.int32(source), np.int32(slot))

  def warm(self) -> None:
    """Compiles everything, and finds out which small programs can be used; slots are empty then."""
    self._state = self._pool = None  # room for those of `_same`
    widths, rows = [], []
    width = NARROWEST
    while width < self._length:
      widths += [width] if width >= max(self._chunk, self._columns + 2) else []
      width *= 2
    if self._mesh is None or batch_shards(self._mesh) == 1:
      rows = [size for size in ROWS if size < self._slots]
    self.widths = [w for w in widths if self._same(self._slots, w)] + [self._length]
    self.sizes = [r for r in rows if all(self._same(r, w) for w in self.widths)] + [self._slots]
    self._state, self._pool = self._fresh()
    request = Request(prompt=[0], max_new=1)
    self.admit(0, request, [])
    self.read(0, request.prompt, self._length, None, True)
    self.read(0, request.prompt, self._length, None, True, after=0)
    self.write(self._slots, np.ones(self._slots, np.int32), self._length)
    self.dress(0, request)
    self.fork(0, 0, 1)
    self.move(0, 0)
    self.stop(np.ones(self._slots, bool))

  def _same(self, rows: int, width: int) -> bool:
    """Whether programs for the first rows and columns give the bits of the whole ones."""
    draw = np.random.default_rng(width)
    index_R = draw.integers(1, max(width - self._columns, 2), self._slots, np.int32)
    index_R[0] = (width - self._chunk) // self._chunk * self._chunk
    ids_C = draw.integers(0, self._vocab_size, self._chunk, np.int32)
    arguments = (np.int32(0), ids_C, np.int32(self._chunk), np.int32(self._blocks), np.bool_(True))
    arguments = (*arguments, np.int32(0))
    found = []
    for r, w in ((self._slots, self._length), (rows, width)):
      state, pool = self._fresh()
      state = self._filled(state, index_R)
      state, pool, _ = self._prefill(w, False, self._params, state, pool, *arguments)
      read = np.asarray(state.logits_RV[0]), jax.device_get(self._cut(state, 1, width).cache)
      state = self._filled(state, np.minimum(index_R, width - self._columns))
      columns_R = np.full(self._slots, self._columns, np.int32)
      state, written = self._decode(r, w, self._params, state, columns_R)
      small = self._cut(state, rows, width)
      cut = jax.tree.map(lambda x: x[:, :rows], written)
      found.append(jax.device_get((read, cut, small.cache, small.logits_RV)))
    same = lambda x, y: np.array_equal(x, y, equal_nan=True)
    return all(jax.tree.leaves(jax.tree.map(same, *found)))

  def _placed(self, state: Any) -> Any:
    """Rows and heads cut over the mesh, always in the same way."""
    state = jax.tree.map(lambda x: constrain(x, 'batch'), state)
    layers = jax.tree.map(lambda x: constrain(x, 'batch', 'tensor'), state.cache.layers)
    return dataclasses.replace(state, cache=dataclasses.replace(state.cache, layers=layers))

  def _placed_pool(self, pool: Any) -> Any:
    return jax.tree.map(lambda x: constrain(x, None, 'tensor'), pool)


_ROWS = ('admit', 'dress', 'fork', 'stopped', 'moved')
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

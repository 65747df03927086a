"""Rows in slots: what the engine has on the device, and the programs that change it.

A slot holds a row that begins at position 0, so its position is where its cache goes on. Options
are arrays, one entry a slot, so that one program serves whatever requests ask for; `writing.py` has
the one that writes.

Keys and values, which are most of it, are apart: `layers` of the first slots alone and of their
first columns, as far as they are needed, so that a step reads no more. A prompt is read at a desk,
which has room for one row, and then takes its seat.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from llm_jax.sampling.request import STOPS, TOP
from llm_jax.types import Array, Model, Params


@flax.struct.dataclass
class Options:
  """What requests ask for [R]; one that is not asked for has a number that changes nothing."""

  temperature: Any
  top_p: Any
  min_p: Any
  repetition: Any
  frequency: Any
  presence: Any
  top_k: Any
  min_new: Any
  max_new: Any
  top: Any  # bool, whether the likeliest tokens are wanted
  masked: Any  # bool, whether biases or a mask have been given
  stop: Any  # [R, STOPS], filled with -1


@flax.struct.dataclass
class State:
  """R slots.

  Attributes:
    index_R: where each row goes on.
    logits_RV: of the next token.
    first_RV: of the first token after the prompt.
    how: Options.
    words_R2: of a random key each; token i is drawn with fold_in(key, i).
    alive_R: bool, being written.
    count_R: tokens written.
    said_RV: how often each token was written.
    text_RS: prompt and answer, where they are looked up; else of no columns.
    prompt_RV: bool, which tokens the prompt holds; where there is a repetition penalty.
    bias_RV: added to logits.
    allowed_RV: bool, which tokens may be picked.
  """

  index_R: Array
  logits_RV: Array
  first_RV: Array
  how: Options
  words_R2: Array
  alive_R: Array
  count_R: Array
  said_RV: Array
  text_RS: Array
  prompt_RV: Array
  bias_RV: Array
  allowed_RV: Array


@flax.struct.dataclass
class Desk:
  """Where a prompt is read.

  Attributes:
    layers: of a cache, one row of all columns.
    index: tokens that have been read.
  """

  layers: Any
  index: Array


@flax.struct.dataclass
class Written:
  """What `decode` wrote [C, R]; -1 where a row had ended.

  Attributes:
    token, logp, sampled: see `request.Event`.
    top_logp, top_token: [C, R, TOP], where wanted.
  """

  token: Array
  logp: Array
  sampled: Array
  top_logp: Array
  top_token: Array


def empty(model: Model, slots: int, allowed_V: Array, columns: int) -> State:
  """Slots without rows; `columns` of their text are kept."""
  size = model.shape.vocab_size
  real = lambda value: jnp.full(slots, value, jnp.float32)
  whole = lambda value: jnp.full(slots, value, jnp.int32)
  no = lambda: jnp.zeros(slots, bool)
  table = lambda dtype: jnp.zeros((slots, size), dtype)
  how = Options(
    temperature=real(1),
    top_p=real(1),
    min_p=real(0),
    repetition=real(1),
    frequency=real(0),
    presence=real(0),
    top_k=whole(size),
    min_new=whole(0),
    max_new=whole(0),
    top=no(),
    masked=no(),
    stop=jnp.full((slots, STOPS), -1, jnp.int32),
  )
  return State(
    index_R=whole(0),
    logits_RV=table(jnp.float32),
    first_RV=table(jnp.float32),
    how=how,
    words_R2=jnp.zeros((slots, 2), jnp.uint32),
    alive_R=no(),
    count_R=whole(0),
    said_RV=table(jnp.int32),
    text_RS=jnp.zeros((slots, columns), jnp.int32),
    prompt_RV=table(bool),
    bias_RV=table(jnp.float32),
    allowed_RV=jnp.broadcast_to(allowed_V, (slots, size)),
  )


def layers(model: Model, rows: int, columns: int) -> Any:
  """Room for keys and values: of slots, of a desk, or of the chunks that are kept."""
  cache: Any = model.make_cache(rows, columns)
  return cache.layers


def admit(
  state: State,
  slot: Array,
  how: Options,
  words: Array,
  choice: Array,
  exact: Array,
  allowed_V: Array,
) -> State:
  """A slot for a new row.

  Args:
    state: of the slots.
    slot: its number.
    how: of the request, scalars and `stop` [STOPS].
    words: uint32 [2], of its seed or key.
    choice: of the request.
    exact: bool, whether the words are those of the key of its prompt, and not of a seed.
    allowed_V: bool, which tokens stand for something.
  """
  fold = lambda words, number: jax.random.key_data(jax.random.fold_in(key_of(words), number))
  words = fold(jnp.where(exact, words, fold(words, 0)), choice)
  return dataclasses.replace(
    state,
    index_R=state.index_R.at[slot].set(0),
    how=jax.tree.map(lambda x, new: x.at[slot].set(new), state.how, how),
    words_R2=state.words_R2.at[slot].set(words),
    alive_R=state.alive_R.at[slot].set(False),
    count_R=state.count_R.at[slot].set(0),
    said_RV=state.said_RV.at[slot].set(0),
    prompt_RV=state.prompt_RV.at[slot].set(False),
    bias_RV=state.bias_RV.at[slot].set(0),
    allowed_RV=state.allowed_RV.at[slot].set(allowed_V),
  )


def begin(desk: Desk, pool: Any, where_N: Array, count: Array) -> Desk:
  """The desk with the first `count` chunks of a prompt, which are copied from blocks `where_N`."""
  chunk = jax.tree.leaves(pool)[0].shape[2]

  def copy(i: Array, layers: Any) -> Any:
    block = lambda x: jax.lax.dynamic_slice_in_dim(x, where_N[i], 1)
    return jax.tree.map(lambda x, y: _paste(x, block(y), (0, 0, i * chunk, 0)), layers, pool)

  return Desk(jax.lax.fori_loop(0, count, copy, desk.layers), count * chunk)


def dress(state: State, slot: Array, bias_V: Array, prompt_V: Array, allowed_V: Array) -> State:
  """A row with what takes a number for each token."""
  return dataclasses.replace(
    state,
    prompt_RV=state.prompt_RV.at[slot].set(prompt_V),
    bias_RV=state.bias_RV.at[slot].set(bias_V),
    allowed_RV=state.allowed_RV.at[slot].set(allowed_V),
  )


def prefill(
  params: Params,
  desk: Desk,
  pool: Any,
  ids_C: Array,
  length: Array,
  block: Array,
  after: Array,
  *,
  model: Model,
  width: int,
  scored: bool,
) -> tuple[Desk, Any, Array, Any]:
  """Reads the next chunk of a prompt; with `scored` also how likely its next tokens were.

  What is returned, beside desk and pool, are the logits [V] of the token behind the chunk; and, if
  asked for, of the token behind each of the chunk, its log-probability [C], and those of the
  likeliest [C, TOP] with their ids.

  Args:
    params: of the model.
    desk: with what comes before.
    pool: chunks that are kept.
    ids_C: the chunk, padded on the right.
    length: how many of them are real.
    block: where a whole chunk is kept; the last of the pool for nowhere.
    after: the id behind the chunk, if it is scored.
    model: a causal one.
    width: columns that are looked at.
    scored: whether the tokens of the prompt are scored.
  """
  chunk = ids_C.shape[0]
  start = jnp.minimum(desk.index, width - chunk)
  column_1C = desk.index + jnp.arange(chunk)[None]
  real_1C = (jnp.arange(chunk) < length)[None].astype(jnp.int32)
  cache = cache_of(model, resized(desk.layers, 1, width), desk.index[None])
  hidden_1CD, cache = model.apply(params, ids_C[None], column_1C, real_1C, cache, method='hidden')
  hidden_1D = jax.lax.dynamic_index_in_dim(hidden_1CD, length - 1, 1, keepdims=False)
  logits_V = model.apply(params, hidden_1D, method='unembed')[0]
  cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, chunk, axis=2)
  new = jax.tree.map(cut, cache.layers)
  layers = jax.tree.map(lambda x, y: _paste(x, y, (0, 0, start, 0)), desk.layers, new)
  pool = jax.tree.map(lambda x, y: _paste(x, y, (block, 0, 0, 0)), pool, new)
  scores = None
  if scored:
    logits_CV = model.apply(params, hidden_1CD, method='unembed')[0]
    logp_CV = jax.nn.log_softmax(logits_CV.astype(jnp.float32))
    next_C = jnp.append(ids_C[1:], 0).at[length - 1].set(after)
    scores = (jnp.take_along_axis(logp_CV, next_C[:, None], axis=1)[:, 0], *likeliest(logp_CV))
  return Desk(layers, desk.index + length), pool, logits_V, scores


def likeliest(logp_RV: Array) -> tuple[Array, Array]:
  """The likeliest tokens [R, TOP]: their log-probabilities, and their ids."""
  few = min(TOP, logp_RV.shape[1])
  logp_RT, token_RT = jax.lax.top_k(logp_RV, few)
  pad = ((0, 0), (0, TOP - few))
  return jnp.pad(logp_RT, pad), jnp.pad(token_RT, pad, constant_values=-1)


def cache_of(model: Model, layers: Any, index_R: Array) -> Any:
  """A cache of the model, of rows that begin at position 0 and have no padding."""
  rows, columns = size_of(layers)
  column_RS = jnp.broadcast_to(jnp.arange(columns), (rows, columns))
  segment_RS = (column_RS < index_R[:, None]).astype(jnp.int32)
  shape: Any = jax.eval_shape(lambda: model.make_cache(rows, columns))
  return dataclasses.replace(
    shape, layers=layers, position=column_RS, segment=segment_RS, index=index_R
  )


def size_of(layers: Any) -> tuple[int, int]:
  """Rows and columns."""
  shape = jax.tree.leaves(layers)[0].shape
  return shape[0], shape[2]


def resized(layers: Any, rows: int, columns: int) -> Any:
  """The first rows and columns, or more than there are."""

  def one(x: Array) -> Array:
    x = x[:rows, :, :columns]
    more = ((0, rows - x.shape[0]), (0, 0), (0, columns - x.shape[2]), (0, 0))
    return jnp.pad(x, more) if any(size for _, size in more) else x

  return jax.tree.map(one, layers)


def seated(layers: Any, desk: Desk, slot: Array) -> Any:
  """The layers of the slots with that of the desk; columns that they lack are left out."""
  one = resized(desk.layers, 1, min(size_of(layers)[1], size_of(desk.layers)[1]))
  return jax.tree.map(lambda x, y: _paste(x, y, (slot, 0, 0, 0)), layers, one)


def copied(layers: Any, source: Array, slot: Array) -> Any:
  """The layers of the slots, in which one is as another."""
  row = lambda x: jax.lax.dynamic_slice_in_dim(x, source, 1)
  return jax.tree.map(lambda x: _paste(x, row(x), (slot, 0, 0, 0)), layers)


def begun(state: State, slot: Array, logits_V: Array, length: Array, text_S: Array) -> State:
  """A row whose prompt, of `length` tokens, has been read; its text begins with them."""
  return dataclasses.replace(
    state,
    index_R=state.index_R.at[slot].set(length),
    logits_RV=state.logits_RV.at[slot].set(logits_V),
    first_RV=state.first_RV.at[slot].set(logits_V),
    text_RS=state.text_RS.at[slot].set(text_S),
    alive_R=state.alive_R.at[slot].set(True),
  )


def forked(state: State, source: Array, slot: Array, length: Array) -> State:
  """A row that begins with the prompt of another, of `length` tokens, which has been read."""
  return begun(state, slot, state.first_RV[source], length, state.text_RS[source])


def stopped(state: State, stop_R: Array) -> State:
  """The slots with some rows ended."""
  return dataclasses.replace(state, alive_R=state.alive_R & ~stop_R)


def moved(state: State, source: Array, slot: Array) -> State:
  """A row in another slot."""
  state = jax.tree.map(
    lambda x: x.at[slot].set(jax.lax.dynamic_index_in_dim(x, source, keepdims=False)), state
  )
  return dataclasses.replace(state, alive_R=state.alive_R.at[source].set(False))


def filled(state: State, index_R: Array) -> State:
  """Slots full of living rows of these lengths, whose logits are invented."""
  noise_RV = jax.random.normal(jax.random.key(0), state.logits_RV.shape)
  return dataclasses.replace(
    state,
    index_R=index_R,
    logits_RV=noise_RV,
    alive_R=jnp.ones_like(state.alive_R),
    how=dataclasses.replace(
      state.how, max_new=jnp.full_like(state.how.max_new, 2**30), top=jnp.ones_like(state.how.top)
    ),
  )


def invented(layers: Any, vocab_size: int) -> Any:
  """Keys and values of no text."""

  def some(x: Array) -> Array:
    noise = jax.random.normal(jax.random.key(0), x.shape)
    return (noise * (40 if jnp.issubdtype(x.dtype, jnp.integer) else 1)).astype(x.dtype)

  def layer(held: Any) -> Any:
    if 'token' in held:
      return {'token': jax.random.randint(jax.random.key(0), held['token'].shape, 0, vocab_size)}
    return {
      k: jnp.full_like(x, 1 / 64) if k.endswith('_scale') else some(x) for k, x in held.items()
    }

  return tuple(map(layer, layers))


def _paste(x: Array, new: Array, start: Any) -> Array:
  """`x` with `new` from `start` on; 16 bits as integers, see `Slots.put_heads`."""
  if x.dtype != jnp.bfloat16:
    return jax.lax.dynamic_update_slice(x, new, start)
  x, new = (jax.lax.bitcast_convert_type(y, jnp.uint16) for y in (x, new))
  return jax.lax.bitcast_convert_type(jax.lax.dynamic_update_slice(x, new, start), jnp.bfloat16)


def key_of(words: Array) -> Array:
  """Random keys of two words each, as `jax.random.key(seed)` makes them."""
  return jax.random.wrap_key_data(words, impl='threefry2x32')

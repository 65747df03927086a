"""Rows in slots: what the engine has on the device, and the programs that change it.

A slot holds a row that begins at position 0, so its position is where its cache goes on. Options
are arrays, one entry a slot, so that one program serves whatever requests ask for; what most of
them do not need (sorting, penalties, the likeliest tokens) is behind a condition, and everything
before and after the condition is the same. That is why a token does not depend on the neighbours.

A program may work on the first slots alone, and on the first columns of their caches: `part` cuts
them out, `merged` puts them back.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from llm_jax.sampling.pick import draw, truncate
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
    cache: of the model, [R] rows of S columns.
    logits_RV: of the next token.
    first_RV: of the first token after the prompt.
    how: Options.
    words_R2: of a random key each; token i is drawn with fold_in(key, i).
    alive_R: bool, being written.
    count_R: tokens written.
    said_RV: how often each token was written.
    prompt_RV: bool, which tokens the prompt holds; where there is a repetition penalty.
    bias_RV: added to logits.
    allowed_RV: bool, which tokens may be picked.
  """

  cache: Any
  logits_RV: Array
  first_RV: Array
  how: Options
  words_R2: Array
  alive_R: Array
  count_R: Array
  said_RV: Array
  prompt_RV: Array
  bias_RV: Array
  allowed_RV: Array


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


def empty(model: Model, slots: int, length: int, allowed_V: Array) -> State:
  """Slots without rows."""
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
    cache=model.make_cache(slots, length),
    logits_RV=table(jnp.float32),
    first_RV=table(jnp.float32),
    how=how,
    words_R2=jnp.zeros((slots, 2), jnp.uint32),
    alive_R=no(),
    count_R=whole(0),
    said_RV=table(jnp.int32),
    prompt_RV=table(bool),
    bias_RV=table(jnp.float32),
    allowed_RV=jnp.broadcast_to(allowed_V, (slots, size)),
  )


def blocks(model: Model, count: int, chunk: int) -> Any:
  """Room for keys and values of `count` chunks, and one more that nobody reads."""
  cache: Any = model.make_cache(count + 1, chunk)
  return cache.layers


def admit(
  state: State,
  pool: Any,
  slot: Array,
  how: Options,
  words: Array,
  choice: Array,
  exact: Array,
  allowed_V: Array,
  where_N: Array,
  count: Array,
) -> State:
  """A slot for a new row, whose first `count` chunks are copied from the blocks `where_N`.

  Args:
    state: of the slots.
    pool: of `blocks`.
    slot: its number.
    how: of the request, scalars and `stop` [STOPS].
    words: uint32 [2], of its seed or key.
    choice: of the request.
    exact: bool, whether the words are those of the key of its prompt, and not of a seed.
    allowed_V: bool, which tokens stand for something.
    where_N: numbers of blocks.
    count: how many of them.
  """
  cache, chunk = state.cache, jax.tree.leaves(pool)[0].shape[2]

  def copy(i: Array, layers: Any) -> Any:
    block = lambda x: jax.lax.dynamic_slice_in_dim(x, where_N[i], 1)
    put = lambda x, held: _paste(x, block(held), (slot, 0, i * chunk, 0))
    return jax.tree.map(put, layers, pool)

  columns = jnp.arange(cache.segment.shape[1])
  cache = dataclasses.replace(
    cache,
    layers=jax.lax.fori_loop(0, count, copy, cache.layers),
    position=cache.position.at[slot].set(columns),
    segment=cache.segment.at[slot].set((columns < count * chunk).astype(jnp.int32)),
    index=cache.index.at[slot].set(count * chunk),
  )
  fold = lambda words, number: jax.random.key_data(jax.random.fold_in(_key(words), number))
  words = fold(jnp.where(exact, words, fold(words, 0)), choice)
  return dataclasses.replace(
    state,
    cache=cache,
    how=jax.tree.map(lambda x, new: x.at[slot].set(new), state.how, how),
    words_R2=state.words_R2.at[slot].set(words),
    alive_R=state.alive_R.at[slot].set(False),
    count_R=state.count_R.at[slot].set(0),
    said_RV=state.said_RV.at[slot].set(0),
    prompt_RV=state.prompt_RV.at[slot].set(False),
    bias_RV=state.bias_RV.at[slot].set(0),
    allowed_RV=state.allowed_RV.at[slot].set(allowed_V),
  )


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
  state: State,
  pool: Any,
  slot: Array,
  ids_C: Array,
  length: Array,
  block: Array,
  last: Array,
  after: Array,
  *,
  model: Model,
  width: int,
  scored: bool,
) -> tuple[State, Any, Any]:
  """Reads the next chunk of a prompt; with `scored` also how likely its next tokens were.

  What is returned of them is log-probability [C], and those of the likeliest [C, TOP] with their
  ids, of the token behind each of the chunk.

  Args:
    params: of the model.
    state: of the slots.
    pool: of `blocks`.
    slot: of the row.
    ids_C: the chunk, padded on the right.
    length: how many of them are real.
    block: where a whole chunk is kept; the last of the pool for nowhere.
    last: bool, whether the prompt ends here, so that the row is written from now on.
    after: the id behind the chunk, if it is scored.
    model: a causal one.
    width: columns of the cache that are looked at.
    scored: whether the tokens of the prompt are scored.
  """
  chunk = ids_C.shape[0]
  one = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, slot, 1), narrow(state.cache, width))
  start = jnp.minimum(one.index[0], width - chunk)
  column_1C = one.index[0] + jnp.arange(chunk)[None]
  real_1C = (jnp.arange(chunk) < length)[None].astype(jnp.int32)
  hidden_1CD, one = model.apply(params, ids_C[None], column_1C, real_1C, one, method='hidden')
  hidden_1D = jax.lax.dynamic_index_in_dim(hidden_1CD, length - 1, 1, keepdims=False)
  logits_V = model.apply(params, hidden_1D, method='unembed')[0]
  cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, chunk, axis=2)
  new = jax.tree.map(cut, one.layers)
  flat = lambda x, from_1S: _paste(
    x, jax.lax.dynamic_slice(from_1S, (0, start), (1, chunk)), (slot, start)
  )
  cache = dataclasses.replace(
    state.cache,
    layers=jax.tree.map(lambda x, y: _paste(x, y, (slot, 0, start, 0)), state.cache.layers, new),
    position=flat(state.cache.position, one.position),
    segment=flat(state.cache.segment, one.segment),
    index=state.cache.index.at[slot].set(one.index[0]),
  )
  pool = jax.tree.map(lambda x, y: _paste(x, y, (block, 0, 0, 0)), pool, new)
  scores = None
  if scored:
    logits_CV = model.apply(params, hidden_1CD, method='unembed')[0]
    logp_CV = jax.nn.log_softmax(logits_CV.astype(jnp.float32))
    next_C = jnp.append(ids_C[1:], 0).at[length - 1].set(after)
    scores = (jnp.take_along_axis(logp_CV, next_C[:, None], axis=1)[:, 0], *_likeliest(logp_CV))
  return _begun(dataclasses.replace(state, cache=cache), slot, logits_V, last), pool, scores


def fork(state: State, source: Array, slot: Array, length: Array) -> State:
  """A row that begins with the prompt of another, of `length` tokens, which has been read."""
  cache = state.cache
  layers = jax.tree.map(
    lambda x: _paste(x, jax.lax.dynamic_slice_in_dim(x, source, 1), (slot, *(0,) * (x.ndim - 1))),
    cache.layers,
  )
  columns = jnp.arange(cache.segment.shape[1])
  cache = dataclasses.replace(
    cache,
    layers=layers,
    segment=cache.segment.at[slot].set((columns < length).astype(jnp.int32)),
    index=cache.index.at[slot].set(length),
  )
  return _begun(dataclasses.replace(state, cache=cache), slot, state.first_RV[source], True)


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
  """Slots full of living rows of these lengths, whose keys, values and logits are invented."""
  size, columns = state.logits_RV.shape[1], jnp.arange(state.cache.segment.shape[1])

  def some(x: Array) -> Array:
    noise = jax.random.normal(jax.random.key(0), x.shape)
    return (noise * (40 if jnp.issubdtype(x.dtype, jnp.integer) else 1)).astype(x.dtype)

  def layer(held: Any) -> Any:
    if 'token' in held:
      return {'token': jax.random.randint(jax.random.key(0), held['token'].shape, 0, size)}
    return {
      k: jnp.full_like(x, 1 / 64) if k.endswith('_scale') else some(x) for k, x in held.items()
    }

  cache = dataclasses.replace(
    state.cache,
    layers=tuple(map(layer, state.cache.layers)),
    position=jnp.broadcast_to(columns, state.cache.position.shape),
    segment=(columns < index_R[:, None]).astype(jnp.int32),
    index=index_R,
  )
  return dataclasses.replace(
    state,
    cache=cache,
    logits_RV=some(state.logits_RV),
    alive_R=jnp.ones_like(state.alive_R),
    how=dataclasses.replace(state.how, max_new=jnp.full_like(state.how.max_new, 2**30)),
  )


def decode(
  params: Params,
  state: State,
  columns_R: Array,
  *,
  model: Model,
  rows: int,
  width: int,
  most: int,
) -> tuple[State, Written]:
  """Writes tokens to living rows, to each up to its own number; fewer where it ends.

  Args:
    params: of the model.
    state: of the slots.
    columns_R: of each slot; at most `most`. A row that has written its own rests.
    model: a causal one.
    rows: the first slots, among which all living rows are.
    width: columns of the cache, enough for all that is written.
    most: C of what is written.
  """
  whole, state, columns_R = state, part(state, rows, width), columns_R[:rows]
  blank = lambda dtype, *more: jnp.zeros((most, rows, *more), dtype)
  written = Written(
    token=blank(jnp.int32) - 1,
    logp=blank(jnp.float32),
    sampled=blank(jnp.float32),
    top_logp=blank(jnp.float32, TOP),
    top_token=blank(jnp.int32, TOP),
  )

  def going(carry: tuple[Array, State, Written]) -> Array:
    done, state, _ = carry
    return ((done < columns_R) & state.alive_R).any()

  def step(carry: tuple[Array, State, Written]) -> tuple[Array, State, Written]:
    done, state, written = carry
    alive_R = state.alive_R & (done < columns_R)
    new = choose(state)
    token_R = jnp.where(alive_R, new.token, 0)
    written = jax.tree.map(
      lambda x, y: x.at[done].set(y),
      written,
      dataclasses.replace(new, token=jnp.where(alive_R, token_R, -1)),
    )
    column = (token_R, state.cache.index, alive_R.astype(jnp.int32))
    logits_RLV, cache = model.apply(params, *(x_R[:, None] for x_R in column), state.cache)
    count_R = state.count_R + alive_R
    ended_R = (token_R[:, None] == state.how.stop).any(1) | (count_R >= state.how.max_new)
    state = dataclasses.replace(
      state,
      cache=cache,
      logits_RV=jnp.where(alive_R[:, None], logits_RLV[:, 0], state.logits_RV),
      alive_R=state.alive_R & ~(alive_R & ended_R),
      count_R=count_R,
      said_RV=state.said_RV.at[jnp.arange(rows), token_R].add(alive_R.astype(jnp.int32)),
    )
    return done + 1, state, written

  _, state, written = jax.lax.while_loop(going, step, (jnp.int32(0), state, written))
  return merged(whole, state), written


def choose(state: State) -> Written:
  """The next token of each slot [R], alive or not.

  The order is that of `Pick`: biases and penalties of what was said act on logits, the repetition
  penalty on logits over the temperature, truncation on log-probabilities.
  """
  how, logits_RV = state.how, state.logits_RV
  model_RV = jax.nn.log_softmax(logits_RV)
  column = lambda x_R: x_R[:, None]
  flat_by = jnp.where(how.temperature == 0, 1, how.temperature)
  rows = jnp.arange(len(flat_by))

  def dressed(_: None) -> tuple[Array, Array]:
    said_RV = state.said_RV.astype(jnp.float32)
    changed_RV = logits_RV - said_RV * column(how.frequency)
    changed_RV = changed_RV - (said_RV > 0) * column(how.presence) + state.bias_RV
    flat_RV, by = changed_RV / column(flat_by), column(how.repetition)
    less_RV = jnp.where(flat_RV > 0, flat_RV / by, flat_RV * by)
    # Not yet an end: its ids are out of bounds, and dropped, where there is none.
    early_R1 = column(state.count_R < how.min_new)
    place_RT = jnp.where(early_R1 & (how.stop >= 0), how.stop, flat_RV.shape[1])
    allowed_RV = state.allowed_RV.at[rows[:, None], place_RT].set(False, mode='drop')
    return jnp.where((said_RV > 0) | state.prompt_RV, less_RV, flat_RV), allowed_RV

  plain = lambda _: (logits_RV / column(flat_by), state.allowed_RV)
  asks_R = (how.repetition != 1) | (how.frequency != 0) | (how.presence != 0) | how.masked
  asks_R |= state.count_R < how.min_new
  flat_RV, allowed_RV = jax.lax.cond((asks_R & state.alive_R).any(), dressed, plain, None)
  drawn_RV = jnp.where(allowed_RV, jax.nn.log_softmax(flat_RV), -jnp.inf)
  cuts_R = (how.top_k < drawn_RV.shape[1]) | (how.top_p < 1) | (how.min_p > 0)
  cuts_R &= (how.temperature > 0) & state.alive_R
  kept_RV = jax.lax.cond(
    cuts_R.any(),
    lambda x_RV: truncate(x_RV, how.top_k, how.top_p, how.min_p),
    lambda x_RV: x_RV,
    drawn_RV,
  )
  keys_R = jax.vmap(jax.random.fold_in)(_key(state.words_R2), state.count_R)
  greedy_R = how.temperature == 0
  token_R = jnp.where(greedy_R, drawn_RV.argmax(-1), draw(kept_RV, keys_R)).astype(jnp.int32)
  of = lambda x_RV: jnp.take_along_axis(x_RV, token_R[:, None], axis=1)[:, 0]
  none = (jnp.zeros((len(rows), TOP)), jnp.zeros((len(rows), TOP), jnp.int32))
  wanted = (how.top & state.alive_R).any()
  top_logp_RT, top_token_RT = jax.lax.cond(wanted, _likeliest, lambda _: none, model_RV)
  sampled_R = of(kept_RV) - jax.nn.logsumexp(kept_RV, axis=-1)
  return Written(
    token_R, of(model_RV), jnp.where(greedy_R, 0, sampled_R), top_logp_RT, top_token_RT
  )


def _likeliest(logp_RV: Array) -> tuple[Array, Array]:
  """The likeliest tokens [R, TOP]: their log-probabilities, and their ids."""
  few = min(TOP, logp_RV.shape[1])
  logp_RT, token_RT = jax.lax.top_k(logp_RV, few)
  pad = ((0, 0), (0, TOP - few))
  return jnp.pad(logp_RT, pad), jnp.pad(token_RT, pad, constant_values=-1)


def narrow(cache: Any, width: int) -> Any:
  """The first columns of a cache."""
  return dataclasses.replace(
    cache,
    layers=jax.tree.map(lambda x: x[:, :, :width], cache.layers),
    position=cache.position[:, :width],
    segment=cache.segment[:, :width],
  )


def part(state: State, rows: int, width: int) -> State:
  """The first slots, with the first columns of their caches."""
  state = jax.tree.map(lambda x: x[:rows], state)
  return dataclasses.replace(state, cache=narrow(state.cache, width))


def merged(state: State, part: State) -> State:
  """The slots with a part of them put back."""
  put = lambda x, new: _paste(x, new, (0,) * x.ndim) if x.shape != new.shape else new
  return jax.tree.map(put, state, part)


def _paste(x: Array, new: Array, start: Any) -> Array:
  """`x` with `new` from `start` on; 16 bits as integers, see `Slots.put_heads`."""
  if x.dtype != jnp.bfloat16:
    return jax.lax.dynamic_update_slice(x, new, start)
  x, new = (jax.lax.bitcast_convert_type(y, jnp.uint16) for y in (x, new))
  return jax.lax.bitcast_convert_type(jax.lax.dynamic_update_slice(x, new, start), jnp.bfloat16)


def _key(words: Array) -> Array:
  """Random keys of two words each, as `jax.random.key(seed)` makes them."""
  return jax.random.wrap_key_data(words, impl='threefry2x32')


def _begun(state: State, slot: Array, logits_V: Array, last: Any) -> State:
  """The row of a prompt that has been read, if this was the last of it."""
  set_ = lambda x, new: x.at[slot].set(jnp.where(last, new, x[slot]))
  return dataclasses.replace(
    state,
    logits_RV=set_(state.logits_RV, logits_V),
    first_RV=set_(state.first_RV, logits_V),
    alive_R=set_(state.alive_R, True),
  )

"""The loop that writes a token to each row, and how a token is chosen.

What most requests do not ask for (drawing, sorting, penalties, the likeliest tokens) is behind a
condition, and everything before and after the condition is the same. That is why a token does not
depend on the neighbours.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.sampling import slots
from llm_jax.sampling.pick import draw, truncate
from llm_jax.sampling.request import TOP
from llm_jax.sampling.slots import State, Written
from llm_jax.types import Array, Model, Params


def decode(
  params: Params,
  state: State,
  layers: Any,
  columns_R: Array,
  *,
  model: Model,
  most: int,
) -> tuple[State, Any, Written]:
  """Writes tokens to living rows, to each up to its own number; fewer where it ends.

  Args:
    params: of the model.
    state: of the slots.
    layers: of the first of them, among which all living rows are, with room for what is written.
    columns_R: of each slot; at most `most`. A row that has written its own rests.
    model: a causal one.
    most: C of what is written.
  """
  whole, rows = state, slots.size_of(layers)[0]
  state, columns_R = jax.tree.map(lambda x: x[:rows], (state, columns_R))

  def going(carry: Any) -> Array:
    done, _, new, _ = carry
    return ((done < columns_R) & new['alive_R']).any()

  def step(carry: Any) -> Any:
    done, cache, new, written = carry
    now = dataclasses.replace(state, **new)
    alive_R = now.alive_R & (done < columns_R)
    chosen = choose(now)
    token_R = jnp.where(alive_R, chosen.token, 0)
    written = jax.tree.map(
      lambda x, y: x.at[done].set(y),
      written,
      dataclasses.replace(chosen, token=jnp.where(alive_R, token_R, -1)),
    )
    column = (token_R, cache.index, alive_R.astype(jnp.int32))
    logits_RLV, cache = model.apply(params, *(x_R[:, None] for x_R in column), cache)
    return done + 1, cache, advanced(now, alive_R, token_R, logits_RLV[:, 0]), written

  start = (
    jnp.int32(0),
    slots.cache_of(model, layers, state.index_R),
    changing(state),
    blank(most, rows),
  )
  _, cache, new, written = jax.lax.while_loop(going, step, start)
  return merged(whole, new), cache.layers, written


def blank(most: int, rows: int) -> Written:
  """Room for what is written."""
  blank = lambda dtype, *more: jnp.zeros((most, rows, *more), dtype)
  return Written(
    token=blank(jnp.int32) - 1,
    logp=blank(jnp.float32),
    sampled=blank(jnp.float32),
    top_logp=blank(jnp.float32, TOP),
    top_token=blank(jnp.int32, TOP),
  )


def changing(state: State) -> dict[str, Array]:
  """What each token changes."""
  names = ('index_R', 'logits_RV', 'alive_R', 'count_R', 'said_RV', 'text_RS')
  return {name: getattr(state, name) for name in names}


def advanced(state: State, alive_R: Array, token_R: Array, logits_RV: Array) -> dict[str, Array]:
  """What has changed once these living rows have said a token, after which these logits come."""
  rows = jnp.arange(len(token_R))
  count_R = state.count_R + alive_R
  ended_R = (token_R[:, None] == state.how.stop).any(1) | (count_R >= state.how.max_new)
  return {
    'index_R': state.index_R + alive_R,
    'logits_RV': jnp.where(alive_R[:, None], logits_RV, state.logits_RV),
    'alive_R': state.alive_R & ~(alive_R & ended_R),
    'count_R': count_R,
    'said_RV': state.said_RV.at[rows, token_R].add(alive_R.astype(jnp.int32)),
    'text_RS': state.text_RS.at[rows, state.index_R].set(token_R, mode='drop'),
  }


def merged(state: State, new: dict[str, Array]) -> State:
  """All slots, of which the first have changed."""
  put = lambda x, y: x.at[: len(y)].set(y) if len(x) > len(y) else y
  return dataclasses.replace(state, **{name: put(getattr(state, name), new[name]) for name in new})


def choose(state: State) -> Written:
  """The next token of each slot [R], alive or not; nothing if none is.

  It is a loop of one turn, which no compiler joins with what stands around it: so a token gets the
  same bits wherever it is chosen.
  """
  nothing = jax.tree.map(lambda x: x[0], blank(1, len(state.alive_R)))
  turns = state.alive_R.any().astype(jnp.int32)
  return jax.lax.fori_loop(0, turns, lambda *_: _chosen(state), nothing)


def _chosen(state: State) -> Written:
  """What `choose` says.

  The order is that of `Pick`: biases and penalties of what was said act on logits, the repetition
  penalty on logits over the temperature, truncation on log-probabilities.
  """
  how, logits_RV = state.how, state.logits_RV
  model_RV = jax.nn.log_softmax(logits_RV)
  column = lambda x_R: x_R[:, None]
  flat_by = jnp.where(how.temperature == 0, 1, how.temperature)
  rows = jnp.arange(len(flat_by))
  none_R = jnp.zeros(len(rows))

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

  asks_R = (how.repetition != 1) | (how.frequency != 0) | (how.presence != 0) | how.masked
  asks_R |= state.count_R < how.min_new
  other_R = asks_R | (flat_by != 1)  # than the model's own distribution

  def redone(_: None) -> Array:
    plain = lambda _: (logits_RV / column(flat_by), state.allowed_RV)
    flat_RV, allowed_RV = jax.lax.cond((asks_R & state.alive_R).any(), dressed, plain, None)
    own_RV = jnp.where(column(other_R), jax.nn.log_softmax(flat_RV), model_RV)
    return jnp.where(allowed_RV, own_RV, -jnp.inf)

  own = lambda _: jnp.where(state.allowed_RV, model_RV, -jnp.inf)
  drawn_RV = jax.lax.cond((other_R & state.alive_R).any(), redone, own, None)
  greedy_R = how.temperature == 0
  cuts_R = ~greedy_R & ((how.top_k < drawn_RV.shape[1]) | (how.top_p < 1) | (how.min_p > 0))

  def random(_: None) -> tuple[Array, Array]:
    kept_RV = jax.lax.cond(
      (cuts_R & state.alive_R).any(),
      lambda x_RV: truncate(x_RV, how.top_k, how.top_p, how.min_p),
      lambda x_RV: x_RV,
      drawn_RV,
    )
    keys_R = jax.vmap(jax.random.fold_in)(slots.key_of(state.words_R2), state.count_R)
    token_R = draw(kept_RV, keys_R)
    logp_R = jnp.take_along_axis(kept_RV, token_R[:, None], axis=1)[:, 0]
    return token_R.astype(jnp.int32), logp_R - jax.nn.logsumexp(kept_RV, axis=-1)

  token_R, sampled_R = jax.lax.cond(
    (~greedy_R & state.alive_R).any(), random, lambda _: (none_R.astype(jnp.int32), none_R), None
  )
  token_R = jnp.where(greedy_R, drawn_RV.argmax(-1).astype(jnp.int32), token_R)
  of = lambda x_RV: jnp.take_along_axis(x_RV, token_R[:, None], axis=1)[:, 0]
  none = (jnp.zeros((len(rows), TOP)), jnp.zeros((len(rows), TOP), jnp.int32))
  wanted = (how.top & state.alive_R).any()
  top_logp_RT, top_token_RT = jax.lax.cond(wanted, slots.likeliest, lambda _: none, model_RV)
  sampled_R = jnp.where(greedy_R, 0, sampled_R)
  return Written(token_R, of(model_RV), sampled_R, top_logp_RT, top_token_RT)

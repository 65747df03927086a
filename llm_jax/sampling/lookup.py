"""Prompt-lookup decoding: several tokens of one row at a time, where its text repeats itself.

The last tokens of a row are looked for in what stands before them, and what followed there is
proposed to follow here (github.com/apoorvumang/prompt-lookup-decoding). The model reads all
proposals at once, and those are kept that the row says anyway: each is chosen by the same function
from the same logits with the same key, so the answer is that of the plain loop, bit for bit, if a
token that is read among others gives the bits that it gives alone. `Runner.warm` looks whether it
does.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.sampling import slots, writing
from llm_jax.sampling.slots import State, Written
from llm_jax.types import Array, Model, Params

LEAST, MOST = 3, 6  # tokens that have to be found again, and of which more count


def proposed(text_S: Array, count: Array, most: int) -> tuple[Array, Array]:
  """What may follow the first `count` tokens of a text, [most], and whether they end as before.

  Of several places the one counts where most of the last tokens are found, and of these the last.
  What follows a place that is close to the end repeats itself.

  >>> ids, found = proposed(jnp.array([1, 2, 3, 4, 5, 1, 2, 3, 0, 0]), jnp.int32(8), 4)
  >>> ids.tolist(), bool(found)
  ([4, 5, 1, 2], True)
  """
  place_S = jnp.arange(text_S.shape[0])
  alike_S, run_S = jnp.zeros_like(place_S), jnp.ones_like(place_S, bool)
  for back in range(MOST):
    earlier_S = jnp.roll(text_S, back)
    run_S &= (earlier_S == text_S[jnp.maximum(count - 1 - back, 0)]) & (place_S >= back)
    alike_S += run_S
  score_S = jnp.where((place_S < count - 1) & (alike_S >= LEAST), alike_S, 0)
  last = (score_S * len(text_S) + place_S).argmax()
  period = jnp.maximum(count - 1 - last, 1)
  ids = text_S[jnp.minimum(last + 1 + jnp.arange(most) % period, len(text_S) - 1)]
  return ids, score_S[last] > 0


def decode(
  params: Params,
  state: State,
  layers: Any,
  columns_R: Array,
  *,
  model: Model,
  most: int,
  ahead: int,
) -> tuple[State, Any, Written]:
  """As `writing.decode`, for a single row; reads `ahead` tokens at a time where some are proposed.

  A token is chosen, put into the text and looked up, then read, alone or with what may follow.
  """
  whole, now_of = state, lambda new: dataclasses.replace(state, **new)
  state, columns = jax.tree.map(lambda x: x[:1], state), columns_R[0]

  def looked(new: Any, chosen: Written) -> tuple[Any, Array, Array]:
    """The text with the token that has been chosen; what may follow."""
    at = new['index_R'][0]
    text_RS = new['text_RS'].at[0, at].set(chosen.token[0], mode='drop')
    ids, found = proposed(text_RS[0], at + 1, ahead - 1)
    return new | {'text_RS': text_RS}, ids, found

  def going(carry: Any) -> Array:
    done, _, new, *_ = carry
    return (done < columns) & new['alive_R'][0]

  def read(carry: Any, ids_L: Array, real_L: Array) -> tuple[Any, Array]:
    """The cache with tokens behind the row's; logits [L, V] of what follows each."""
    _, cache, new, *_ = carry
    column_L = new['index_R'][0] + jnp.arange(len(ids_L))
    segment_L = real_L.astype(jnp.int32)
    logits_RLV, cache = model.apply(params, ids_L[None], column_L[None], segment_L[None], cache)
    return cache, logits_RLV[0]

  def said(carry: Any, logits_V: Array) -> Any:
    """The token that was chosen is written, and the next one chosen from these logits."""
    done, cache, new, written, chosen, *_ = carry
    written = jax.tree.map(lambda x, y: x.at[done].set(y), written, chosen)
    new = writing.advanced(now_of(new), new['alive_R'], chosen.token, logits_V[None])
    return done + 1, cache, new, written, writing.choose(now_of(new))

  def one(carry: Any) -> Any:
    cache, logits_LV = read(carry, carry[4].token, jnp.ones(1, bool))
    done, _, new, written, chosen = said(carry, logits_LV[0])
    new, ids, found = looked(new, chosen)
    return done, cache, new, written, chosen, ids, found

  def several(carry: Any) -> Any:
    done, _, new, _, chosen, ids, _ = carry
    room = jnp.minimum(columns - done, state.how.max_new[0] - new['count_R'][0])
    read_L = jnp.concatenate([chosen.token, ids])
    cache, logits_LV = read(carry, read_L, jnp.arange(ahead) < room)

    def agrees(inner: Any) -> Array:
      i, carry = inner
      return going(carry) & (i < ahead) & (carry[4].token[0] == read_L[jnp.minimum(i, ahead - 1)])

    def another(inner: Any) -> Any:
      i, carry = inner
      return i + 1, said(carry, logits_LV[i])

    _, carry = jax.lax.while_loop(agrees, another, (jnp.int32(0), carry[:5]))
    done, _, new, written, chosen = carry
    new, ids, found = looked(new, chosen)
    return done, cache.rewind(new['index_R']), new, written, chosen, ids, found

  def step(carry: Any) -> Any:
    carry = jax.lax.while_loop(lambda c: going(c) & ~c[6], one, carry)
    return jax.lax.while_loop(lambda c: going(c) & c[6], several, carry)

  chosen = writing.choose(state)
  new, ids, found = looked(writing.changing(state), chosen)
  cache = slots.cache_of(model, layers, state.index_R)
  start = (jnp.int32(0), cache, new, writing.blank(most, 1), chosen, ids, found)
  _, cache, new, written, *_ = jax.lax.while_loop(going, step, start)
  return writing.merged(whole, new), cache.layers, written

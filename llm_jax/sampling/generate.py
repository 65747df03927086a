"""Generation: one prefill of left-padded prompts, then cached decoding in one compiled loop.

`generate` does it all in one call. Its parts can be compiled apart, for whoever has to look at the
rows in between: `start` reads the prompts, `decode` writes so many tokens, `feed` appends tokens
that the model did not choose, `finish` gives the batch. Rows never move: each begins where its
prompt does, and the next token of a row goes behind its last, wherever its neighbours are.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.parallel.mesh import BATCH_AXES, constrain
from llm_jax.sampling.pick import Pick
from llm_jax.types import Array, BadInput, Batch, Model, Params

GROW = 64  # the cache grows by so many slots, so that early tokens do not attend to empty ones


@flax.struct.dataclass
class Rows:
  """Rows that are being written, R of them, each in S slots of its own.

  Attributes:
    cache: of the model; `position` and `segment` [R, S] of all that is written; `index` [R], where
      each row goes on.
    logits_RV: of the next token.
    position_R: of the last token.
    alive_R: bool, not stopped yet.
    count_R: tokens sampled so far.
    keys_R: a random key each; token i is drawn with fold_in(key, i).
    seen_RV: bool, which tokens a row holds; None unless there is a repetition penalty.
    tokens_RS, mask_RS, old_logp_RS, sampled_logp_RS: as in `generate`.
  """

  cache: Any
  logits_RV: Array
  position_R: Array
  alive_R: Array
  count_R: Array
  keys_R: Array
  seen_RV: Array | None
  tokens_RS: Array
  mask_RS: Array
  old_logp_RS: Array
  sampled_logp_RS: Array


def generate(
  params: Params,
  prompt_BP: Array,
  prompt_mask_BP: Array,
  rng: Array,
  *,
  model: Model,
  max_new: int,
  stop: Sequence[int],
  pick: Pick,
  group: int = 1,
) -> Batch:
  """Continues each prompt `group` times until it picks a stop id or has `max_new` tokens.

  Meant to be jitted by the caller with the keywords bound (`pick` may be an argument); it ends
  early once all rows stopped. An answer depends on its prompt, its key and its number in the
  group, and on no other row.

  Args:
    params: of the model.
    prompt_BP: ids, padded on the left. A row without a real token gets no answer.
    prompt_mask_BP: 1 on real prompt tokens.
    rng: one key, from which row i gets fold_in(rng, i); or keys [B].
    model: a causal Transformer.
    max_new: most new tokens a row.
    stop: ids that end a row; the stop id is part of the answer.
    pick: from `sampling.pick.make`.
    group: G answers to each prompt; they share its prefill.

  Returns:
    Batch of R = B * G rows, those of a prompt together, over L = P + max_new, padded on the left as
    the prompts were: `tokens`; `mask` 1 on sampled tokens (the stop id included); `old_logp` and
    `sampled_logp` of those tokens (see `Picked`); `position`; `segment` 1 on prompt and answer.
    Slots after the end hold token 0.
  """
  model, params = model.for_decoding(params)
  prompt_len = prompt_BP.shape[1]
  penalised = pick.repetition_penalty is not None
  rows = start(
    params, prompt_BP, prompt_mask_BP, rng, model=model, group=group, penalised=penalised
  )
  for done in range(0, max_new, GROW):
    rows = grow(rows, prompt_len + min(done + GROW, max_new))
    rows = decode(params, rows, pick, model=model, columns=GROW, max_new=max_new, stop=stop)
  return finish(rows)


def start(
  params: Params,
  prompt_BP: Array,
  prompt_mask_BP: Array,
  rng: Array,
  *,
  model: Model,
  group: int = 1,
  penalised: bool = False,
) -> Rows:
  """Reads the prompts into P slots; arguments as in `generate`."""
  batch, prompt_len = prompt_BP.shape
  segment_BP = (prompt_mask_BP > 0).astype(jnp.int32)
  position_BP = jnp.maximum(jnp.cumsum(segment_BP, axis=1) - 1, 0)
  cache = model.make_cache(batch, prompt_len)
  hidden_BPD, cache = model.apply(
    params, prompt_BP, position_BP, segment_BP, cache, method='hidden'
  )
  logits_BV = model.apply(params, hidden_BPD[:, -1], method='unembed')
  keys_B = rng if rng.ndim else jax.vmap(lambda i: jax.random.fold_in(rng, i))(jnp.arange(batch))
  many = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
  several = lambda x: _placed(jnp.repeat(x, group, axis=0))
  zeros = jnp.zeros((batch * group, prompt_len), jnp.float32)
  alive_R = several((segment_BP > 0).any(1))
  seen_RV = None
  if penalised:
    hit_BV = jax.vmap(lambda tokens_P, real_P: jnp.zeros(logits_BV.shape[-1]).at[tokens_P].max(
      real_P.astype(jnp.float32)
    ))(prompt_BP, segment_BP)  # fmt: skip
    seen_RV = several(hit_BV > 0)
  return Rows(
    cache=cache.repeat(group),
    logits_RV=several(logits_BV),
    position_R=several(position_BP[:, -1]),
    alive_R=alive_R,
    count_R=jnp.zeros_like(alive_R, jnp.int32),
    keys_R=many(keys_B, jnp.arange(group)).reshape(-1),
    seen_RV=seen_RV,
    tokens_RS=several(prompt_BP.astype(jnp.int32)),
    mask_RS=zeros,
    old_logp_RS=zeros,
    sampled_logp_RS=zeros,
  )


def grow(rows: Rows, slots: int) -> Rows:
  """The same rows with room for `slots` tokens; nothing where there is as much already."""
  more = slots - rows.tokens_RS.shape[1]
  if more <= 0:
    return rows
  names = ('tokens_RS', 'mask_RS', 'old_logp_RS', 'sampled_logp_RS')
  wider: Any = {name: jnp.pad(getattr(rows, name), ((0, 0), (0, more))) for name in names}
  return dataclasses.replace(rows, cache=rows.cache.grow(slots), **wider)


def decode(
  params: Params,
  rows: Rows,
  pick: Pick,
  *,
  model: Model,
  columns: int,
  max_new: int,
  stop: Sequence[int],
) -> Rows:
  """Writes up to `columns` more tokens to each row that goes on; fewer if all stop, or one is full.

  Args:
    params: of the model.
    rows: from `start`, `decode` or `feed`.
    pick: how to pick.
    model: as in `start`.
    columns: most tokens a row in this call.
    max_new: most tokens a row in all.
    stop: ids that end a row.
  """
  slots = jnp.arange(rows.tokens_RS.shape[1])
  stop_ids = jnp.asarray(list(stop) or [-1])

  def going(carry: tuple[Array, Rows]) -> Array:
    done, rows = carry
    full_R = rows.cache.index >= len(slots)
    return (done < columns) & rows.alive_R.any() & ~(rows.alive_R & full_R).any()

  def step(carry: tuple[Array, Rows]) -> tuple[Array, Rows]:
    done, rows = carry
    alive_R = rows.alive_R
    keys_R = jax.vmap(jax.random.fold_in)(rows.keys_R, rows.count_R)
    picked = pick(rows.logits_RV, keys_R, rows.seen_RV)
    token_R = jnp.where(alive_R, picked.token, 0)
    position_R = rows.position_R + alive_R
    here_RS = (slots == rows.cache.index[:, None]) & alive_R[:, None]
    write = lambda x_RS, new_R: jnp.where(here_RS, new_R[:, None].astype(x_RS.dtype), x_RS)
    column = (token_R, position_R, alive_R.astype(jnp.int32))
    logits_RLV, cache = model.apply(params, *(x_R[:, None] for x_R in column), rows.cache)
    count_R = rows.count_R + alive_R
    seen_RV = rows.seen_RV
    if seen_RV is not None:
      seen_RV |= (jnp.arange(seen_RV.shape[1]) == token_R[:, None]) & alive_R[:, None]
    return done + 1, dataclasses.replace(
      rows,
      cache=cache,
      logits_RV=jnp.where(alive_R[:, None], logits_RLV[:, 0], rows.logits_RV),
      position_R=position_R,
      alive_R=alive_R & (token_R[:, None] != stop_ids).all(-1) & (count_R < max_new),
      count_R=count_R,
      seen_RV=seen_RV,
      tokens_RS=write(rows.tokens_RS, token_R),
      mask_RS=write(rows.mask_RS, alive_R),
      old_logp_RS=write(rows.old_logp_RS, picked.logp),
      sampled_logp_RS=write(rows.sampled_logp_RS, picked.sampled_logp),
    )

  return jax.lax.while_loop(going, step, (jnp.int32(0), rows))[1]


def feed(params: Params, rows: Rows, tokens_RT: Array, length_R: Array, *, model: Model) -> Rows:
  """Appends given tokens to some rows, mask 0, and lets those rows go on; the others stay.

  Args:
    params: of the model.
    rows: with room for the tokens.
    tokens_RT: ids, padded on the right.
    length_R: how many of them are real; 0 leaves a row as it is.
    model: as in `start`.
  """
  fed_R = length_R > 0
  real_RT = (jnp.arange(tokens_RT.shape[1]) < length_R[:, None]).astype(jnp.int32)
  position_RT = rows.position_R[:, None] + jnp.cumsum(real_RT, axis=1)
  _, slots = rows.cache.extend(position_RT, real_RT)
  hidden_RTD, cache = model.apply(
    params, tokens_RT, position_RT, real_RT, rows.cache, method='hidden'
  )
  last_R1 = jnp.maximum(length_R - 1, 0)[:, None]
  hidden_RD = jnp.take_along_axis(hidden_RTD, last_R1[..., None], axis=1)[:, 0]
  logits_RV = model.apply(params, hidden_RD, method='unembed')
  seen_RV = rows.seen_RV
  if seen_RV is not None:
    hit = jax.vmap(lambda seen_V, ids_T, real_T: seen_V.at[ids_T].max(real_T))
    seen_RV = hit(seen_RV, tokens_RT, real_RT > 0)
  return dataclasses.replace(
    rows,
    cache=cache,
    logits_RV=jnp.where(fed_R[:, None], logits_RV, rows.logits_RV),
    position_R=rows.position_R + length_R,
    alive_R=rows.alive_R | fed_R,
    seen_RV=seen_RV,
    tokens_RS=slots.put(rows.tokens_RS, tokens_RT),
  )


def finish(rows: Rows) -> Batch:
  """What was written, as the batch that `generate` returns."""
  return {
    'tokens': rows.tokens_RS,
    'mask': rows.mask_RS,
    'old_logp': rows.old_logp_RS,
    'sampled_logp': rows.sampled_logp_RS,
    'position': rows.cache.position,
    'segment': rows.cache.segment,
  }


def _placed(x: Array) -> Array:
  """Keeps rows on the devices of the mesh in use, where their number can be divided."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or x.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES):
    return x
  return constrain(x, 'batch')


def left_pad(
  prompts: Sequence[Sequence[int]], *, multiple: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """Prompts of any lengths as ids [B, P] and mask [B, P], padded on the left with 0.

  >>> ids_BP, mask_BP = left_pad([[5, 6, 7], [8]], multiple=2)
  >>> ids_BP.tolist(), mask_BP.tolist()
  ([[0, 5, 6, 7], [0, 0, 0, 8]], [[0, 1, 1, 1], [0, 0, 0, 1]])

  Args:
    prompts: lists of ids, none empty.
    multiple: P is rounded up to it, so that batches of similar lengths share one compilation.
  """
  if not prompts or not all(len(p) for p in prompts):
    raise BadInput('sampling: an empty prompt; give at least one token, such as the begin of text')
  width = -(-max(len(p) for p in prompts) // multiple) * multiple
  ids_BP = np.zeros((len(prompts), width), np.int32)
  mask_BP = np.zeros((len(prompts), width), np.int32)
  for i, prompt in enumerate(prompts):
    ids_BP[i, width - len(prompt) :] = prompt
    mask_BP[i, width - len(prompt) :] = 1
  return ids_BP, mask_BP

"""Generation: one prefill of left-padded prompts, then cached decoding in one compiled loop."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.sampling.pick import Pick
from llm_jax.types import Array, BadInput, Batch, Params


def generate(
  params: Params,
  prompt_BP: Array,
  prompt_mask_BP: Array,
  rng: Array,
  *,
  model: Any,
  max_new: int,
  stop: Sequence[int],
  pick: Pick,
) -> Batch:
  """Continues each prompt until it picks a stop id or has `max_new` tokens.

  Meant to be jitted by the caller with the keywords bound; it ends early once all rows stopped.

  Args:
    params: of the model.
    prompt_BP: ids, padded on the left.
    prompt_mask_BP: 1 on real prompt tokens.
    rng: for sampling.
    model: a Transformer.
    max_new: most new tokens a row.
    stop: ids that end a row; the stop id is part of the answer.
    pick: from `sampling.pick.make`.

  Returns:
    Batch over L = P + max_new, padded on the left as the prompts were: `tokens`; `mask` 1 on
    sampled tokens (the stop id included); `old_logp` of those tokens; `position`; `segment` 1 on
    prompt and answer. Slots after the end hold token 0.
  """
  batch, prompt_len = prompt_BP.shape
  length = prompt_len + max_new
  segment_BP = (prompt_mask_BP > 0).astype(jnp.int32)
  position_BP = jnp.maximum(jnp.cumsum(segment_BP, axis=1) - 1, 0)
  cache = model.make_cache(batch, length)
  hidden_BPD, cache = model.apply(
    params, prompt_BP, position_BP, segment_BP, cache, method='hidden'
  )
  logits_BV = model.apply(params, hidden_BPD[:, -1], method='unembed')
  stop_ids = jnp.asarray(list(stop) or [-1])
  grow = lambda x: jnp.pad(x, ((0, 0), (0, max_new)))
  out = {
    'tokens': grow(prompt_BP.astype(jnp.int32)),
    'mask': jnp.zeros((batch, length), jnp.float32),
    'old_logp': jnp.zeros((batch, length), jnp.float32),
    'position': grow(position_BP),
    'segment': grow(segment_BP),
  }

  def going(carry: Any) -> Array:
    new, alive_B, *_ = carry
    return (new < max_new) & alive_B.any()

  def step(carry: Any) -> Any:
    new, alive_B, logits_BV, position_B, cache, out = carry
    token_B, logp_B = pick(logits_BV, jax.random.fold_in(rng, new))
    token_B = jnp.where(alive_B, token_B, 0).astype(jnp.int32)
    position_B = position_B + 1
    column = {
      'tokens': token_B,
      'mask': alive_B.astype(jnp.float32),
      'old_logp': jnp.where(alive_B, logp_B, 0),
      'position': position_B,
      'segment': alive_B.astype(jnp.int32),
    }
    slot = prompt_len + new
    out = {k: jax.lax.dynamic_update_index_in_dim(out[k], v, slot, 1) for k, v in column.items()}
    segment_B1 = alive_B.astype(jnp.int32)[:, None]
    logits_BLV, cache = model.apply(
      params, token_B[:, None], position_B[:, None], segment_B1, cache
    )
    alive_B &= (token_B[:, None] != stop_ids).all(-1)
    return new + 1, alive_B, logits_BLV[:, 0], position_B, cache, out

  alive_B = jnp.ones((batch,), bool)
  start = (jnp.int32(0), alive_B, logits_BV, position_BP[:, -1], cache, out)
  return jax.lax.while_loop(going, step, start)[-1]


def left_pad(
  prompts: Sequence[Sequence[int]], *, multiple: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """Prompts of any lengths as ids [B, P] and mask [B, P], padded on the left with 0.

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

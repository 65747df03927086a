"""Best of n: of each group the answer with the highest reward stays, arXiv:2112.09332, sec. 3.2."""

import jax
import jax.numpy as jnp

from llm_jax.annotate import stats
from llm_jax.types import FIELDS, Annotate, Array, Batch, Model, Params, Tokenizer

READS = ('reward', 'tokens', 'mask')
WRITES = ('mask', 'log/kept', 'log/best_reward', 'log/best_gain')


def make(model: Model, tokenizer: Tokenizer, *, minimum: float | None = None) -> Annotate:
  """Fields [B, G, ...] become [B, 1, ...], with the best answer that counts; of equals the first.

  A group without such an answer, or whose best is below `minimum`, keeps one with `mask` 0, so that
  it trains nothing. Logs, over the groups with an answer that counts: `kept`, the share that goes
  on; `best_reward`; and `best_gain`, by how much the best exceeds the group's mean.

  Args:
    model: unused.
    tokenizer: unused.
    minimum: the least reward that is good enough; None keeps the best of every group.

  Raises:
    BadInput: the batch lacks `reward`.
  """
  del model, tokenizer

  @jax.jit
  def annotate(params: Params, batch: Batch, rng: Array) -> Batch:
    del params, rng
    stats.need(batch, 'keep_best', 'reward')
    real_BG = stats.answers(batch)
    reward_BG = jnp.where(real_BG, batch['reward'].astype(jnp.float32), -jnp.inf)
    best_B1, some_B1 = jnp.argmax(reward_BG, axis=1)[:, None], real_BG.any(1, keepdims=True)
    highest_B1 = reward_BG.max(1, keepdims=True)
    good_B1 = some_B1 if minimum is None else some_B1 & (highest_B1 >= minimum)

    def pick(name: str, x: Array) -> Array:
      known = FIELDS.get(name)  # a field of somebody else's is about answers if it looks so
      about_prompt = name.startswith('log/') or (known is not None and 'G' not in known.shape)
      if about_prompt or x.ndim < 2 or x.shape[:2] != real_BG.shape:
        return x
      at = best_B1.reshape(best_B1.shape + (1,) * (x.ndim - 2))
      return jnp.take_along_axis(x, at, axis=1)

    out = {name: pick(name, x) for name, x in batch.items()}
    out['mask'] = jnp.where(good_B1[..., None], out['mask'], 0)
    mean_B1 = stats.mean(batch['reward'], real_BG, axis=1)
    return out | stats.logged(
      batch,
      kept=stats.mean(good_B1, some_B1),
      best_reward=stats.mean(highest_B1, some_B1),
      best_gain=stats.mean(highest_B1 - mean_B1, some_B1),
    )

  return annotate

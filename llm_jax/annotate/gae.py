"""Generalised advantage estimation, arXiv:1506.02438, eq. 16, over the tokens of answers."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax.annotate import stats
from llm_jax.losses.ppo import values
from llm_jax.options import Positive, Share, checked
from llm_jax.types import Annotate, Array, BadInput, Batch, Model, Params, Tokenizer

READS = ('token_reward', 'tokens', 'mask')
WRITES = lambda o: (
  *('advantage', 'return', 'log/return_mean'),
  *('log/advantage_mean', 'log/advantage_std', 'log/advantage_max'),
  *(('value', 'log/value_mean', 'log/explained_variance') if o['critic'] else ()),
)
PRESETS: dict[str, dict[str, Any]] = {
  'ppo': dict(),
  'reinforce_plus_plus': dict(critic=False),  # arXiv:2501.03262; put kl_reward before it
}


@checked(where='annotate.gae')
def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  gamma: Share = 1.0,
  lam: Share | None = None,
  critic: bool = True,
  whiten: bool = True,
  whiten_ddof: Literal[0, 1] | None = None,
  whiten_eps: Positive | None = None,
) -> Annotate:
  """Writes `advantage`, `return` and, with a critic, `value`, all [B, G, L], from `token_reward`.

  delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}, where t + 1 is the next
  step that counts: what a tool wrote in between is skipped, as in verl and Tunix. The value after
  the last step is 0, also where an answer was cut short. The return is A_t + V_t.

  The steps are those of `value_mask` if the batch has it, else of `mask`; the advantage is 0 where
  `mask` is 0. Logs `return_mean` and, with a critic, `value_mean` and `explained_variance`
  (1 - var(return - value) / var(return)) over steps; `advantage_mean`, `advantage_std` and
  `advantage_max` (of |A|) of the advantages as written, over tokens.

  Args:
    model: an ActorCritic, whose value at a token is read where its choice is predicted.
    tokenizer: unused.
    gamma: discount a token.
    lam: 0 trusts the critic, 1 the rewards; 0.95 by default, without a critic 1.
    critic: False: V = 0, so that the advantage is the reward to go (REINFORCE++).
    whiten: advantages get mean 0 and variance 1 over the tokens of the rollout.
    whiten_ddof: 1 (default, TRL and verl) or 0 (OpenRLHF).
    whiten_eps: added to the variance; 1e-8 by default.

  Raises:
    BadInput: an option that the others leave without use; or the batch lacks `token_reward`.
  """
  del tokenizer
  where = 'gae'
  if not whiten:
    stats.unused(where, 'without whiten', whiten_ddof=whiten_ddof, whiten_eps=whiten_eps)
  if not critic and lam not in (None, 1):
    raise BadInput(f'annotate.{where}: lam {lam} needs a critic; without one set lam=1')
  lam = (0.95 if critic else 1.0) if lam is None else lam
  ddof = 1 if whiten_ddof is None else whiten_ddof
  eps = 1e-8 if whiten_eps is None else whiten_eps

  @jax.jit
  def annotate(params: Params, batch: Batch, rng: Array) -> Batch:
    del rng
    stats.need(batch, where, 'token_reward')
    mask_BGL = stats.tokens(batch)
    step_BGL = stats.tokens(batch, 'value_mask') if 'value_mask' in batch else mask_BGL
    only = lambda x: jnp.where(step_BGL, x, 0).astype(jnp.float32)
    reward_BGL = only(batch['token_reward'])
    value_BGL = only(values(model, params, batch)) if critic else jnp.zeros_like(reward_BGL)
    advantage_BGL = advantages(reward_BGL, value_BGL, step_BGL, gamma=gamma, lam=lam)
    out = {**batch, 'return': advantage_BGL + value_BGL}
    logs = {'return_mean': stats.mean(out['return'], step_BGL)}
    if critic:
      out['value'] = value_BGL
      logs['value_mean'] = stats.mean(value_BGL, step_BGL)
      logs['explained_variance'] = _explained(out['return'], value_BGL, step_BGL)
    advantage_BGL = jnp.where(mask_BGL, advantage_BGL, 0)
    if whiten:
      advantage_BGL = stats.whiten(advantage_BGL, mask_BGL, ddof=ddof, eps=eps)
    out['advantage'] = advantage_BGL
    return out | stats.logged(batch, **logs, **stats.advantage_stats(advantage_BGL, mask_BGL))

  return annotate


def advantages(
  reward_L: Array, value_L: Array, step_L: Array, *, gamma: float, lam: float
) -> Array:
  """A_t of `make`, [..., L], and 0 where there is no step.

  Args:
    reward_L: [..., L].
    value_L: of the same shape.
    step_L: bool of the same shape, the steps that count.
    gamma: discount.
    lam: how far to look beyond one step.
  """

  def back(later: tuple[Array, Array], now: tuple[Array, Array, Array]) -> Any:
    value_after, advantage_after = later
    reward, value, step = now
    advantage = reward + gamma * (value_after + lam * advantage_after) - value
    kept = jnp.where(step, value, value_after), jnp.where(step, advantage, advantage_after)
    return kept, jnp.where(step, advantage, 0)

  end = jnp.zeros_like(reward_L[..., 0])
  time_first = lambda x: jnp.moveaxis(x, -1, 0)
  steps = (time_first(reward_L), time_first(value_L), time_first(step_L))
  _, advantage_L = jax.lax.scan(back, (end, end), steps, reverse=True)
  return jnp.moveaxis(advantage_L, 0, -1)


def _explained(return_BGL: Array, value_BGL: Array, step_BGL: Array) -> Array:
  """1 if the values are the returns, 0 if they say no more than a constant, or nothing varies."""
  total = stats.variance(return_BGL, step_BGL, ddof=0)
  rest = stats.variance(return_BGL - value_BGL, step_BGL, ddof=0)
  return jnp.where(total > 0, 1 - rest / jnp.where(total > 0, total, 1), 0)

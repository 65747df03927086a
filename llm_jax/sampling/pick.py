"""How to pick the next token from logits: greedy, or sampled after a penalty and truncation."""

import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from llm_jax.options import Count, MinP, NotNegative, Positive, TopP, checked
from llm_jax.types import Array

# Options that change what is drawn, so that it is no longer the policy at its temperature.
TRUNCATIONS = ('top_k', 'top_p', 'min_p', 'repetition_penalty')


class Picked(NamedTuple):
  """What was picked [B].

  Attributes:
    token: ids.
    logp: log-probability under softmax(logits / temperature), which is what a policy at this
      temperature assigns; greedy rows report it at temperature 1.
    sampled_logp: log-probability under what was drawn from, after penalty and truncation; 0 for
      greedy rows, which had no choice.
  """

  token: Array
  logp: Array
  sampled_logp: Array


@flax.struct.dataclass
class Pick:
  """The rules: each is a number for all rows, which `make` checks, or an array [B], one for each.

  Given to a compiled function as an argument, other numbers need no other compilation; None leaves
  a rule out of the program.
  """

  temperature: Any = 1.0
  top_k: Any = None
  top_p: Any = None
  min_p: Any = None
  repetition_penalty: Any = None
  allowed_V: Any = None

  def __call__(self, logits_BV: Array, keys_B: Array, seen_BV: Array | None = None) -> Picked:
    """Picks a token for each row.

    Args:
      logits_BV: of the model.
      keys_B: one random key a row, so that a row does not depend on its neighbours.
      seen_BV: bool, which tokens the row holds already; for `repetition_penalty`.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    temperature_B1 = jnp.broadcast_to(_column(self.temperature), (*keys_B.shape, 1))
    flat_BV = logits_BV / jnp.where(temperature_B1 == 0, 1, temperature_B1)
    logp_BV = drawn_BV = jax.nn.log_softmax(flat_BV)
    if self.repetition_penalty is not None:
      if seen_BV is None:
        raise ValueError('a repetition penalty needs seen_BV')
      by = _column(self.repetition_penalty)
      less_BV = jnp.where(flat_BV > 0, flat_BV / by, flat_BV * by)
      drawn_BV = jax.nn.log_softmax(jnp.where(seen_BV, less_BV, flat_BV))
    if self.allowed_V is not None:
      drawn_BV = jnp.where(self.allowed_V, drawn_BV, -jnp.inf)
    kept_BV = truncate(drawn_BV, self.top_k, self.top_p, self.min_p)
    known = isinstance(self.temperature, int | float)
    greedy_B = temperature_B1[:, 0] == 0
    if known and self.temperature > 0:
      token_B = draw(kept_BV, keys_B)
    elif known:
      token_B = drawn_BV.argmax(-1)
    else:
      token_B = jnp.where(greedy_B, drawn_BV.argmax(-1), draw(kept_BV, keys_B))
    of = lambda x_BV: jnp.take_along_axis(x_BV, token_B[:, None], axis=-1)[:, 0]
    logp_B = of(logp_BV)
    whole = kept_BV is logp_BV
    sampled_B = logp_B if whole else of(kept_BV) - jax.nn.logsumexp(kept_BV, axis=-1)
    return Picked(token_B.astype(jnp.int32), logp_B, jnp.where(greedy_B, 0, sampled_B))

  @property
  def truncates(self) -> bool:
    """Whether some tokens can never be picked, or less often than the policy says."""
    rules = (self.top_k, self.top_p, self.min_p, self.repetition_penalty)
    return any(rule is not None for rule in rules)


def draw(logp_BV: Array, keys_B: Array) -> Array:
  """A token [B] of each row by inverting its distribution: first which block, then which token.

  This takes two uniform numbers a row, where Gumbel noise would take V. Since the second number is
  independent, it can select tokens that are far less likely than the resolution of one number.

  Args:
    logp_BV: up to a constant a row; -inf is never drawn.
    keys_B: one key a row.
  """
  size = logp_BV.shape[-1]
  columns = max(1, math.isqrt(size))
  blocks = -(-size // columns)
  prob_BV = jnp.exp(logp_BV - logp_BV.max(-1, keepdims=True))
  prob_BMN = jnp.pad(prob_BV, ((0, 0), (0, blocks * columns - size))).reshape(-1, blocks, columns)
  uniform_B2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_B)
  block_B = _first_above(prob_BMN.sum(-1), uniform_B2[:, 0])
  prob_BN = jnp.take_along_axis(prob_BMN, block_B[:, None, None], axis=1)[:, 0]
  return block_B * columns + _first_above(prob_BN, uniform_B2[:, 1])


def _first_above(weight_BN: Array, uniform_B: Array) -> Array:
  """Where the running sum of weights first exceeds that share of the whole."""
  sum_BN = jnp.cumsum(weight_BN, axis=-1)
  # A parallel sum may grow by rounding where the weight is 0; such a token is never to be drawn.
  above_BN = (sum_BN > uniform_B[:, None] * sum_BN[:, -1:]) & (weight_BN > 0)
  # If rounding leaves nothing above, the likeliest is taken, which is as good as the last.
  return jnp.where(above_BN.any(-1), above_BN.argmax(-1), weight_BN.argmax(-1))


@checked(where='sampling')
def make(
  *,
  temperature: NotNegative = 1.0,
  top_k: Count | None = None,
  top_p: TopP | None = None,
  min_p: MinP | None = None,
  repetition_penalty: Positive | None = None,
  allowed_V: Any = None,
) -> Pick:
  """The rules for picking, the same for all rows.

  >>> keys_B = jax.random.split(jax.random.key(0), 1)
  >>> picked = make(top_k=1)(jnp.log(jnp.array([[0.5, 0.3, 0.2]])), keys_B)
  >>> picked.token.tolist(), round(float(picked.logp[0]), 3), float(picked.sampled_logp[0])
  ([0], -0.693, 0.0)

  Args:
    temperature: logits are divided by it; 0 is greedy.
    top_k: only the k most likely tokens; ties at the border stay in.
    top_p: only the fewest tokens whose probabilities reach p (arXiv:1904.09751), at least one;
      after top_k.
    min_p: only tokens at least this fraction as likely as the likeliest (arXiv:2407.01082).
    repetition_penalty: logits of tokens that the row holds already are divided by it where they are
      positive and multiplied where negative (CTRL, arXiv:1909.05858, sec. 4.1); 1 changes nothing.
    allowed_V: bool, the ids that may be picked.

  Raises:
    BadInput: a value outside its range.
  """
  return Pick(temperature, top_k, top_p, min_p, repetition_penalty, allowed_V)


def truncate(logp_BV: Array, top_k: Any = None, top_p: Any = None, min_p: Any = None) -> Array:
  """-inf where top-k, top-p or min-p leave a token out; ties at the border stay in.

  >>> logp_BV = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
  >>> jnp.isfinite(truncate(logp_BV, top_p=0.7)).tolist()
  [[True, True, False]]
  """
  if top_k is not None:
    if isinstance(top_k, int):
      worst_B1 = jax.lax.top_k(logp_BV, min(top_k, logp_BV.shape[-1]))[0][:, -1:]
    else:
      last = jnp.clip(jnp.asarray(top_k, jnp.int32), 1, logp_BV.shape[-1]) - 1
      last_B1 = jnp.broadcast_to(last, logp_BV.shape[:1])[:, None]
      worst_B1 = jnp.take_along_axis(-jnp.sort(-logp_BV, axis=-1), last_B1, axis=-1)
    logp_BV = jnp.where(logp_BV >= worst_B1, logp_BV, -jnp.inf)
  if top_p is not None:
    falling_BV = -jnp.sort(-logp_BV, axis=-1)
    prob_BV = jax.nn.softmax(falling_BV)
    # A token stays if the mass before it is below p, so the first always stays; at 1 all stay,
    # whatever rounding made of the sum.
    p_B1 = _column(top_p)
    stays_BV = (jnp.cumsum(prob_BV, axis=-1) - prob_BV < p_B1) | (p_B1 >= 1)
    worst_B1 = jnp.where(stays_BV, falling_BV, jnp.inf).min(-1, keepdims=True)
    logp_BV = jnp.where(logp_BV >= worst_B1, logp_BV, -jnp.inf)
  if min_p is not None:
    least_B1 = logp_BV.max(-1, keepdims=True) + jnp.log(_column(min_p))
    logp_BV = jnp.where(logp_BV >= least_B1, logp_BV, -jnp.inf)
  return logp_BV


def _column(value: Any) -> Array:
  """A number, or numbers [B], that broadcast against [B, V]."""
  return jnp.asarray(value, jnp.float32).reshape(-1, 1)

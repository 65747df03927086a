"""The words every room shares: shape letters, batch fields, averages and bad input.

Shape letters, in names such as `logits_BLV`:
  B batch, G group, L length, S keys, D model, F hidden, H heads, K kv heads, E head size,
  V vocabulary, N layers, P prompt.

Batch fields (all `[B, L]` or `[B, G, L]` unless said otherwise):
  tokens            int32, the ids
  mask              1 where the token is a target; the first token of a segment never is
  position          int32, counts from 0 inside each segment
  segment           int32, 0 = padding, 1, 2, ... = documents of a row; attention stays inside one
  target            int32, what to predict where it is not `tokens` (masked language model)
  prompt, prompt_mask, answer
  old_logp, ref_logp, reward, advantage, return, value
  teacher_logits, teacher_ids   `[..., L, K]`, log-probabilities of a teacher's best tokens
  label, margin     `[B]`
  kl_tokens, ...    prompts with answers that are not theirs (KTO)
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

Array = jax.Array
Params = Mapping[str, Any]
Batch = Mapping[str, Array]


class BadInput(ValueError):
  """Something the user gave cannot work. The message is one line: what, where, what would work."""


@flax.struct.dataclass
class Mean:
  """A sum and its count, both float32 scalars.

  `+` merges microbatches, devices and evaluation batches exactly; divide once, where it is shown.
  """

  total: Array
  count: Array

  @classmethod
  def of(cls, values: Any, weight: Any = 1.0) -> 'Mean':
    """Weighted mean of `values`; `weight` broadcasts against them."""
    values = jnp.asarray(values, jnp.float32)
    weight = jnp.broadcast_to(jnp.asarray(weight, jnp.float32), values.shape)
    return cls(total=(values * weight).sum(), count=weight.sum())

  @property
  def value(self) -> Array:
    """total / count; 0 where nothing was counted."""
    return self.total / jnp.where(self.count == 0, 1, self.count)

  def __add__(self, other: 'Mean') -> 'Mean':
    return Mean(self.total + other.total, self.count + other.count)


Metrics = dict[str, Mean]
LossFn = Callable[[Params, Batch, Array], tuple[Mean, Metrics]]
Annotate = Callable[[Params, Batch, Array], Batch]
BatchFn = Callable[[Params, int], Batch]

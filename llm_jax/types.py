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
  prompt, prompt_mask   `[B, P]`, int32 ids padded on the left, and 1 on real ones
  answer            `[B, A]`, uint8, the gold answer as UTF-8 text, padded with 0
  sampled_logp      log-probability under what was sampled from: softmax(logits / T), truncated
  old_logp          log-probability under the policy that sampled, computed as the trainer does
  ref_logp          log-probability under a frozen model
  reward, valid     `[B, G]`, the score of an answer, and 1 where it is known
  token_reward, value, return, advantage   `[B, G, L]`, entry t belongs to the choice of token t
  value_mask        1 on the steps whose value counts, where these are not those of `mask`
  teacher_logits, teacher_ids   `[..., L, K]`, log-probabilities of a teacher's best tokens
  label, margin     `[B]`
  kl_tokens, ...    prompts with answers that are not theirs (KTO)
  ptx_tokens, ...   rows of pretraining beside those of reinforcement learning
  log/<name>        `[B]`, what an annotator measured; the step reports its mean as <name>
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

  >>> half, rest = Mean.of([1.0, 3.0, 9.0], weight=[1, 1, 0]), Mean.of([5.0])
  >>> float((half + rest).value)  # of 1, 3 and 5; the mean of the two means would be 3.5
  3.0
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


@flax.struct.dataclass
class Peak:
  """The largest of some numbers, none below 0; `+` merges parts as it does for `Mean`.

  >>> float((Peak.of([1.0, 7.0], weight=[1, 0]) + Peak.of([3.0])).value)
  3.0
  """

  value: Array

  @classmethod
  def of(cls, values: Any, weight: Any = 1.0) -> 'Peak':
    """The largest of `values` where `weight` is not 0; 0 where there is none."""
    values = jnp.asarray(values, jnp.float32)
    return cls(jnp.where(jnp.asarray(weight) > 0, values, 0).max())

  def __add__(self, other: 'Peak') -> 'Peak':
    return Peak(jnp.maximum(self.value, other.value))


@flax.struct.dataclass
class Counts:
  """Sums by name, and the function that makes one number of them; for metrics that are no means.

  `+` merges parts exactly, as it does for `Mean`: F1s of halves cannot be averaged, but the counts
  behind them can be added.

  >>> def precision(sums):
  ...   return sums['right'] / (sums['right'] + sums['wrong'])
  >>> first = Counts({'right': 1, 'wrong': 1}, precision)
  >>> second = Counts({'right': 2, 'wrong': 0}, precision)
  >>> (first + second).value
  0.75
  """

  sums: Mapping[str, Any]
  compute: Callable[[Mapping[str, Any]], Any] = flax.struct.field(pytree_node=False)

  @property
  def value(self) -> Any:
    """`compute(sums)`."""
    return self.compute(self.sums)

  def __add__(self, other: 'Counts') -> 'Counts':
    return Counts({k: v + other.sums[k] for k, v in self.sums.items()}, self.compute)


Metrics = dict[str, Any]  # of Mean, Peak or Counts
LossFn = Callable[[Params, Batch, Array], tuple[Mean, Metrics]]
Annotate = Callable[[Params, Batch, Array], Batch]
BatchFn = Callable[[Params, int], Batch]
Evaluate = Callable[[Params], Metrics]

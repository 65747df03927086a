"""A policy and its critic as one model, for PPO (arXiv:1707.06347; critics as in arXiv:1909.08593).

It applies like its policy. The critic is a Transformer of its own with a scalar head, whose values
are one more method, so that nothing outside has to know that there are two.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from llm_jax.models import transformer
from llm_jax.models.around import Around
from llm_jax.models.compute import Compute
from llm_jax.models.transformer import Transformer
from llm_jax.types import JUDGES, Array, BadInput, Params


@dataclasses.dataclass(frozen=True)
class ActorCritic(Around):
  """Parameters are `policy` and `critic`; see the attributes of the same names.

  Attributes:
    policy: the model that speaks, and that is published.
    critic: of any size, with a scalar head; reads the same tokens.
  """

  policy: Transformer
  critic: Transformer

  @property
  def inner(self) -> Transformer:
    """The policy."""
    return self.policy

  def backend(self, length: int) -> str:
    """The policy's, which the critic's may differ from by its heads alone."""
    self.critic.backend(length)  # refuses what it cannot do
    return self.policy.backend(length)

  def init(self, rng: Array, tokens: Array) -> Params:
    """Parameters of both."""
    policy_rng, critic_rng = jax.random.split(rng)
    return {
      'policy': self.policy.init(policy_rng, tokens),
      'critic': self.critic.init(critic_rng, tokens),
    }

  def apply(self, params: Params, *args: Any, method: str | None = None, **kwargs: Any) -> Any:
    """As the policy; with `method='value'` the values float32 [B, L] after each token."""
    if method == 'value':
      return self.critic.apply(params['critic'], *args, **kwargs)[0]
    if method is not None:
      kwargs['method'] = method
    return self.policy.apply(params['policy'], *args, **kwargs)

  def for_decoding(self, params: Params) -> tuple[Any, Params]:
    """That of the policy."""
    return self.policy.for_decoding(params['policy'])

  def published(self, params: Params) -> tuple[Any, Params]:
    """The policy alone."""
    return self.policy, params['policy']

  def num_params(self) -> int:
    """How many numbers the parameters of both hold."""
    return self.policy.num_params() + self.critic.num_params()

  def flops_per_token(self, length: int) -> float:
    """Those of training both."""
    return self.policy.flops_per_token(length) + self.critic.flops_per_token(length)


# Groups of `config.model`, and what their fields are those of.
GROUPS = {
  f'{half}.{inner}'.rstrip('.'): fields
  for half in ('policy', 'critic')
  for inner, fields in transformer.GROUPS.items()
}


def make(
  *,
  policy: Mapping[str, Any],
  critic: Mapping[str, Any],
  compute: Mapping[str, Any] | Compute | None = None,
) -> ActorCritic:
  """A model from the shapes of its two halves, as fields of `transformer.Shape`.

  Raises:
    BadInput: a critic without a scalar head, or with a smaller vocabulary or length.
  """
  shape = lambda group: {k: v for k, v in group.items() if k != 'name'}
  half = lambda group: transformer.make(compute=compute, **shape(group))
  model = ActorCritic(half(policy), half({**critic, 'head': critic.get('head', 'scalar')}))
  ours, theirs = model.policy.shape, model.critic.shape
  if theirs.head != 'scalar' or ours.head in JUDGES:
    raise BadInput("model: policy speaks and critic scores; set config.model.critic.head='scalar'")
  for field in ('vocab_size', 'max_length'):
    if getattr(theirs, field) < getattr(ours, field):
      raise BadInput(
        f'model: critic.{field} {getattr(theirs, field)} is below {getattr(ours, field)} of the '
        'policy; both read the same rows'
      )
  return model

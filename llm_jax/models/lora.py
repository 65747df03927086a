"""Low-rank adaptation (LoRA, arXiv:2106.09685): a frozen model with small trainable additions."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from llm_jax.models.around import Around
from llm_jax.models.layers import LowRank, fan_in
from llm_jax.models.transformer import Transformer
from llm_jax.options import Count, Pattern, Positive
from llm_jax.parallel.parameters import PARAMETERS, abstract_params, facts_of
from llm_jax.types import Array, BadInput, Params

# Those of layers that there may be.
TARGETS = '|'.join(row.pattern for row in PARAMETERS if row.low_rank and row.stacked)


@dataclasses.dataclass(frozen=True)
class Lora(Around):
  """A Transformer whose parameters are `base`, which never change, and `lora`, which do.

  It is used like the Transformer it adapts. `params['lora']` mirrors the paths of the base: a
  weight of `targets` has `a` and `b` there, and one of `full` a whole copy of its own.

  The attributes are the arguments of `wrap`.
  """

  base: Transformer
  rank: int
  alpha: float
  targets: str
  full: str
  frozen = ('base',)

  @property
  def inner(self) -> Transformer:
    """The base."""
    return self.base

  def init(self, rng: Array, tokens: Array) -> Params:
    """Parameters of the base, `a` random and `b` 0: at first the model is its base."""
    base_rng, rng = jax.random.split(rng)
    base = self.base.init(base_rng, tokens)
    lora = {}
    for i, (path, leaf) in enumerate(sorted(flatten_dict(base, sep='/').items())):
      if self._targeted(path):
        layers, inner, outer = facts_of(path).split(leaf.shape)
        draw = fan_in(math.prod(inner))
        lora[f'{path}/a'] = draw(jax.random.fold_in(rng, i), (*layers, *inner, self.rank))
        lora[f'{path}/b'] = jnp.zeros((*layers, self.rank, *outer))
      elif re.search(self.full, path):
        lora[path] = leaf
    return {'base': base, 'lora': unflatten_dict(lora, sep='/')}

  def apply(self, params: Params, *args: Any, **kwargs: Any) -> Any:
    """As the base, with additions multiplied beside the weights; no sum of weights is built."""
    return self.base.apply(self._joined(params, self._low_rank), *args, **kwargs)

  def for_decoding(self, params: Params) -> tuple[Transformer, Params]:
    """The base with its additions beside the weights; see `Transformer.for_decoding`."""
    return self.base.for_decoding(self._joined(params, self._low_rank))

  def published(self, params: Params) -> tuple[Transformer, Params]:
    """The base with its additions summed in; it differs from no other artifact."""
    return self.base, jax.jit(self.merged)(params)

  def merged(self, params: Params) -> Params:
    """Parameters of the base with the additions summed in, for the artifact."""

    def add(path: str, weight: Array, a: Array, b: Array) -> Array:
      layers, _, _ = facts_of(path).split(weight.shape)
      product = a.reshape(*layers, -1, self.rank) @ b.reshape(*layers, self.rank, -1)
      return weight + self.alpha / self.rank * product.reshape(weight.shape)

    return self._joined(params, add)

  def num_params(self) -> int:
    """How many numbers the parameters hold, frozen and trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(self)))

  def flops_per_token(self, length: int) -> float:
    """Those of the base without the gradients of its weights: two thirds (a b is left out)."""
    return self.base.flops_per_token(length) * 2 / 3

  def _low_rank(self, path: str, weight: Array, a: Array, b: Array) -> LowRank:
    del path
    return LowRank(weight, a, b, self.alpha / self.rank)

  def _targeted(self, path: str) -> bool:
    return bool(re.search(self.targets, path)) and not re.search(self.full, path)

  def _joined(self, params: Params, join: Callable[[str, Array, Array, Array], Any]) -> Params:
    base: dict[str, Any] = flatten_dict(dict(params['base']), sep='/')
    lora: dict[str, Any] = flatten_dict(dict(params['lora']), sep='/')

    def one(path: str, weight: Array) -> Any:
      if self._targeted(path):
        return join(path, weight, lora[f'{path}/a'], lora[f'{path}/b'])
      return lora.get(path, weight)

    return unflatten_dict({path: one(path, weight) for path, weight in base.items()}, sep='/')


def wrap(
  base: Transformer,
  *,
  rank: Count = 8,
  alpha: Positive = 16.0,
  targets: Pattern = TARGETS,
  full: Pattern = 'head/(scalar|bias|classes)$',
) -> Lora:
  """The model with low-rank additions.

  Args:
    base: the model.
    rank: R, columns of `a`.
    alpha: the addition is alpha / rank * a b.
    targets: pattern of parameter paths that get an addition.
    full: pattern of parameter paths that are trained whole, such as a fresh head of scores.

  Raises:
    BadInput: targets that match nothing, or something that is no weight matrix.
  """
  model = Lora(base, rank, float(alpha), targets, full)
  paths = sorted(flatten_dict(abstract_params(base), sep='/'))
  found = [path for path in paths if model._targeted(path)]
  wrong = [path for path in found if not facts_of(path).low_rank]
  if wrong or not found:
    what = f'match {wrong[0]!r}, which is no weight of a product' if wrong else 'match nothing'
    usable = ', '.join(path for path in paths if facts_of(path).low_rank)
    raise BadInput(f'model.lora: targets {targets!r} {what}; choose from: {usable}')
  return model

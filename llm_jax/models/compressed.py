"""A Transformer some of whose parameters are stored in few bits, and read so; see weights.py."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from llm_jax.models.around import Around
from llm_jax.models.transformer import Transformer
from llm_jax.models.weights import Form, Quantized, Weight, with_rounds
from llm_jax.options import check
from llm_jax.parallel.mesh import platform
from llm_jax.parallel.parameters import abstract_params, facts_of, path_of
from llm_jax.types import Array, BadInput, Params


@dataclasses.dataclass(frozen=True)
class Compressed(Around):
  """It is used like the Transformer that it is, but for training.

  Attributes:
    base: the Transformer.
    forms: (path, form) of the parameters that are stored in few bits.
  """

  base: Transformer
  forms: tuple[tuple[str, Form], ...]

  @property
  def inner(self) -> Transformer:
    """The base."""
    return self.base

  def init(self, rng: Array, tokens: Array) -> Params:
    """Parameters of the base, of which those in few bits are 0."""
    params: dict[str, Any] = flatten_dict(self.base.init(rng, tokens), sep='/')
    for path, form in self.forms:
      params[path] = form.empty(path, params[path].shape, facts_of(path))
    return unflatten_dict(params, sep='/')

  def apply(self, params: Params, *args: Any, **kwargs: Any) -> Any:
    """As the base."""
    return self.base.apply(self._read(params), *args, **kwargs)

  def for_decoding(self, params: Params) -> tuple[Transformer, Params]:
    """The base with weights in few bits, or on a CPU as `Quantized.for_cpu` has them."""
    model, arranged = self.base.for_decoding(self._read(params))
    if platform() != 'cpu':
      return model, arranged

    def one(key_path: Any, x: Any) -> Any:
      if not isinstance(x, Quantized):
        return x
      path = re.sub(r'blocks/\d+/', 'blocks/', path_of(key_path))  # layers are apart
      multiplied = facts_of(path).low_rank
      return x.for_cpu(self.compute.dtype) if multiplied else x.dense(self.compute.dtype)

    is_weight = lambda x: isinstance(x, Weight)
    return model, jax.tree_util.tree_map_with_path(one, arranged, is_leaf=is_weight)

  def published(self, params: Params) -> tuple['Compressed', Params]:
    """The model and parameters that an artifact holds: these."""
    return self, params

  def _read(self, params: Params) -> Params:
    return with_rounds(params) if self.compute.products == 'int8' else params


def wrap(base: Transformer, forms: Mapping[str, Mapping[str, Any]]) -> Compressed:
  """The model of an artifact whose `model.weights` are these.

  Args:
    base: the model.
    forms: path -> fields of `Form`.

  Raises:
    BadInput: a path that the model does not have, or a form that there is not.
  """
  known: dict[str, Any] = flatten_dict(abstract_params(base), sep='/')
  found = []
  for path, form in sorted(forms.items()):
    if path not in known:
      raise BadInput(f'model.weights: the model has no parameter {path!r}')
    check(Form, form, where=f'model.weights.{path}')
    found.append((path, Form(**form)))
  return Compressed(base, tuple(found))

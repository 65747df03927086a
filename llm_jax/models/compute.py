"""How a model is run: types, kernels and memory. It changes no parameter and is never stored."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax

from llm_jax.options import check, options_of
from llm_jax.types import BadInput

# What a flash kernel leaves for its backward pass has this name; where that is not kept, it runs
# twice.
_ATTENTION = jax.checkpoint_policies.save_only_these_names('attention')
POLICIES = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'attention': _ATTENTION,
  'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=['attention'],
    names_which_can_be_offloaded=['block'],
    offload_src='device',
    offload_dst='pinned_host',
  ),
  'dots': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _ATTENTION
  ),
  'all_dots': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable, _ATTENTION
  ),
}


# What only gives another form to what is there already, such as weights that were made whole.
_FORMS = ('all_gather', 'convert_element_type', 'reshape', 'transpose', 'squeeze', 'concatenate')


def but_whole(primitive: Any, *_: Any, **params: Any) -> bool:
  """Keeps everything for the backward pass but weights that were made whole, in any form."""
  inside = getattr(params.get('call_jaxpr'), 'eqns', ())
  gathers = any(one.primitive.name == 'all_gather' for one in inside)
  return primitive.name not in _FORMS and not gathers


@dataclasses.dataclass(frozen=True)
class Compute:
  """Fields of `config.compute`; the same parameters can be run with any of them.

  Attributes:
    dtype: of activations and products; parameters are float32.
    product_dtype: 'bfloat16' rounds the operands of float32 products, with weights and in
      attention, which is what CPUs with AMX and the like do fast; sums and everything else stay
      float32. None rounds nothing.
    products: what weights of int8 are multiplied with: activations as they are ('float'), or these
      rounded to 'int8' too, a token at a time, which is faster. Other models do not mind.
    cache_dtype: of cached keys and values; None is that of activations.
    attention: the backend, see models/attend: 'auto', 'xla', 'chunked', 'cudnn' or 'splash'.
    remat: what the backward pass computes again: 'none', 'full' (all of a block), 'attention' (all
      but a flash kernel), 'dots' (all but that and products with weights), 'all_dots' (all but that
      and products), 'offload' (as 'attention', and the input of each block waits in the host's
      memory).
    scan_layers: one compiled block for all layers (compiles fast) or one each (runs faster).
    fuse: one product for query, key and value and one for gate and up; see `layers.products`.
  """

  dtype: Literal['float32', 'bfloat16', 'float16'] = 'float32'
  product_dtype: Literal['bfloat16'] | None = None
  products: Literal['float', 'int8'] = 'float'
  cache_dtype: Literal['float32', 'bfloat16', 'int8'] | None = None
  attention: Literal['auto', 'xla', 'chunked', 'cudnn', 'splash'] = 'auto'
  remat: Literal['none', 'full', 'attention', 'dots', 'all_dots', 'offload'] = 'none'
  scan_layers: bool = True
  fuse: bool = False


def compute_of(group: 'Mapping[str, Any] | Compute | None') -> Compute:
  """The Compute of a config group, or itself.

  Raises:
    BadInput: an unknown field, or a value that cannot be.
  """
  if isinstance(group, Compute):
    return group
  given = dict(group or {})
  check(Compute, given, where='compute')
  if given.get('product_dtype') and given.get('dtype', 'float32') != 'float32':
    raise BadInput(
      "compute: product_dtype rounds float32 products; set dtype='float32', or leave it out"
    )
  return Compute(**given)


def without_compute(group: Mapping[str, Any]) -> dict[str, Any]:
  """A model's config group without the fields of Compute, which older runs stored in it."""
  if group.get('name', 'transformer') not in ('transformer', 'actor_critic'):
    return dict(group)
  rest = {k: v for k, v in group.items() if k not in options_of(Compute)}
  return {k: without_compute(v) if k in ('policy', 'critic') else v for k, v in rest.items()}

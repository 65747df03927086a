"""config.json of Hugging Face transformers: what a family says of a model, in our words and back.

What their families cannot say, and what ours cannot, is refused by name.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from llm_jax.models import moe
from llm_jax.models.huggingface.families import FAMILIES
from llm_jax.models.huggingface.rules import Config, bad
from llm_jax.models.rope_scaling import Dynamic, scaling_of
from llm_jax.models.shape import Kind, Shape
from llm_jax.types import BadInput


def shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keyword arguments of `transformer.make` for a config.json of theirs.

  Raises:
    BadInput: an unknown `model_type`, or an option our Transformer does not have.
  """
  config = text_of(config)
  name = config.get('model_type')
  if name not in FAMILIES:
    raise bad(f'model_type {name!r} is not supported; choose from: {", ".join(FAMILIES)}')
  if config.get('quantization_config') is not None:
    method = dict(config['quantization_config']).get('quant_method', 'of an unknown method')
    raise bad(
      f'{name} with a quantization_config ({method}) is not supported; take the weights of 16 bits'
    )
  config = {**FAMILIES[name].defaults, **config}
  return {k: v for rule in FAMILIES[name].rules for k, v in rule.read(config).items()}


def text_of(config: Mapping[str, Any]) -> Config:
  """The part of a config that is about text: all of it, but for models that also see or hear."""
  if not isinstance(inner := config.get('text_config'), Mapping):
    return config
  outer = ('architectures', 'tie_word_embeddings', 'quantization_config', 'torch_dtype', 'dtype')
  return {**{key: config[key] for key in outer if key in config}, **inner}


def config_of(shape: Shape, family: str | None = None) -> dict[str, Any]:
  """The config.json of a model of ours, in a family that has its options.

  Args:
    shape: of our model.
    family: the `model_type` to take; by default the first that has them.

  Raises:
    BadInput: no family has them; the message names the first option in the way of the closest.
  """
  if family is not None and family not in FAMILIES:
    raise bad(f'model_type {family!r} is not supported; choose from: {", ".join(FAMILIES)}')
  tried = [(name, *_tried(shape, name)) for name in ([family] if family else FAMILIES)]
  learned = lambda differing: any(key == 'position' for key, _, _ in differing)
  name, config, differing = min(tried, key=lambda one: (learned(one[2]), len(one[2])))
  if not differing:
    return dict(config)
  field, theirs, ours = differing[0]
  raise bad(
    f'no family of theirs has this model: the closest, {name}, has {field}={theirs!r}, not {ours!r}'
    if family is None
    else f'{family} does not have this model: it has {field}={theirs!r}, not {ours!r}'
  )


@functools.lru_cache(maxsize=256)
def _tried(shape: Shape, name: str) -> tuple[dict[str, Any], list[tuple[str, Any, Any]]]:
  """The config of a shape in a family, and in what its model differs from the shape."""
  family = FAMILIES[name]
  config: dict[str, Any] = {'model_type': name, 'architectures': [family.architecture(shape)]}
  for rule in family.rules:
    config |= rule.write(shape)
  try:
    theirs = _function(Shape(**shape_of(config)))
  except BadInput as error:  # what was written cannot be
    return config, [('config', str(error), None)] * 99
  if wrong := family.cannot(shape):
    return config, [(*wrong, getattr(shape, wrong[0]))]
  ours = _function(shape)
  return config, [(key, theirs.get(key), x) for key, x in ours.items() if theirs.get(key) != x]


def _function(shape: Shape) -> dict[str, Any]:
  """What a shape says, so that two shapes of the same function and parameters say the same."""
  said = {field.name: getattr(shape, field.name) for field in dataclasses.fields(Shape)}
  for key in ('layers', 'kinds', 'rope_theta', 'rope_scaling', 'window'):
    del said[key]  # of each block instead
  for key in ('embedding_std', 'induction_heads'):
    del said[key]  # of training from scratch
  if shape.position == 'rope':
    kinds = shape.blocks
  else:
    kinds = tuple(Kind(window=kind.window, rope=False) for kind in shape.blocks)
  for field in dataclasses.fields(Kind):
    values = [getattr(kind, field.name) for kind in kinds]
    values = [scaling_of(x) if isinstance(x, Mapping) else x for x in values]
    said[field.name] = values[0] if all(value == values[0] for value in values) else values
  if shape.experts is not None:
    mixture = dataclasses.asdict(moe.Mixture(**shape.experts))
    said['experts'] = {k: v for k, v in mixture.items() if k not in ('balance', 'weight')}
    said['experts']['balanced by a bias'] = mixture['balance'] == 'bias'
  if shape.query_scale == shape.head_dim**-0.5:
    said['query_scale'] = None
  for key in ('embedding_scale', 'residual_scale', 'logit_divisor'):
    said[key] = None if said[key] == 1 else said[key]
  if isinstance(said['rope_scaling'], Dynamic):
    del said['max_length']  # theirs says where the stretch begins, and nothing of its end
  if shape.bias:
    said |= {'qkv_bias': True, 'out_bias': True}
    said |= {} if shape.gated else {'mlp_bias': True, 'bias': False}
  return said

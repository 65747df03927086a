"""Rotary positions in config.json, in the spelling of transformers 4 and in that of 5.

The older one has `rope_theta` beside `rope_scaling`, the newer one has all in `rope_parameters`.
Both are read, and both are written: a reader that knows one of them only would take its default
for the rest, and say nothing.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from llm_jax.models.huggingface.rules import Config, Rule, bad, need
from llm_jax.models.rope_scaling import KINDS, scaling_of
from llm_jax.models.shape import Shape

LENGTH = 'original_max_position_embeddings'
OLD = {'su': 'longrope'}  # names that kinds had


def rope(
  theta: float = 10000.0,
  share: float | None = None,
  names: tuple[str, str] = ('rope_theta', 'partial_rotary_factor'),
) -> Rule:
  """Base, scaling and share of rotary positions.

  Args:
    theta: what the family assumes where config.json says nothing.
    share: how much of each head it turns where config.json says nothing; None: always all of it.
    names: of the older entries of theta and share.
  """

  def read(config: Config) -> dict[str, Any]:
    said = config.get('rope_parameters') or config.get('rope_scaling') or {}
    base = said.get('rope_theta') or config.get(names[0]) or theta
    fields = {'rope_theta': float(base), 'rope_scaling': scaling(said, config)}
    turned = said.get('partial_rotary_factor', config.get(names[1]))
    if share is not None:
      size = config.get('head_dim') or need(config, 'hidden_size') // config['num_attention_heads']
      fields['rope_dim'] = int(size * (share if turned is None else turned))
    elif turned not in (1, None):
      raise bad(f'{config["model_type"]} with partial_rotary_factor={turned!r} is not supported')
    stretch = fields['rope_scaling'] or {}
    if stretch.get('kind') == 'dynamic':
      fields['max_length'] = math.ceil(stretch['factor'] * stretch['original_length'])
    return fields

  def write(shape: Shape) -> dict[str, Any]:
    old = said_of(shape.rope_scaling, shape.max_length)
    new = {'rope_theta': shape.rope_theta, **(old or {'rope_type': 'default'})}
    config: dict[str, Any] = {names[0]: shape.rope_theta, 'rope_scaling': old}
    if share is not None:
      new['partial_rotary_factor'] = config[names[1]] = shape.rope_dim / shape.head_dim
    if shape.rope_scaling and old and old['rope_type'] == 'dynamic':
      config['max_position_embeddings'] = shape.rope_scaling['original_length']
    if old and old['rope_type'] == 'longrope':
      config[LENGTH] = old[LENGTH]
    return {**config, 'rope_parameters': new}

  return Rule(read, write)


def scaling(said: Mapping[str, Any], config: Config) -> dict[str, Any] | None:
  """Our `rope_scaling` for their `rope_parameters` or `rope_scaling`.

  Raises:
    BadInput: an unknown rope_type, or an entry that it lacks.
  """
  kind = said.get('rope_type', said.get('type', 'default'))
  kind = OLD.get(kind, kind)
  if kind == 'default':
    return None
  if kind not in KINDS:
    raise bad(
      f'{config["model_type"]} with rope_type {kind!r} is not supported; '
      f'choose from: default, {", ".join(KINDS)}'
    )
  longest = need(config, 'max_position_embeddings')
  length = config.get(LENGTH) or said.get(LENGTH) or longest
  found: dict[str, Any] = {} if kind in ('linear', 'llama3') else {'kind': kind}
  for field in dataclasses.fields(KINDS[kind]):
    value = said.get(field.name)
    if field.name == 'original_length':
      value = longest if kind == 'dynamic' else length
    elif field.name == 'attention_factor' and kind == 'longrope' and value is None:
      factor = longest / length if config.get(LENGTH) else said.get('factor') or longest / length
      value = _attention_factor(factor, length)
    if value is not None and value != field.default:
      found[field.name] = value
    elif value is None and field.default is dataclasses.MISSING:
      raise bad(f'config.json has no {field.name} for rope_type {kind!r}')
  return found


def said_of(group: Mapping[str, Any] | None, longest: int) -> dict[str, Any] | None:
  """Their `rope_scaling` for ours: the inverse of `scaling`."""
  if group is None:
    return None
  ours = scaling_of(group)
  kind = next(name for name, one in KINDS.items() if isinstance(ours, one))
  said: dict[str, Any] = {'rope_type': kind}
  for field in dataclasses.fields(ours):
    value = getattr(ours, field.name)
    if field.name == 'original_length':
      if kind != 'dynamic':
        said[LENGTH] = value
    elif value != field.default:
      said[field.name] = list(value) if isinstance(value, tuple) else value
  if kind == 'longrope' and said.get('attention_factor', 1.0) == _attention_factor(
    longest / said[LENGTH], said[LENGTH]
  ):
    said.pop('attention_factor', None)  # the readers of the first such models know no such entry
  return said


def _attention_factor(factor: float, length: int) -> float:
  """What LongRoPE multiplies cosines and sines by, unless config.json says it."""
  return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(length))


def rope_by_kind(full: float = 1e6, sliding: float = 1e4) -> Rule:
  """Rotary positions of layers that see all and of those that see a window (Gemma 3).

  Args:
    full, sliding: the bases that are assumed.
  """

  def read(config: Config) -> dict[str, Any]:
    said = config.get('rope_parameters') or {}
    far = dict(said.get('full_attention') or {}) | dict(config.get('rope_scaling') or {})
    near = dict(said.get('sliding_attention') or {})
    base = near.get('rope_theta') or config.get('rope_local_base_freq') or sliding
    return {
      'rope_theta': float(far.get('rope_theta') or config.get('rope_theta') or full),
      'rope_scaling': scaling(far, config),
      'kinds': {'local': {'rope_theta': float(base), 'rope_scaling': scaling(near, config)}},
    }

  def write(shape: Shape) -> dict[str, Any]:
    near = next((kind for kind in shape.blocks if kind.window), shape.kind('local'))
    far = next((kind for kind in shape.blocks if not kind.window), shape.kind('global'))
    old = said_of(far.rope_scaling, shape.max_length)
    both = {'full_attention': (far, old)}
    both['sliding_attention'] = (near, said_of(near.rope_scaling, shape.max_length))
    new = {
      name: {'rope_theta': kind.rope_theta, **(one or {'rope_type': 'default'})}
      for name, (kind, one) in both.items()
    }
    return {
      'rope_theta': far.rope_theta,
      'rope_local_base_freq': near.rope_theta,
      'rope_scaling': old,
      'rope_parameters': new,
    }

  return Rule(read, write)

"""Rotary positions in config.json, in the spelling of transformers 4 and in that of 5.

The older one has `rope_theta` beside `rope_scaling`, the newer one has all in `rope_parameters`.
Both are read, and both are written: a reader that knows one of them only would take its default
for the rest, and say nothing.
"""

from typing import Any

from llm_jax.models.huggingface.rules import Config, Rule, bad, need
from llm_jax.models.shape import Shape

SCALING = {  # of Llama 3.1: ours to theirs
  'factor': 'factor',
  'low_freq_factor': 'low_freq_factor',
  'high_freq_factor': 'high_freq_factor',
  'original_length': 'original_max_position_embeddings',
}


def rope(theta: float = 10000.0) -> Rule:
  """Base and scaling of rotary positions.

  Args:
    theta: what the family assumes where config.json says nothing.
  """

  def read(config: Config) -> dict[str, Any]:
    said = config.get('rope_parameters') or config.get('rope_scaling') or {}
    base = said.get('rope_theta') or config.get('rope_theta') or theta
    family, kind = config['model_type'], said.get('rope_type', said.get('type', 'default'))
    if kind not in ('default', 'llama3'):
      raise bad(f'{family} with rope_type {kind!r} is not supported; use default or llama3')
    if said.get('partial_rotary_factor', 1) != 1:
      raise bad(f'{family} with a partial_rotary_factor is not supported')
    scaling = (
      {ours: need(said, theirs) for ours, theirs in SCALING.items()} if kind == 'llama3' else None
    )
    return {'rope_theta': float(base), 'rope_scaling': scaling}

  def write(shape: Shape) -> dict[str, Any]:
    scaling = None
    if shape.rope_scaling:
      scaling = {theirs: shape.rope_scaling.get(ours) for ours, theirs in SCALING.items()}
      scaling = {'rope_type': 'llama3', **scaling}
    return {
      'rope_theta': shape.rope_theta,
      'rope_scaling': scaling,
      'rope_parameters': {'rope_theta': shape.rope_theta, **(scaling or {'rope_type': 'default'})},
    }

  return Rule(read, write)

"""CISPO (arXiv:2506.13585): the ratio weighs a token's gradient, capped, so that none drops out.

python -m llm_jax.main --config=configs/cispo.py
"""

from ml_collections import ConfigDict

from configs import group_rl


def get_config(size: str = 'tiny') -> ConfigDict:
  return group_rl.like(group_rl.get_config('cispo', size), loss='cispo', advantage='grpo')

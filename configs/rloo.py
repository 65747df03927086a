"""RLOO (arXiv:2402.14740): an answer is compared with the mean of the others, and moves as one.

python -m llm_jax.main --config=configs/rloo.py
"""

from ml_collections import ConfigDict

from configs import group_rl


def get_config(size: str = 'tiny') -> ConfigDict:
  return group_rl.like(group_rl.get_config('rloo', size), loss='rloo', advantage='rloo')

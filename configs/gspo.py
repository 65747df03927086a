"""GSPO: the ratio of a whole answer is clipped, and not that of each token (arXiv:2507.18071).

python -m llm_jax.main --config=configs/gspo.py
"""

from ml_collections import ConfigDict

from configs import group_rl


def get_config(size: str = 'tiny') -> ConfigDict:
  return group_rl.like(group_rl.get_config('gspo', size), loss='gspo', advantage='grpo')

"""Dr. GRPO (arXiv:2503.20783): GRPO without its biases to long wrong answers and easy prompts.

python -m llm_jax.main --config=configs/dr_grpo.py
"""

from ml_collections import ConfigDict

from configs import group_rl


def get_config(size: str = 'tiny') -> ConfigDict:
  return group_rl.like(group_rl.get_config('dr_grpo', size), loss='dr_grpo', advantage='dr_grpo')

"""GRPO: several answers to each prompt, those that a program finds right are reinforced.

python -m llm_jax.main --config=configs/grpo.py
python -m llm_jax.main --config=configs/grpo.py --config.data.sources.builtin='' \
  --config.data.sources.mine='my.jsonl?prompt=question&answer=final' \
  --config.annotate.verify.rewards="('my.module',)"
"""

from ml_collections import ConfigDict

from configs import group_rl


def get_config(size: str = 'tiny') -> ConfigDict:
  return group_rl.get_config('grpo', size)

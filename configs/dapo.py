"""DAPO: GRPO that clips higher, weighs tokens alike, and replaces groups that teach nothing.

arXiv:2503.14476: clip-higher, dynamic sampling, token-level loss, overlong penalty.

python -m llm_jax.main --config=configs/dapo.py
"""

from ml_collections import ConfigDict

from configs import group_rl


def get_config(size: str = 'tiny') -> ConfigDict:
  c = group_rl.like(group_rl.get_config('dapo', size), loss='dapo', advantage='grpo')
  c.annotate.steps = ('sample', 'verify', 'score_rules', 'dynamic_sampling', 'group_advantage')
  c.annotate.score_rules = ConfigDict(dict(overlong_buffer=c.annotate.sample.max_new // 4))
  c.annotate.dynamic_sampling = ConfigDict(dict(tries=4))
  return c

"""Rejection sampling, online: of several answers the best one is imitated, arXiv:2307.09288, 3.2.3.

python -m llm_jax.main --config=configs/rejection.py
"""

from ml_collections import ConfigDict

from configs import group_rl


def get_config(size: str = 'tiny') -> ConfigDict:
  """The best answer trains only where it is right; see `keep_best.minimum`."""
  c = group_rl.get_config('rejection', size)
  c.annotate.steps = ('sample', 'verify', 'keep_best')
  del c.annotate['group_advantage']
  c.annotate.keep_best = ConfigDict(dict(minimum=1.0))
  c.loss = ConfigDict(dict(name='cross_entropy', diagnostics=True))
  return c

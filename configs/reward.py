"""Reward model: the SFT model with a scalar head learns which answer people prefer.

python -m llm_jax.main --config=configs/reward.py
"""

from ml_collections import ConfigDict

from configs import preference, sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  c = preference.get_config('reward', size)
  c.model.head = 'scalar'
  c.init.fresh = ('head',)
  c.total_steps = 200 if size == 'tiny' else c.total_steps
  c.loss = ConfigDict(dict(name='reward'))
  c.centre = ConfigDict(dict(max_rows=256))
  c.optimizer.learning_rate = 1e-3 if size == 'tiny' else sizes.rate(size, 5e-6)
  return c

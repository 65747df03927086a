"""SimPO: preferences by the mean log-probability of an answer, with a margin and no reference.

python -m llm_jax.main --config=configs/simpo.py
"""

from ml_collections import ConfigDict

from configs import preference, sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  c = preference.get_config('simpo', size)
  c.loss = ConfigDict(dict(name='simpo'))
  c.optimizer.learning_rate = 3e-4 if size == 'tiny' else sizes.rate(size, 5e-7)
  return c

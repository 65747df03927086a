"""ORPO: imitation of the preferred answer and a penalty on the other in one stage, no reference.

python -m llm_jax.main --config=configs/orpo.py
"""

from ml_collections import ConfigDict

from configs import preference, sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  c = preference.get_config('orpo', size)
  c.loss = ConfigDict(dict(name='orpo'))
  c.optimizer.learning_rate = 3e-4 if size == 'tiny' else sizes.rate(size, 8e-6)
  return c

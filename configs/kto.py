"""KTO: alignment from answers that were called good or bad one by one, without pairs.

python -m llm_jax.main --config=configs/kto.py
"""

from ml_collections import ConfigDict

from configs import preference, sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  c = preference.with_reference(preference.get_config('kto', size))
  c.data.kind, c.data.group, c.data.mismatched = 'unpaired', 1, True
  c.loss = ConfigDict(dict(name='kto'))
  c.optimizer.learning_rate = 3e-4 if size == 'tiny' else sizes.rate(size, 5e-7)
  return c

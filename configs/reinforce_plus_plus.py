"""REINFORCE++: one answer a prompt, no critic; rewards to go with a KL penalty, whitened.

arXiv:2501.03262.

python -m llm_jax.main --config=configs/reinforce_plus_plus.py
"""

from ml_collections import ConfigDict

from configs import group_rl


def get_config(size: str = 'tiny') -> ConfigDict:
  c = group_rl.get_config('reinforce_plus_plus', size)
  group = c.annotate.sample.group
  c.batch_size *= group  # as many answers a step as the other methods
  c.loss.preset = 'reinforce_plus_plus'
  # `+ ''` makes a reference that follows and can be set alone.
  reference = dict(path='' if 'lora' in c.model else c.init.get_ref('params') + '')
  c.annotate = ConfigDict(
    dict(
      steps=('sample', 'verify', 'reference', 'kl_reward', 'gae'),
      sample=dict(group=1, max_new=c.annotate.sample.max_new, temperature=1.0, rescore=True),
      verify=c.annotate.verify,
      reference=reference,
      kl_reward=dict(coefficient=0.001),
      gae=dict(preset='reinforce_plus_plus'),
    )
  )
  c.loss.temperature = c.annotate.sample.get_ref('temperature')
  c.annotate.reference.temperature = c.annotate.sample.get_ref('temperature')
  return c

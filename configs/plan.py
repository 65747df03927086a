"""What a run would take, before anything is rented: whether it fits, how long, how much.

python -m llm_jax.main --config=configs/plan.py:8b --config.hardware=v6e:16x16
python -m llm_jax.main --config=configs/plan.py:70b --config.hardware=h100:512 --config.price=2.5
"""

from ml_collections import ConfigDict

from configs import pretrain

HARDWARE = {
  'tiny': 'v5e:2x2',
  '15m': 'v5e:2x2',
  '125m': 'v5e:2x4',
  '1b': 'v5e:4x4',
  '8b': 'v6e:16x16',
  '70b': 'v5p:8x16x16',
  '405b': 'v5p:16x16x16',
}


def get_config(size: str = 'tiny') -> ConfigDict:
  """`config.train` is the whole config of the stage that is planned; change it in place."""
  c = ConfigDict()
  c.job = 'plan'
  c.train = pretrain.get_config(size)
  # TPUs ('v5e:4x4', or 'v5e:4x4*2' for two slices), which are compiled for, or GPUs ('h100:512'),
  # which are estimated.
  c.hardware = HARDWARE[size]
  c.length = c.train.tokenize.get_ref('length') + 0
  c.tokens = 0.0  # of the whole run; 0: total_steps * batch_size * length
  c.bytes_per_token = 4.5
  c.price = 0.0  # of a device-hour; 0: unknown
  c.search = True  # choose mesh, remat and accumulate; False: those of config.train
  c.compile = True
  c.tries = 3  # layouts that are compiled until one fits
  c.output = f'runs/{size}/plan.json'
  return c

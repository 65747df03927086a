"""Continuations of prompts by a trained artifact.

python -m llm_jax.main --config=configs/sample.py --config.prompts="('Return a list of',)"
"""

from ml_collections import ConfigDict

from configs import sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  c = ConfigDict()
  c.job = 'sample'
  c.artifact = f'runs/{size}/pretrain'
  c.prompts = ('Return the', 'class Path', 'The with statement')
  c.sample = ConfigDict(dict(max_new=96, temperature=0.8, top_p=0.95))
  c.compute = sizes.compute(size)
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
  c.seed = 0
  return c

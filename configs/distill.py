"""Distillation: a smaller model learns the whole distribution of a larger one, token by token.

python -m llm_jax.main --config=configs/distill.py
"""

from ml_collections import ConfigDict

from configs import sft, sizes
from configs.base import Stage


def get_config(size: str = 'tiny') -> ConfigDict:
  """The student has half the layers of the teacher, which is the SFT model, and starts afresh."""
  c = sft.get_config(size)
  c.stage, c.workdir = 'distill', f'runs/{size}/distill'
  c.model = sizes.model(size)
  c.model.num_layers = sizes.OfSize(max(1, c.model.num_layers // 2))
  c.optimizer.learning_rate = sft.SCHEDULE[size][-1]
  c.init = ConfigDict()
  teacher = dict(path=Stage('sft', f'runs/{size}/sft'), top_k=64)
  c.annotate = ConfigDict(dict(steps=('teacher',), teacher=teacher))
  c.loss = ConfigDict(dict(name='distill'))
  return c

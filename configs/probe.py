"""What a model knows, does not know, and invents: a verdict for each question, and rows to learn.

python -m llm_jax.main --config=configs/probe.py
python -m llm_jax.main --config=configs/probe.py --config.sources.mine='my/questions.jsonl'
"""

from ml_collections import ConfigDict

from configs import sizes
from configs.base import Stage
from llm_jax.data import pages


def get_config(size: str = 'tiny') -> ConfigDict:
  c = ConfigDict()
  c.job = 'probe'
  c.workdir = f'runs/{size}/probe'
  c.artifact = Stage('policy', f'runs/{size}/sft')
  c.sources = ConfigDict()
  c.splits = ('train', 'validation', 'test')
  c.samples = 4
  c.batch_size = 64
  c.ratio = 1.0
  c.noise = True
  c.search = ConfigDict(pages.SEARCH)  # what fits into the result of a call
  c.made_up = 12000 if size == 'tiny' else 0  # a small model has to learn to read
  c.by_heart = 0.0
  c.compute = sizes.compute(size)
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
  c.seed = 0
  c.next = (
    'Teach it to refuse what it does not know: python -m llm_jax.main --config=configs/refuse.py '
    '--config.init.params={artifact} --config.data.sources.refusals={workdir}/refusals.jsonl'
  )
  return c

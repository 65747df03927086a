"""A conversation with a trained model, in the terminal.

python -m llm_jax.main --config=configs/chat.py --config.artifact=runs/gpt/ppo
"""

from ml_collections import ConfigDict

from configs import sizes
from llm_jax.data import pages


def get_config(size: str = 'tiny') -> ConfigDict:
  c = ConfigDict()
  c.job = 'chat'
  c.artifact = f'runs/{size}/sft'
  c.system = ''
  c.max_new = 128 if size == 'tiny' else 1024
  c.temperature = 0.7
  c.top_p = 0.95
  c.tools = ConfigDict({name: ConfigDict() for name in ('search', 'calculator', 'spell')})
  c.tools.search.update({**pages.SEARCH, 'quotes': 'sentences'})  # as in configs/search.py
  c.use_tools = False  # /tools turns them on and off
  c.compute = sizes.compute(size)
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
  c.seed = 0
  return c

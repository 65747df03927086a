"""A trained model behind an HTTP interface that clients of OpenAI's speak.

python -m llm_jax.main --config=configs/serve.py --config.artifact=runs/gpt/ppo
"""

from ml_collections import ConfigDict

from configs import sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  c = ConfigDict()
  c.job = 'serve'
  c.artifact = f'runs/{size}/sft'
  c.artifacts = ConfigDict()  # several by name, in the place of the one above
  c.host = '127.0.0.1'
  c.port = 8000
  c.key_file = ''
  c.key_env = 'LLM_JAX_API_KEYS'
  c.events = ''
  c.grace = 30.0
  c.engine = ConfigDict(dict(slots=8 if size == 'tiny' else 32))
  c.sampling = ConfigDict(dict(temperature=1.0, top_p=1.0))
  c.tools = ConfigDict()  # what it runs itself: --config.tools.calculator={}
  c.limits = ConfigDict(dict(waiting=256))
  c.compute = sizes.compute(size)
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
  return c

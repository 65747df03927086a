"""Raw web pages, or documents from anywhere, become training text.

python -m llm_jax.main --config=clean --config.sources.web='crawl/*.warc.gz'
"""

from ml_collections import ConfigDict

PRESETS = {'default': ()}


def get_config(preset: str = 'default') -> ConfigDict:
  """Job `clean` with the steps of a preset."""
  if preset not in PRESETS:
    raise ValueError(f'no preset {preset!r}; choose from: {", ".join(PRESETS)}')
  c = ConfigDict()
  c.job = 'clean'
  c.workdir = 'runs/web/clean'
  c.sources = dict(web='')
  c.rules = ConfigDict(dict(steps=PRESETS[preset]))
  c.words = 'simple'
  c.scope = 'all'
  c.shard_documents = 10_000
  c.again = False
  c.why = ''
  return c

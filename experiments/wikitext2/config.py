"""Pretraining on WikiText-2: the laptop config with another text and nothing else changed.

python -m llm_jax.main --config=experiments/wikitext2/config.py
"""

from ml_collections import ConfigDict

from configs import pretrain


def get_config(size: str = 'tiny') -> ConfigDict:
  """Expects `data/wikitext2/train.txt.gz` and `valid.txt.gz`; elsewhere, override both paths."""
  c = pretrain.get_config(size)
  c.workdir = f'runs/wikitext2/{size}'
  c.tokenize.workdir = f'runs/wikitext2/{size}-tokens'
  c.tokenize.sources.text = 'data/wikitext2/train.txt.gz'
  c.tokenize.validation.text = 'data/wikitext2/valid.txt.gz'
  c.sample.prompts = (' = ', ' The game', ' In 1990 ,')
  return c

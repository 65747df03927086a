"""Tokenizing: raw text becomes a tokenizer and packed rows of tokens.

python -m llm_jax.main --config=configs/tokenize.py:tiny
"""

from ml_collections import ConfigDict

# size -> (vocabulary, tokens of a row). From 15m on, give it real data:
#   --config.sources.text='web/*.jsonl.zst'
SIZES = {
  'tiny': (4096, 256),
  '15m': (8192, 512),
  '125m': (32768, 2048),
  '1b': (32768, 4096),
  '8b': (128000, 4096),
  '70b': (128000, 4096),
  '405b': (128000, 4096),
}


def get_config(size: str = 'tiny') -> ConfigDict:
  """Job `tokenize` with the vocabulary and row length of a size."""
  if size not in SIZES:
    raise ValueError(f'no size {size!r}; choose from: {", ".join(SIZES)}')
  vocab_size, length = SIZES[size]
  c = ConfigDict()
  c.job = 'tokenize'
  c.workdir = f'runs/{size}/tokenize'
  c.seed = 0
  c.sources = dict(text='builtin')
  c.validation = dict(text='')  # '': its own validation split, or a hash of each document
  c.validation_fraction = 0.01
  c.tokenizer = dict(vocab_size=vocab_size, model_type='bpe', split_digits=True)
  c.length = length
  c.pack = 'best_fit'
  c.shard_documents = 10_000
  c.shard = ''  # '3/16': the third of sixteen processes that share the workdir
  return c

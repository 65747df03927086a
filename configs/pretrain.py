"""Pretraining: next-token prediction on packed documents, from scratch.

python -m llm_jax.main --config=configs/pretrain.py          # the laptop size, on builtin text
python -m llm_jax.main --config=configs/pretrain.py:story    # the same size, on novels or a text
python -m llm_jax.main --config=configs/pretrain.py:125m     # one GPU
"""

from ml_collections import ConfigDict

from configs import base, tokenize

# total_steps, batch_size, accumulate, learning_rate. Batches follow the size of the model; the
# large ones are those of one pod slice, not of a final run.
SCHEDULE = {
  'tiny': (400, 16, 4, 2e-2),
  '15m': (5000, 32, 8, 2e-3),
  '125m': (20000, 256, 8, 1e-3),
  '1b': (50000, 512, 1, 6e-4),
  '8b': (250000, 1024, 1, 3e-4),
  '70b': (500000, 2048, 1, 1.5e-4),
  '405b': (1000000, 4096, 1, 8e-5),
}


def get_config(size: str = 'tiny') -> ConfigDict:
  """`config.tokenize` prepares the data first, where that has not been done yet.

  'story' is the size tiny with novels in the place of documentation, or with `config.text`.
  """
  if size == 'story':
    return story()
  c = base.get_config('pretrain', size)
  c.total_steps, c.batch_size, c.accumulate, c.optimizer.learning_rate = SCHEDULE[size]
  c.requires = ('tokenize',)
  c.tokenize = tokenize.get_config(size)
  c.tokenize.workdir = base.Stage('tokenize', c.tokenize.workdir)
  c.data = ConfigDict(dict(name='packed', path=c.tokenize.get_ref('workdir')))
  c.data.repeats = 0.05 if size == 'tiny' else 0.0  # rows from which it learns to copy
  # In runs of 150 steps Muon ended at 2.02 bits per byte where AdamW (3e-3) ended at 2.49; at the
  # larger sizes AdamW is the reference that others publish.
  c.optimizer.name = 'muon' if size == 'tiny' else 'adamw'
  c.optimizer.embedding_rate = 6.0 if size == 'tiny' else 1.0  # its embeddings are large
  c.optimizer.warmup_steps = 40 if size == 'tiny' else 500
  c.eval_every = c.checkpoint_every = 100 if size == 'tiny' else 500
  c.sample.prompts = ('Return the', 'class Path', 'The with statement')
  c.next = (
    'Let it write: python -m llm_jax.main --config=configs/sample.py '
    '--config.artifact={workdir} --config.prompts="(\'Return a list of\',)"'
  )
  return c


def story() -> ConfigDict:
  """Three minutes on a laptop, while one reads what the model writes by then."""
  c = get_config('tiny')
  c.workdir = 'runs/story'
  c.text = 'builtin:stories'
  c.data.repeats = 0.0  # it has nothing to copy
  c.tokenize.workdir = c.get_ref('workdir') + '/tokenize'
  c.tokenize.sources.text = c.get_ref('text')
  c.tokenize.tokenizer.vocab_size = c.model.get_ref('vocab_size')
  c.tokenize.validation_fraction = 0.05
  c.total_steps, c.eval_every, c.checkpoint_every = 320, 50, 50
  c.sample = ConfigDict(dict(prompts=('Once upon a time',), max_new=120, temperature=0.8))
  c.next = (
    'Let it write: python -m llm_jax.main --config=configs/sample.py '
    '--config.artifact={workdir} --config.prompts="(\'Once upon a time\',)"'
  )
  return c

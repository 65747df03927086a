"""Supervised fine-tuning: a base model learns to answer, from conversations.

python -m llm_jax.main --config=configs/sft.py
python -m llm_jax.main --config=configs/sft.py --config.data.sources.builtin='' \
  --config.data.sources.mine='my/*.jsonl'
"""

from ml_collections import ConfigDict

from configs import base, sizes

# total_steps, batch_size, accumulate, learning_rate.
SCHEDULE = {
  'tiny': (1000, 8, 2, 8e-3),
  '15m': (1000, 32, 8, 3e-4),
  '125m': (2000, 64, 4, 1e-4),
  '1b': (3000, 128, 1, 2e-5),
  '8b': (3000, 256, 1, 1e-5),
  '70b': (3000, 256, 1, 5e-6),
  '405b': (3000, 256, 1, 2e-6),
}


def get_config(size: str = 'tiny') -> ConfigDict:
  c = base.get_config('sft', size)
  c.total_steps, c.batch_size, c.accumulate, c.optimizer.learning_rate = SCHEDULE[size]
  c.optimizer.learning_rate = sizes.rate(size, c.optimizer.learning_rate)
  c.model = sizes.lora(size)
  c.init.params = base.Stage('policy', f'runs/{size}/pretrain')
  c.data = ConfigDict(
    dict(
      name='conversations',
      sources=dict(builtin='builtin'),
      length=256 if size == 'tiny' else 2048,
      template='folder',
    )
  )
  c.data.joined = 0.5 if size == 'tiny' else 0.0  # most of the builtin ones ask one question
  c.loss.diagnostics = True
  c.optimizer.name = 'muon' if size == 'tiny' else 'adamw'
  c.optimizer.embedding_rate = 4.0 if size == 'tiny' else 1.0  # its embeddings are large
  c.optimizer.warmup_steps = 20 if size == 'tiny' else 100
  c.eval_every = c.checkpoint_every = 200 if size == 'tiny' else 250
  c.sample.prompts = (
    'What does `os.path.join` do?',
    'Emily buys 3 apples and 2 oranges. Each orange costs $2. The total is $13. '
    'What does each apple cost?',
  )
  c.sample.temperature, c.sample.max_new = 0.0, 96
  c.next = 'Align it: python -m llm_jax.main --config=configs/dpo.py --config.init.params={workdir}'
  return c

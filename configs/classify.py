"""A classifier: a model with a head of classes learns to name the class of a text, or of a pair.

python -m llm_jax.main --config=configs/classify.py --config.data.path='reviews/{split}.csv' \
  --config.data.classes="('bad','good')" --config.data.variant.prompt='{review}'

Of benchmarks the path is the folder that holds them all:

python -m llm_jax.main --config=configs/classify.py --config.data.task=rte \
  --config.data.path=glue --config.data.classes="('True','False')"
"""

from ml_collections import ConfigDict

from configs import base, sizes

# total_steps, batch_size, accumulate, learning_rate.
SCHEDULE = {
  'tiny': (400, 16, 1, 1e-3),
  '15m': (1000, 32, 4, 3e-4),
  '125m': (2000, 32, 2, 5e-5),
  '1b': (2000, 32, 1, 2e-5),
  '8b': (2000, 64, 1, 1e-5),
  '70b': (2000, 64, 1, 5e-6),
  '405b': (2000, 64, 1, 2e-6),
}


def get_config(size: str = 'tiny') -> ConfigDict:
  c = base.get_config('classify', size)
  c.total_steps, c.batch_size, c.accumulate, c.optimizer.learning_rate = SCHEDULE[size]
  c.optimizer.learning_rate = sizes.rate(size, c.optimizer.learning_rate)
  c.model = sizes.lora(size)
  c.init.params, c.init.fresh = base.Stage('policy', f'runs/{size}/pretrain'), ('head',)
  c.data = ConfigDict(
    dict(
      name='labelled',
      task='labelled',
      path='labelled/{split}.jsonl',
      classes=('no', 'yes'),
      variant=dict(prompt='{text}'),
      form='head',
      length=256 if size == 'tiny' else 1024,
    )
  )
  c.model.head, c.model.classes = 'classes', c.data.get_ref('classes') + ()
  c.loss = ConfigDict(dict(name='classify'))
  c.evals.validation = ConfigDict(dict(name='classes'))
  c.optimizer.warmup_steps = 20 if size == 'tiny' else 100
  c.publish = 'best'
  c.eval_every = c.checkpoint_every = 50 if size == 'tiny' else 250
  c.next = "Ask it, in Python: llm_jax.load('{workdir}').classify('...')"
  return c

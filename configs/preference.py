"""What the stages that learn from preferences share: pairs of answers, and the model after SFT."""

from ml_collections import ConfigDict

from configs import base, sizes

# total_steps, batch_size, accumulate.
SCHEDULE = {
  'tiny': (100, 16, 4),
  '15m': (400, 32, 4),
  '125m': (500, 64, 4),
  '1b': (500, 64, 1),
  '8b': (500, 128, 1),
  '70b': (500, 128, 1),
  '405b': (500, 128, 1),
}


def get_config(stage: str, size: str) -> ConfigDict:
  """A stage over groups of answers; `c.init.params` is where it starts."""
  c = base.get_config(stage, size)
  c.total_steps, c.batch_size, c.accumulate = SCHEDULE[size]
  c.model = sizes.lora(size)
  c.init.params = base.Stage('policy', f'runs/{size}/sft')
  c.data = ConfigDict(
    dict(
      name='preferences',
      sources=dict(builtin='builtin'),
      length=160 if size == 'tiny' else 2048,
      group=2,
      template='folder',
    )
  )
  c.evals.validation = ConfigDict(dict(name='held_out', max_rows=128))
  c.optimizer.warmup_steps = 10 if size == 'tiny' else 50
  c.optimizer.weight_decay = 0.0
  c.eval_every = c.checkpoint_every = 25 if size == 'tiny' else 100
  return c


def with_reference(c: ConfigDict) -> ConfigDict:
  """The same stage with log-probabilities of the model it starts from in every batch."""
  # `+ ''` makes a reference that follows and can be set alone; without, setting one sets both.
  c.annotate.steps = ('reference',)
  # With LoRA its frozen base is the reference.
  path = '' if 'lora' in c.model else c.init.get_ref('params') + ''
  c.annotate.reference = ConfigDict(dict(path=path, cache=c.get_ref('workdir') + '/reference'))
  return c

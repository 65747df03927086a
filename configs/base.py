"""What every training config shares; a stage changes a few lines of it."""

from ml_collections import ConfigDict

from configs import sizes


def get_config(stage: str, size: str) -> ConfigDict:
  """The fields of job `train`, for a stage of a size."""
  c = ConfigDict()
  c.job = 'train'
  c.stage = stage
  c.workdir = f'runs/{size}/{stage}'
  c.requires = ()
  c.seed = 0
  c.model = sizes.model(size)
  c.init = ConfigDict()
  c.data = ConfigDict()
  c.loss = ConfigDict(dict(name='cross_entropy'))
  c.annotate = ConfigDict(dict(steps=()))
  c.optimizer = ConfigDict(dict(name='adamw', learning_rate=3e-4, warmup_steps=100))
  c.evaluate = ConfigDict(dict(name='perplexity', max_rows=256))
  c.sample = ConfigDict(dict(prompts=(), max_new=48, temperature=0.8, top_p=0.95))
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
  c.accumulate = 1
  c.log_every = 10
  c.eval_every = 100
  c.checkpoint_every = 100
  c.max_to_keep = 2
  c.publish = 'last'
  c.next = ''
  return c

"""What every training config shares; a stage changes a few lines of it."""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from configs import sizes


class Stage(FieldReference):
  """A field that holds the folder of another stage and remembers which kind of stage that is.

  Its value is the folder, so a config alone starts there; a pipeline puts the folder of its own
  newest stage of that kind in its place. Once the field is given another folder it has no kind.

  Attributes:
    kind: what the stage makes ('policy', 'reward' or 'answers'), or its `stage` ('sft', 'distill')
      or job ('tokenize'); '' for a folder that was given.
  """

  def __init__(self, kind: str, folder: str) -> None:
    super().__init__(folder)
    self.kind = kind

  def set(self, value: Any, type_safe: bool = True) -> None:
    super().set(value, type_safe)
    self.kind = value.kind if isinstance(value, Stage) else ''

  def __setstate__(self, state: dict[str, Any]) -> None:  # copies
    super().__setstate__(state)
    self.kind = state['kind']


def get_config(stage: str, size: str) -> ConfigDict:
  """The fields of job `train`, for a stage of a size."""
  c = ConfigDict()
  c.job = 'train'
  c.stage = stage
  c.workdir = f'runs/{size}/{stage}'
  c.requires = ()
  c.seed = 0
  c.model = sizes.model(size)
  c.compute = sizes.compute(size)
  c.init = ConfigDict()
  c.data = ConfigDict()
  c.loss = ConfigDict(dict(name='cross_entropy'))
  c.annotate = ConfigDict(dict(steps=()))
  c.optimizer = ConfigDict(dict(name='adamw', learning_rate=3e-4, warmup_steps=100))
  c.evals = ConfigDict(dict(validation=dict(name='perplexity', max_rows=256)))
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

"""The runs of this experiment, by name: pretrain, made-head, seen-head, then such as rte-head-0.

python -m llm_jax.main --config=experiments/classify/config.py:sst2-head-0
"""

from ml_collections import ConfigDict

from configs import classify, classify_text, pretrain
from experiments.classify import made
from experiments.classify.prepare import CLASSES

ROOT = 'runs/classify'
# Practice: where it starts, steps, learning rate, and what is made.
PRACTICE = {
  'made': ('pretrain', 250, 5e-3, {}),
  'seen': ('made-head', 130, 1e-2, dict(every=True, sentences=1000, pairs=13_000)),
}
# Where a run by head starts, tokens of a row, steps, rows of a step, weights of the classes.
RUNS = {
  'sst2': ('pretrain', 128, 500, 32, ()),
  'rte': ('seen-head', 256, 120, 16, ()),
  'cola': ('made-head', 128, 200, 16, (2.0, 1.0)),
}


def get_config(name: str = 'sst2-head-0') -> ConfigDict:
  if name == 'pretrain':
    return _pretrain()
  task, form, seed = (*name.split('-'), '0')[:3]
  c = (classify if form == 'head' else classify_text).get_config()
  c.workdir, c.seed, c.publish = f'{ROOT}/{name}', int(seed), 'last'
  c.compute = ConfigDict(dict(scan_layers=False, product_dtype='bfloat16'))
  c.init.params = f'{ROOT}/pretrain'
  c.optimizer.name, c.optimizer.learning_rate = 'muon', 5e-3
  if task in PRACTICE:
    start, c.total_steps, c.optimizer.learning_rate, how = PRACTICE[task]
    path = f'{ROOT}/data/texts.jsonl'
    c.data = ConfigDict(dict(name='experiments/classify/made.py', path=path, **how))
    c.init.params, c.model.classes = f'{ROOT}/{start}', made.CLASSES
    c.batch_size, c.accumulate = 64, 2
    c.eval_every = c.checkpoint_every = c.total_steps
    return c
  start, c.data.length, c.total_steps, c.batch_size, weights = RUNS[task]
  c.data.path = f'{ROOT}/data/{task}/{{split}}.jsonl'
  c.data.classes = CLASSES[task]
  c.eval_every = c.checkpoint_every = c.total_steps
  if form == 'head':
    c.init.params, c.loss.weights, c.loss.label_smoothing = f'{ROOT}/{start}', weights, 0.1
  return c


def _pretrain() -> ConfigDict:
  """1.4M parameters, a pass over all texts."""
  c = pretrain.get_config()
  c.workdir, c.tokenize.workdir = f'{ROOT}/pretrain', f'{ROOT}/tokenize'
  c.tokenize.sources.text, c.tokenize.length = f'{ROOT}/data/texts.jsonl', 128
  c.model.num_layers, c.model.max_length = 4, 256
  c.compute = ConfigDict(dict(scan_layers=False, product_dtype='bfloat16'))
  c.total_steps, c.batch_size, c.accumulate = 500, 64, 2
  c.sample.prompts = ()
  return c

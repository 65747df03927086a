"""People compare answers on a page in the browser; what they say becomes rows for training.

python -m llm_jax.main --config=configs/label.py --config.artifacts=runs/tiny/sft,runs/tiny/dpo
python -m llm_jax.main --config=configs/label.py --config.candidates=my/candidates.jsonl
python -m llm_jax.main --config=configs/label.py --config.export=runs/tiny/label/rows
"""

from ml_collections import ConfigDict

from configs import sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  c = ConfigDict()
  c.job = 'label'
  c.workdir = f'runs/{size}/label'
  c.candidates = ''
  c.artifacts = (f'runs/{size}/sft',)
  c.temperatures = (0.7, 1.0)
  c.answers, c.draws = 2, 2
  c.reward = ''
  c.data = ConfigDict(dict(sources=dict(builtin='builtin'), split='test', max_prompts=100))
  c.sample = ConfigDict(dict(max_new=96 if size == 'tiny' else 512))
  c.ask = 'compare'
  c.annotators = ('me',)
  c.overlap = 1
  c.guideline = ''
  c.again, c.gold = 0.05, 0.03
  c.host, c.port = '127.0.0.1', 8765
  c.idle = 0.0
  c.export = ''
  c.rows = ConfigDict(dict(reward_margin=0.0, dpo_margin=2.0, disputed='drop', held_out=0.0))
  c.compute = sizes.compute(size)
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
  c.seed = 0
  return c

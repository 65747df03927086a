"""What users did with the answers of a served chat becomes rows for training.

python -m llm_jax.main --config=configs/serve.py --config.events=runs/tiny/events.sqlite
python -m llm_jax.main --config=configs/feedback.py --config.workdir=runs/round1
python -m llm_jax.main --config=configs/feedback.py --config.since=runs/round1
"""

from ml_collections import ConfigDict

from configs import sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  sizes.model(size)  # refuses an unknown one
  c = ConfigDict()
  c.job = 'feedback'
  c.workdir = f'runs/{size}/feedback'
  c.events = f'runs/{size}/events.sqlite'
  c.since = ''
  c.rows = ConfigDict(dict(per_day=20, per_prompt=8))
  return c

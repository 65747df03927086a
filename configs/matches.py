"""Which of several models answers better: their answers side by side, in front of a judge.

python -m llm_jax.main --config=configs/matches.py --config.judge.name=program
python -m llm_jax.main --config=configs/matches.py \
  --config.judge.name=openai --config.judge.model=gpt-5-mini
"""

from ml_collections import ConfigDict

from configs import sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  c = ConfigDict()
  c.job = 'matches'
  c.workdir = f'runs/{size}/matches'
  c.artifacts = tuple(f'runs/{size}/{stage}' for stage in ('sft', 'dpo'))
  c.against = ''  # all meet each other
  c.judge = ConfigDict(dict(name='reward_model', path=f'runs/{size}/reward'))
  c.data = ConfigDict(dict(sources=dict(builtin='builtin'), split='test', max_prompts=200))
  c.sample = ConfigDict(dict(max_new=96, temperature=0.7, batch_size=50))
  c.prior = 0.0
  c.compute = sizes.compute(size)
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
  c.seed = 0
  return c

"""Best of n: several answers to each prompt are scored, and the best one goes into a file.

python -m llm_jax.main --config=configs/best_of_n.py
python -m llm_jax.main --config=configs/best_of_n.py \
  --config.annotate.steps="('sample','reward_model')"
"""

from ml_collections import ConfigDict

from configs import sizes
from configs.base import Stage


def get_config(size: str = 'tiny') -> ConfigDict:
  c = ConfigDict()
  c.job = 'sample'
  c.workdir = f'runs/{size}/best_of_n'
  c.artifact = Stage('policy', f'runs/{size}/sft')
  tiny = size == 'tiny'
  c.data = ConfigDict(
    dict(
      name='prompts',
      sources=dict(builtin='builtin:word_problems'),
      length=64 if tiny else 512,
    )
  )
  c.split = 'train'
  c.max_prompts = 1000 if tiny else 0  # 0: all
  c.annotate = ConfigDict(
    dict(
      steps=('sample', 'verify'),
      sample=dict(group=8, max_new=96 if tiny else 1024, temperature=1.0),
      verify=dict(rewards=('exact_answer',)),
      reward_model=dict(path=Stage('reward', f'runs/{size}/reward')),
    )
  )
  c.batch_size = 16
  c.minimum = None
  c.compute = sizes.compute(size)
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
  c.seed = 0
  c.next = (
    'Learn from them: python -m llm_jax.main --config=configs/sft.py '
    '--config.workdir={workdir}-sft --config.data.sources.builtin= '
    '--config.data.sources.best={workdir}/answers.jsonl'
  )
  return c

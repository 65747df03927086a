"""Questions or benchmarks put to several models, and one table of how they answer.

python -m llm_jax.main --config=configs/evaluate.py
python -m llm_jax.main --config=evaluate --config.tasks=glue,mmlu --config.path=benchmarks
"""

from ml_collections import ConfigDict

from configs import sizes


def get_config(size: str = 'tiny') -> ConfigDict:
  c = ConfigDict()
  c.job = 'evaluate'
  c.artifacts = tuple(f'runs/{size}/{stage}' for stage in ('pretrain', 'sft', 'dpo'))
  c.tasks = ()
  c.path = ''
  c.ask = ConfigDict()
  c.backend = 'llm_jax'
  c.against = ''
  c.families = ('word_problems', 'python_questions')
  c.split = 'test'
  c.max_questions = 200
  questions = dict(name='answers', max_new=96, temperature=0.0, batch_size=100)
  questions |= {field: c.get_ref(field) for field in ('families', 'split', 'max_questions')}
  c.evals = ConfigDict(dict(questions=questions))
  c.output = f'runs/{size}/evaluate.json'
  c.compute = sizes.compute(size)
  c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
  c.seed = 0
  c.requires = ()
  return c

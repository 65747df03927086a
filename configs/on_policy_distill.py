"""On-policy distillation: the student answers, the teacher says what it would have said instead.

Generalised knowledge distillation, arXiv:2306.13649, with the reverse divergence.

python -m llm_jax.main --config=configs/on_policy_distill.py
"""

from ml_collections import ConfigDict

from configs import distill, group_rl
from configs.base import Stage


def get_config(size: str = 'tiny') -> ConfigDict:
  """The student is the one of configs/distill.py, and starts where that left it."""
  c = group_rl.get_config('on_policy_distill', size)
  student = distill.get_config(size)
  c.model, c.init.params = student.model, Stage('distill', student.workdir)
  c.optimizer.learning_rate = group_rl.SCHEDULE[size][-1]
  c.data.sources = ConfigDict(dict(builtin='builtin'))
  c.data.answer_bytes = 0
  c.annotate = ConfigDict(
    dict(
      steps=('sample', 'teacher'),
      sample=dict(max_new=c.annotate.sample.max_new, temperature=1.0),
      teacher=student.annotate.teacher,
    )
  )
  c.loss = ConfigDict(dict(name='distill', divergence='reverse'))
  return c

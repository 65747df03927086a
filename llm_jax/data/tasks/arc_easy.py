"""ARC-Easy: questions of science exams (arXiv:1803.05457), asked as full answers."""

from llm_jax.data.tasks import exams
from llm_jax.data.tasks.task import Task


def make() -> Task:
  """The task."""
  return exams.arc('ARC-Easy', ('acc', 'acc_norm'))

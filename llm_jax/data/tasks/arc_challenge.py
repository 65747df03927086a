"""ARC-Challenge: those questions of ARC that finding words does not answer (arXiv:1803.05457)."""

from llm_jax.data.tasks import exams
from llm_jax.data.tasks.task import Task


def make() -> Task:
  """The task."""
  return exams.arc('ARC-Challenge', ('acc_norm', 'acc'))

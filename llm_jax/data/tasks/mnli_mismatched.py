"""MNLI of GLUE on genres that its training set does not have (arXiv:1704.05426)."""

from llm_jax.data.tasks import mnli
from llm_jax.data.tasks.task import Task


def make() -> Task:
  """The task."""
  return mnli.make(mismatched=True)

"""WNLI of GLUE: whether a sentence with a pronoun that was replaced follows from the original."""

from llm_jax.data.tasks import places, rte, sentences
from llm_jax.data.tasks.task import Task


def make() -> Task:
  """The task."""
  return sentences.task(rte.ask, ('False', 'True'), places.glue('WNLI', 'wnli'))

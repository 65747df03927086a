"""RTE of SuperGLUE (arXiv:1905.00537): that of GLUE under other names."""

from llm_jax.data.tasks import places, rte, sentences
from llm_jax.data.tasks.task import Task


def make() -> Task:
  """The task."""
  return sentences.task(
    rte.ask,
    ('True', 'False'),
    places.super_glue('RTE', 'rte'),
    labels=rte.LABELS,
    source=sentences.SUPERGLUE,
  )

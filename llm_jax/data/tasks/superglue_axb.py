"""The broad diagnostics of SuperGLUE (arXiv:1905.00537): entailment by phenomenon."""

from llm_jax.data.tasks import places, rte, sentences
from llm_jax.data.tasks.task import Task


def make() -> Task:
  """The task; it is a test of models for RTE and has no other split."""
  test = (*places.hub('super_glue', 'axb', 'test'), 'AX-b/AX-b.jsonl')
  return sentences.task(
    rte.ask,
    ('True', 'False'),
    {'test': test, 'train': places.super_glue('RTE', 'rte')['train']},
    labels=rte.LABELS,
    metrics=('mcc',),
    split='test',
    source=sentences.SUPERGLUE,
  )

"""CoLA of GLUE (arXiv:1805.12471): whether a sentence is English."""

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task

_COLUMNS = '?names=source,label,mark,sentence&quotes=no'  # the original files have no header


def make() -> Task:
  """The task."""
  files = {
    split: (
      *places.hub('glue', 'cola', split),
      f'CoLA/{name}.tsv{_COLUMNS}',
      f'cola_public/raw/in_domain_{name}.tsv{_COLUMNS}',
      *(f'glue/cola_{one}.jsonl' for one in (split, name, split[:3])),
    )
    for split, name in {'train': 'train', 'validation': 'dev'}.items()
  }
  return sentences.task(_ask, ('no', 'yes'), files, metrics=('mcc',))


def _ask(record: Record) -> str:
  return sentences.question(columns.text(record, 'sentence'), 'Does this sentence make sense?')

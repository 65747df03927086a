"""WSC of SuperGLUE (arXiv:1905.00537): whether a pronoun means a certain noun."""

import re

from llm_jax.data.tasks import columns, places, sentences
from llm_jax.data.tasks.task import Record, Task


def make() -> Task:
  """The task."""
  files = places.super_glue('WSC', 'wsc.fixed', 'super*glue/wsc_val.jsonl')
  train = (*files['train'], 'super*glue/wsc_train.jsonl', 'wsc_train32.jsonl')
  return sentences.task(
    _ask,
    ('no', 'yes'),
    {**files, 'train': train},
    labels=('false', 'true'),
    source=sentences.SUPERGLUE,
  )


def _ask(record: Record) -> str:
  spans = record.get('target', record)
  noun, pronoun = spans['span1_text'], spans['span2_text']
  text = columns.text(record, 'text')
  before = ' '.join(text.split()[: spans['span2_index']])  # places count words
  behind = text[len(before) + 1 + len(pronoun) :]
  passage = untokenized(f'{before} *{pronoun}*{behind}')
  asked = f'In the passage above, does the pronoun "*{pronoun}*" refer to "*{noun}*"?'
  return sentences.question(f'Passage: {passage}', asked)


def untokenized(text: str) -> str:
  """A text whose marks stood between blanks, without these.

  >>> untokenized('Bernard , who did n\\'t ( yet ) know .')
  "Bernard, who didn't (yet) know."
  """
  for apart, together in ((" n't", "n't"), (' )', ')'), ('( ', '('), ('" ', '"'), (' "', '"')):
    text = text.replace(apart, together)
  return re.sub(r" (['.,])", r'\1', text)

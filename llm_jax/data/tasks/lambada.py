"""LAMBADA (arXiv:1606.06031): the last word of a passage, which needs all of it.

`perplexity` is that of a word. The text is that of OpenAI, made for GPT-2, unless the files
are the original ones, whose words stand between blanks.
"""

from collections.abc import Iterator

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task


def make() -> Task:
  """The task."""
  files = {
    'test': (
      *places.hub('lambada_openai', 'default', 'test'),
      *places.hub('lambada_openai', '', 'test'),
      'lambada_openai/data/lambada_test.jsonl',
      'lambada_openai/lambada_test.jsonl',
      'lambada_openai.jsonl',
      'lambada_test.jsonl',
      *places.hub('lambada', '', 'test'),
      *places.hub('lambada', 'plain_text', 'test'),
      'lambada_test_plain_text.txt',
    ),
    'validation': (
      *places.hub('lambada', '', 'validation'),
      *places.hub('lambada', 'plain_text', 'validation'),
      'lambada_development_plain_text.txt',
    ),
  }
  return Task(
    read=read,
    files=files,
    kind='text',
    metrics=('acc', 'perplexity'),
    split='test',
    examples='validation',
    source='arXiv:1606.06031',
  )


def read(record: Record) -> Iterator[Item]:
  """A passage, or those of a plain text, one a line."""
  if 'continuation' in record:
    context = columns.text(record, 'context')
    yield Item(context, (columns.text(record, 'continuation').strip(),))
    return
  text = columns.text(record, 'text')
  plain = record['file'].endswith('plain_text')
  for passage in text.splitlines() if plain else [text]:
    context, _, word = passage.rpartition(' ')
    yield Item(context, (word,))

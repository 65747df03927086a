"""WikiText-2 (arXiv:1609.07843), a page of Wikipedia at a time, scored from its begin on.

A page is scored as running text, and its words and bytes are counted before: in the form in which
marks stand between blanks. These are the conventions of lm-eval.
"""

import re
from collections.abc import Iterable, Iterator

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task

_HEADING = re.compile(r' ?= [^=].*? = ?$')
_MARKS = (
  *((f' @{mark}@ ', mark) for mark in '-,.'),
  *((f' {mark} ', f'{mark} ') for mark in ':;.!?,'),
)
_PAIRS = tuple(
  (re.compile(rf'{first}\s*([^{last}]*?)\s*{last}'), rf'{plain[0]}\1{plain[1]}')
  for first, last, plain in (
    (r'\(', r'\)', '()'),
    (r'\[', r'\]', '[]'),
    ('{', '}', '{}'),
    ('"', '"', '""'),
    ("'", "'", "''"),
  )
)
_REST = (
  ('= = = =', '===='),
  ('= = =', '==='),
  ('= =', '=='),
  (' ° ', '°'),
  (' \n', '\n'),
  ('\n ', '\n'),
  (' N ', ' 1 '),
  (" 's", "'s"),
)


def make() -> Task:
  """The task."""
  files = {
    split: (
      *places.hub('wikitext_document_level', 'wikitext-2-raw-v1', split),
      *places.hub('wikitext', 'wikitext-2-raw-v1', split),
      f'wikitext-2-raw*/wiki.{name}.raw',
      f'wikitext-2/wiki.{name}.tokens',
      f'wikitext2/{name}.txt',
      f'wikitext_{name}.jsonl',
    )
    for split, name in {'train': 'train', 'validation': 'valid', 'test': 'test'}.items()
  }
  return Task(
    read=read,
    files=files,
    kind='rolling',
    metrics=('word_perplexity', 'byte_perplexity', 'bits_per_byte'),
    join=pages,
    split='test',
    source='arXiv:1609.07843',
  )


def pages(records: Iterable[Record]) -> Iterator[Record]:
  r"""Lines as pages, each of which begins with its title; what is a page already stays one.

  >>> [found['page'] for found in pages([{'text': ' = A = \n\n a \n = B = \n'}])]
  [' = A = \n\n a ', ' = B = ']
  """
  lines: list[str] = []
  for record in records:
    if 'page' in record:
      yield record
      continue
    for line in columns.text(record, 'text').removesuffix('\n').split('\n'):
      if _HEADING.match(line) and any(map(str.strip, lines)):
        yield {'page': '\n'.join(lines)}
        lines = []
      lines.append(line)
  if any(map(str.strip, lines)):
    yield {'page': '\n'.join(lines)}


def read(record: Record) -> Iterator[Item]:
  """A page; `about` has what its words and bytes are counted in."""
  page = columns.text(record, 'page')
  yield Item('', (running(page),), about={'counted': page})


def running(text: str) -> str:
  """A page as running text.

  >>> running('It is 1 @,@ 200 m ( " high " ) .')
  'It is 1,200 m ("high") .'
  """
  text = text.replace("s '", "s'")
  text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text)
  for apart, together in _MARKS:
    text = text.replace(apart, together)
  for pair, together in _PAIRS:
    text = pair.sub(together, text)
  for apart, together in _REST:
    text = text.replace(apart, together)
  return text

"""Stories that come with the package: chapters of six novels, one of them for children.

The file is the same wherever the package is, so tokens and bits per byte are too; what
`data/builtin.py` reads differs from one version of Python to the next. `texts/PROVENANCE.md` says
whose the novels are, where the text was taken from, and what was done to it. Every chapter is a
document that begins with its title. 5 to 9 % of each novel, in whole chapters, are held out.
"""

import functools
import hashlib
import importlib.resources
import json
import lzma

from llm_jax.options import suggest
from llm_jax.types import BadInput

SPLITS = ('train', 'validation')
FILE = 'texts/stories.jsonl.xz'
SHA256 = '9eabc0ca4f797358869787733f0a095fcaa60bcaa83ea7aed67b248d7050db00'


def documents(split: str) -> list[str]:
  """The chapters of 'train' or 'validation', mixed, in an order that never changes.

  >>> documents('validation')[0].splitlines()[0]
  'Persuasion, chapter 4'

  Raises:
    BadInput: the split is another one, or the file is missing or not the one that was shipped.
  """
  if split not in SPLITS:
    raise BadInput(f'builtin:stories: no split {split!r}; {suggest(split, list(SPLITS))}')
  return [f'{row["title"]}\n\n{row["text"]}\n' for row in _rows() if row['split'] == split]


@functools.cache
def _rows() -> list[dict[str, str]]:
  place = importlib.resources.files('llm_jax.data') / FILE
  try:
    data = place.read_bytes()
  except OSError as error:
    raise BadInput(f'{place}: cannot be read ({error.strerror}); install llm_jax anew') from error
  if hashlib.sha256(data).hexdigest() != SHA256:
    raise BadInput(f'{place}: not the file that came with llm_jax; install llm_jax anew')
  return [json.loads(line) for line in lzma.decompress(data).decode().splitlines()]

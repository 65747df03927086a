"""Real text that is on every machine: the documentation that comes with the Python interpreter.

It says many things twice (`posixpath` and `ntpath`, `_pyio` and `io`, an overview and what it
lists). So near copies are dropped, and the rest is split by family: a module, or several modules
that share passages, are on one side of the split only.
"""

import functools
import hashlib
import itertools
import re
import textwrap
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llm_jax.data import documentation
from llm_jax.data.documentation import Document, first_line
from llm_jax.options import suggest
from llm_jax.types import BadInput

SPLITS = ('train', 'validation')

_MIN_WORDS = 16  # a shorter document is a label and not a text
_SHINGLE = 5  # words in a row; two texts are compared by the shingles they share
_COPY = 0.7  # a document is dropped if one longer document has this share of its shingles
_RELATED = 0.2, 8  # documents that share this part of the shorter, or so many, are one family
_VALIDATION = 0.05  # share of the characters, from families that have at most _LARGE of them
_LARGE = 0.01
_SENTENCE = re.compile(r'.*?[.!?](?=\s|$)')
_FORM = re.compile(r'[\w.]+\(.*\)(?: *-+>? *[^.\n]{0,30})?')  # 'max(a, b, *others) -> value'
# Files of the library, and the module under which programs import what they define.
USED_AS = {'asyncio.tasks': 'asyncio', 'genericpath': 'os.path', 'posixpath': 'os.path'}


class Entry(NamedTuple):
  """A document about one name; `summary` is its first sentence, or ends with ' ...' if too long."""

  kind: str  # 'module', 'class', 'function' or, of those in `listed`, 'method'
  name: str  # dotted
  signature: str  # '' where none is known
  doc: str
  summary: str


def documents(split: str) -> list[str]:
  """The texts of 'train' or 'validation', in a mixed order that never changes.

  Raises:
    BadInput: the split is another one, or this Python came without the source of its library.
  """
  return [document.text for document in _of_split(split)]


@functools.cache
def entries(split: str) -> tuple[Entry, ...]:
  """The documents of a split that are about one name, which are all but the topics."""
  return tuple(filter(None, map(_described, _of_split(split))))


@functools.cache
def listed(split: str) -> tuple[Entry, ...]:
  """What the documents about modules and classes say of each name in them, which is one sentence.

  Many names that everybody uses have no document of their own: 'Return the square root of x.' is
  too short for one.
  """
  found = []
  for document in _of_split(split):
    if header := re.fullmatch(r'Module ([\w.]+)', document.header):
      inside = '' if header[1] == 'builtins' else f'{header[1]}.'
      contents = document.body.partition('Contents:\n')[2]
      for name, summary in re.findall(r'^  (\w+): (.*)$', contents, re.M):
        kind = 'class' if name[0].isupper() else 'function'
        found.append(Entry(kind, inside + name, '', summary, summary))
    elif header := re.fullmatch(r'class ([\w.]+).*', document.header):
      methods = re.findall(r'(?:^|\n\n)(\w+)(\(.*\))?.*((?:\n\n?    .+)+)', document.body)
      for name, signature, indented in methods:
        doc = textwrap.dedent(indented).strip()
        found.append(Entry('method', f'{header[1]}.{name}', signature, doc, first_line(doc)))
  return tuple(found)


@functools.cache
def left_out() -> tuple[Entry, ...]:
  """What the documentation says of the functions and classes that are in no document of a split.

  Their text is short, or a copy of most of another one: `os.remove` is described as `os.unlink` is.
  Or they are methods of an object, as `random.choice` is.
  """
  there = {document.header for split in SPLITS for document in _of_split(split)}
  left = (
    document
    for document in (*documentation.read(), *documentation.bound())
    if document.header not in there
  )
  found = map(_described, left)
  return tuple(entry for entry in found if entry and entry.doc and entry.kind != 'module')


def told(doc: str) -> str:
  """What a docstring says behind the forms of the call with which some begin; else all of it.

  >>> told('max(iterable) -> value\\nmax(a, b, *others) -> value\\n\\nReturn the biggest item.')
  'Return the biggest item.'
  """
  return '\n'.join(itertools.dropwhile(is_form, doc.split('\n'))) or doc


def first_sentence(text: str) -> str:
  """The first sentence of a text, in one line; all of it where none ends.

  >>> first_sentence('Remove a file.  If it is a\\nfolder, fail.')
  'Remove a file.'
  """
  line = ' '.join(text.split())
  found = _SENTENCE.match(line)
  return found[0] if found else line


def is_form(text: str) -> bool:
  """Whether all lines are forms of a call, such as 'max(a, b, *others) -> value', or empty."""
  lines = map(str.strip, text.split('\n'))
  return all(not line or _FORM.fullmatch(line) for line in lines)


def prepare(data_dir: str | Path) -> Path:
  """Writes the corpus below `data_dir` as the TFDS dataset 'builtin' and returns its folder."""
  from llm_jax.data import corpus  # tensorflow_datasets takes a second to import

  return corpus.prepare('builtin', {split: documents(split) for split in SPLITS}, data_dir)


def _described(document: Document) -> Entry | None:
  """A document that is about one name."""
  header = re.fullmatch(r'(class |Module |)([\w.]+)(.*)', document.header)
  if not header:
    return None
  kind, name, signature = header.groups()
  kind, doc = kind.strip().lower() or 'function', document.body
  return Entry(kind, name, signature, doc, first_line(doc))


# --- splitting ---------------------------------------------------------------------------------


def _of_split(split: str) -> list[Document]:
  if split not in SPLITS:
    raise BadInput(f'builtin: no split {split!r}; {suggest(split, list(SPLITS))}')
  return _split()[split]


@functools.cache
def _split() -> dict[str, list[Document]]:
  found = [
    document for document in documentation.read() if len(document.body.split()) >= _MIN_WORDS
  ]
  kept = _merge_families(_drop_copies(found))
  size = Counter()
  for document in kept:
    size[document.family] += len(document.text)
  total, taken, validation = size.total(), 0, set()
  for family in sorted(size, key=_hash):
    if size[family] <= _LARGE * total and taken < _VALIDATION * total:
      taken += size[family]
      validation.add(family)
  kept.sort(key=lambda document: _hash(document.text))
  return {
    'train': [d for d in kept if d.family not in validation],
    'validation': [d for d in kept if d.family in validation],
  }


def _drop_copies(found: list[Document]) -> list[Document]:
  """Drops each document that is mostly contained in a longer one; of equals the last one stays."""
  size, pairs = _overlaps(found)
  # Shortest first, so that of three copies the longest is still there at the end.
  dropped = set()
  for _, short, long in sorted(
    (size[i], i, j) if (size[i], i) < (size[j], j) else (size[j], j, i)
    for (i, j), shared in pairs.items()
    if shared >= _COPY * min(size[i], size[j])
  ):
    if long not in dropped:
      dropped.add(short)
  return [document for i, document in enumerate(found) if i not in dropped]


def _merge_families(kept: list[Document]) -> list[Document]:
  """The same documents; families that share a passage have the first of their names."""
  size, pairs = _overlaps(kept)
  parent = {document.family: document.family for document in kept}

  def root(family: str) -> str:
    while parent[family] != family:
      family = parent[family]
    return family

  share, many = _RELATED
  for (i, j), shared in pairs.items():
    if shared >= many or shared >= share * min(size[i], size[j]):
      first, last = sorted((root(kept[i].family), root(kept[j].family)))
      parent[last] = first
  return [document._replace(family=root(document.family)) for document in kept]


def _overlaps(found: list[Document]) -> tuple[list[int], dict[tuple[int, int], int]]:
  """How many distinct shingles each body has, and how many each pair (i < j) shares, if any."""
  vocabulary = {}
  words = [re.findall(r'\w+', document.body.lower()) for document in found]
  ids = np.array([vocabulary.setdefault(w, len(vocabulary)) for text in words for w in text])
  owner = np.repeat(np.arange(len(words)), [len(text) for text in words])
  shingle = ids
  for k in range(1, _SHINGLE):  # shingles get numbers of their own, so no two collide
    _, shingle = np.unique(shingle[:-1] * len(vocabulary) + ids[k:], return_inverse=True)
  inside = owner[: len(shingle)] == owner[_SHINGLE - 1 :]
  keys = np.unique(shingle[inside] * len(found) + owner[: len(shingle)][inside])
  shingle, owner = np.divmod(keys, len(found))
  size = np.bincount(owner, minlength=len(found)).tolist()
  repeated = np.bincount(shingle)[shingle] > 1
  shingle, owner = shingle[repeated], owner[repeated]
  pairs = []
  for gap in range(1, np.bincount(shingle).max(initial=0)):
    same = shingle[gap:] == shingle[:-gap]
    pairs.append(owner[:-gap][same] * len(found) + owner[gap:][same])
  keys, shared = np.unique(np.concatenate(pairs), return_counts=True)
  first, second = np.divmod(keys, len(found))
  return size, dict(zip(zip(first.tolist(), second.tolist()), shared.tolist()))


def _hash(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()

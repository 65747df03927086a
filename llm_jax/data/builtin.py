"""Real text that is on every machine: the documentation that comes with the Python interpreter.

It covers the standard library and no installed packages, in four kinds of documents:
  topic     a chapter of the language reference, as `help('topics')` shows it (`pydoc_data.topics`)
  module    the docstring of a module, and its public names with their first line
  class     a class with its signature and its methods
  function  a function with its signature

Python modules are parsed with `ast` and never imported, so none of their code runs. Only modules
written in C, whose documentation is in no `.py` file, are imported. The text depends on nothing but
the Python installation: two processes write the same bytes.

The library says many things twice (`posixpath` and `ntpath`, `_pyio` and `io`, an overview and what
it lists). So near copies are dropped, and the rest is split by family: a module, or several modules
that share passages, are on one side of the split only.
"""

import ast
import functools
import hashlib
import importlib.util
import inspect
import itertools
import re
import sys
import sysconfig
import textwrap
import types
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.abc import Loader
from importlib.machinery import BuiltinImporter, ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

import numpy as np

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
# Windows, jokes, programs and test suites.
_SKIPPED = {
  '__main__', 'antigravity', 'idlelib', 'lib2to3', 'pydoc_data', 'test', 'tests', 'this', 'tkinter',
  'turtledemo',
}  # fmt: skip
_SKIPPED_C = {'_tkinter', 'readline'}  # readline writes to the terminal when it is imported
_PUBLIC = {'posix': 'os', 'nt': 'os'}  # from where people import what these C modules define
_C_METHODS = (
  classmethod, staticmethod, types.BuiltinFunctionType, types.ClassMethodDescriptorType,
  types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodDescriptorType,
)  # fmt: skip

_BOUND = re.compile(rb'^[a-z]\w* = \w+\.\w+$', re.M)

# Files of the library, and the module under which programs import what they define.
USED_AS = {'asyncio.tasks': 'asyncio', 'genericpath': 'os.path', 'posixpath': 'os.path'}


class Document(NamedTuple):
  """`family` names what must stay on one side of the split; `body` is the text without header."""

  family: str
  header: str
  body: str

  @property
  def text(self) -> str:
    return f'{self.header}\n\n{self.body}\n' if self.header else f'{self.body}\n'


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
        found.append(Entry('method', f'{header[1]}.{name}', signature, doc, _first_line(doc)))
  return tuple(found)


@functools.cache
def left_out() -> tuple[Entry, ...]:
  """What the documentation says of the functions and classes that are in no document of a split.

  Their text is short, or a copy of most of another one: `os.remove` is described as `os.unlink` is.
  Or they are methods of an object, as `random.choice` is.
  """
  there = {document.header for split in SPLITS for document in _of_split(split)}
  left = (document for document in (*_found(), *_bound()) if document.header not in there)
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


# --- reading -----------------------------------------------------------------------------------


def _topics() -> Iterator[Document]:
  from pydoc_data.topics import topics  # 500 kB that nothing else needs

  for name, text in sorted(topics.items()):
    yield Document(f'topic {name}', '', _clean(text))


def _python_modules() -> Iterator[Document]:
  found = False
  for name, path in _sources():
    found = True
    yield from _python_module(name, ast.parse(path.read_bytes()))
  if not found:
    raise BadInput(
      f'builtin: this Python has no library source in {sysconfig.get_path("stdlib")}; use a Python '
      'with the .py files of its standard library, or give your own text files'
    )


def _sources() -> Iterator[tuple[str, Path]]:
  """The modules of the library that are written in Python, and their files."""
  root = Path(sysconfig.get_path('stdlib'))
  for top in sorted(path for path in root.iterdir() if path.stem in sys.stdlib_module_names):
    for path in sorted(top.rglob('*.py')) if top.is_dir() else [top]:
      parts = path.relative_to(root).with_suffix('').parts
      if path.suffix != '.py' or _SKIPPED.intersection(parts):
        continue
      yield '.'.join(parts[:-1] if parts[-1] == '__init__' else parts), path


def _bound() -> Iterator[Document]:
  """Functions of modules that are methods of one object, as in `choice = _inst.choice`."""
  for name, path in _sources():
    if not _BOUND.search(path.read_bytes()):
      continue
    body = ast.parse(path.read_bytes()).body
    classes = {node.name: node for node in _definitions(body) if isinstance(node, ast.ClassDef)}
    values = {
      node.targets[0].id: node.value
      for node in body
      if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for short, value in values.items():
      match value:
        case ast.Attribute(value=ast.Name(id=thing), attr=attribute) if short[0] != '_':
          match values.get(thing):
            case ast.Call(func=ast.Name(id=kind)):
              method = _method(classes, kind, attribute)
              if isinstance(method, ast.FunctionDef):
                header = f'{name}.{short}{_signature(method, method=True)}'
                yield Document(_family(name), header, _docstring(method))


def _method(
  classes: Mapping[str, ast.ClassDef], kind: str, name: str
) -> ast.ClassDef | ast.FunctionDef | None:
  """The method of a class, or of the first of its bases that has it."""
  if kind not in classes:
    return None
  own = {node.name: node for node in _definitions(classes[kind].body)}
  bases = [base.id for base in classes[kind].bases if isinstance(base, ast.Name)]
  inherited = (_method(classes, base, name) for base in bases)
  return own.get(name) or next(filter(None, inherited), None)


def _python_module(name: str, tree: ast.Module) -> Iterator[Document]:
  """The documents of one parsed source file."""
  listed, public = [], _exported(tree)
  for node in _definitions(tree.body):
    doc, dotted = _docstring(node), f'{name}.{node.name}'
    if doc and (node.name in public if public else not node.name.startswith('_')):
      listed.append(f'  {node.name}: {_first_line(doc)}')
    if isinstance(node, ast.ClassDef):
      methods = list(_definitions(node.body))
      header = f'class {dotted}{_constructor(methods)}'
      parts = [doc, *(_entry(_method_header(m), _docstring(m)) for m in methods)]
      yield Document(_family(name), header, _join(parts))
    else:
      yield Document(_family(name), dotted + _signature(node), doc)
  yield _overview(name, _docstring(tree), listed)


def _c_modules() -> Iterator[Document]:
  # Not by sys.path: a user's file of the same name must not take the place of the module.
  places = [f'{sysconfig.get_path("stdlib")}/lib-dynload', f'{sys.base_prefix}/DLLs']
  for name in sorted(sys.stdlib_module_names - _SKIPPED - _SKIPPED_C):
    spec = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name, places)
    if spec is None or spec.loader is None:
      continue
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # some are deprecated
      try:
        module = _load(spec, spec.loader)
      except ImportError:  # the C library it wants is not on this machine
        continue
    yield from _c_module(name, module)


def _load(spec: ModuleSpec, loader: Loader) -> types.ModuleType:
  """The module, imported if it is not yet."""
  module = sys.modules.get(spec.name)
  if module is None or getattr(module.__spec__, 'origin', None) != spec.origin:
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)
    loader.exec_module(module)
  return module


def _c_module(name: str, module: types.ModuleType) -> Iterator[Document]:
  """The documents of one module written in C, under the name of the module readers know."""
  bare = name.removeprefix('_')
  public = _PUBLIC.get(name, bare if bare in sys.stdlib_module_names else name)
  listed = []
  for short, value in sorted(vars(module).items()):
    value = vars(module).get(f'__{short}__', value)  # sys.excepthook and others can be replaced
    is_class = isinstance(value, type) and value.__module__ in {name, public}
    is_function = isinstance(value, types.BuiltinFunctionType) and not short.startswith('__')
    if not is_class and not is_function:
      continue
    doc, dotted = _c_doc(value), f'{public}.{short}'.removeprefix('builtins.')
    if doc and not short.startswith('_'):
      listed.append(f'  {short}: {_first_line(doc)}')
    if is_function:
      yield Document(_family(public), dotted + _c_signature(value), doc)
    else:
      methods = [
        _entry(key + _c_signature(method), _c_doc(method))
        for key, method in sorted(vars(value).items())
        if isinstance(method, _C_METHODS) and not key.startswith('__')
      ]
      header = f'class {dotted}{_c_signature(value)}'
      yield Document(_family(public), header, _join([doc, *methods]))
  if name == public:
    yield _overview(name, _c_doc(module), listed)


def _overview(name: str, doc: str, listed: list[str]) -> Document:
  contents = 'Contents:\n' + '\n'.join(listed) if listed else ''
  return Document(_family(name), f'Module {name}', _join([doc, contents]))


def _family(module: str) -> str:
  """`_datetime`, `_pydatetime` and `datetime` document the same things."""
  bare = module.removeprefix('_')
  return bare.removeprefix('py') if bare.removeprefix('py') in sys.stdlib_module_names else bare


def _definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef]:
  """Classes and functions of a body, also those under `if` and `try`; a redefinition wins."""
  found = {}
  pending = list(body)
  while pending:
    node = pending.pop(0)
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
      found[node.name] = node
    elif isinstance(node, ast.If | ast.Try):
      pending[:0] = node.body + node.orelse
  yield from found.values()


def _exported(tree: ast.Module) -> set[str]:
  """The names of `__all__` where it is written as a plain list; otherwise none."""
  for node in tree.body:
    if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
      names = getattr(node.value, 'elts', [])
      return {str(item.value) for item in names if isinstance(item, ast.Constant)}
  return set()


def _signature(node: ast.FunctionDef, method: bool = False) -> str:
  """`(a, b=1) -> str`, without `self`, or `(...)` where it would be a paragraph."""
  decorators = {getattr(d, 'id', getattr(d, 'attr', '')) for d in node.decorator_list}
  if method and decorators & {'property', 'cached_property', 'setter'}:
    return ''
  text = ast.unparse(node.args)
  if method and 'staticmethod' not in decorators:
    text = re.sub(r'^\w+(, /)?(, |$)', '', text)
  returns = f' -> {ast.unparse(node.returns)}' if node.returns else ''
  return f'({text}){returns}' if len(text) < 400 else '(...)'


def _method_header(node: ast.ClassDef | ast.FunctionDef) -> str:
  if isinstance(node, ast.ClassDef):
    return f'class {node.name}'
  return node.name + _signature(node, method=True)


def _constructor(methods: list[ast.ClassDef | ast.FunctionDef]) -> str:
  for node in methods:
    if node.name == '__init__' and isinstance(node, ast.FunctionDef):
      return _signature(node, method=True).removesuffix(' -> None')
  return ''


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
  return _clean(ast.get_docstring(node) or '')


def _c_doc(value: object) -> str:
  doc = getattr(value, '__doc__', None)
  return _clean(inspect.cleandoc(doc)) if isinstance(doc, str) else ''


def _c_signature(value: object) -> str:
  """The signature that the C source declares, without the marks for `self`."""
  text = getattr(value, '__text_signature__', None)
  if not isinstance(text, str):
    return ''
  return ' '.join(re.sub(r'\$\w+(, /)?(, )?', '', text).split())


def _clean(text: str) -> str:
  """Removes what is not text: control characters, lone surrogates and memory addresses."""
  text = re.sub(r'[^\S\n ]', ' ', text.replace('\r\n', '\n').expandtabs())
  text = re.sub(r'[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]', '', text)
  text = re.sub(r'\bat 0x[0-9A-Fa-f]+', 'at 0x...', text)
  return re.sub(r'\n{3,}', '\n\n', re.sub(r' +$', '', text, flags=re.M)).strip('\n')


def _first_line(doc: str) -> str:
  """The first sentence, in one line of at most 160 characters."""
  line = ' '.join(doc.split('\n\n')[0].split())
  sentence = re.split(r'(?<=[a-z)\]\'"`]\.) (?=[A-Z])', line)[0]
  return textwrap.shorten(sentence, 160, placeholder=' ...')


def _entry(header: str, doc: str) -> str:
  """A method inside its class."""
  return '\n    '.join([header, *doc.split('\n')]) if doc else ''


def _join(parts: Iterable[str]) -> str:
  return re.sub(r' +$', '', '\n\n'.join(part for part in parts if part), flags=re.M)


def _described(document: Document) -> Entry | None:
  """A document that is about one name."""
  header = re.fullmatch(r'(class |Module |)([\w.]+)(.*)', document.header)
  if not header:
    return None
  kind, name, signature = header.groups()
  kind, doc = kind.strip().lower() or 'function', document.body
  return Entry(kind, name, signature, doc, _first_line(doc))


# --- splitting ---------------------------------------------------------------------------------


def _of_split(split: str) -> list[Document]:
  if split not in SPLITS:
    raise BadInput(f'builtin: no split {split!r}; {suggest(split, list(SPLITS))}')
  return _split()[split]


@functools.cache
def _found() -> tuple[Document, ...]:
  return tuple(itertools.chain(_topics(), _python_modules(), _c_modules()))


@functools.cache
def _split() -> dict[str, list[Document]]:
  found = [document for document in _found() if len(document.body.split()) >= _MIN_WORDS]
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

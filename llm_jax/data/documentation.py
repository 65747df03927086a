"""The documentation that comes with the Python interpreter, read a document at a time.

It covers the standard library and no installed packages, in four kinds of documents:
  topic     a chapter of the language reference, as `help('topics')` shows it (`pydoc_data.topics`)
  module    the docstring of a module, and its public names with their first line
  class     a class with its signature and its methods
  function  a function with its signature

Python modules are parsed with `ast` and never imported, so none of their code runs. Only modules
written in C, whose documentation is in no `.py` file, are imported. The text depends on nothing but
the Python installation: two processes write the same bytes.
"""

import ast
import functools
import importlib.util
import inspect
import itertools
import re
import sys
import sysconfig
import textwrap
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.abc import Loader
from importlib.machinery import BuiltinImporter, ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

from llm_jax.types import BadInput

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


class Document(NamedTuple):
  """`family` names what must stay on one side of the split; `body` is the text without header."""

  family: str
  header: str
  body: str

  @property
  def text(self) -> str:
    return f'{self.header}\n\n{self.body}\n' if self.header else f'{self.body}\n'


@functools.cache
def read() -> tuple[Document, ...]:
  """All documents; the same ones in the same order each time."""
  return tuple(itertools.chain(_topics(), _python_modules(), _c_modules()))


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


def bound() -> Iterator[Document]:
  """Functions of modules that are methods of one object, as in `choice = _inst.choice`."""
  for name, path in _sources():
    source = path.read_bytes()
    if not _BOUND.search(source):  # parsing all of the library once more would take seconds
      continue
    body = ast.parse(source).body
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
  others = {other: node for other, node in classes.items() if other != kind}  # class A(A) is legal
  own = {node.name: node for node in _definitions(classes[kind].body)}
  bases = [base.id for base in classes[kind].bases if isinstance(base, ast.Name)]
  inherited = (_method(others, base, name) for base in bases)
  return own.get(name) or next(filter(None, inherited), None)


def _python_module(name: str, tree: ast.Module) -> Iterator[Document]:
  """The documents of one parsed source file."""
  listed, public = [], _exported(tree)
  for node in _definitions(tree.body):
    doc, dotted = _docstring(node), f'{name}.{node.name}'
    if doc and (node.name in public if public else not node.name.startswith('_')):
      listed.append(f'  {node.name}: {first_line(doc)}')
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
      listed.append(f'  {short}: {first_line(doc)}')
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


def first_line(doc: str) -> str:
  """The first sentence, in one line of at most 160 characters."""
  line = ' '.join(doc.split('\n\n')[0].split())
  sentence = re.split(r'(?<=[a-z)\]\'"`]\.) (?=[A-Z])', line)[0]
  return textwrap.shorten(sentence, 160, placeholder=' ...')


def _entry(header: str, doc: str) -> str:
  """A method inside its class."""
  return '\n    '.join([header, *doc.split('\n')]) if doc else ''


def _join(parts: Iterable[str]) -> str:
  return re.sub(r' +$', '', '\n\n'.join(part for part in parts if part), flags=re.M)

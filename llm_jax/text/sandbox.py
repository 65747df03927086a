"""Jinja text of somebody else's, run where it reaches nothing and cannot take time or memory.

The sandbox of jinja2 hides what is private in Python. Here a template can use only the attributes
and filters that chat templates are made of, and each rendering has a budget: of steps, which stops
loops and recursion, and of characters, which are counted before they are made. What is in it beyond
Jinja is what transformers gives to a chat template: `tojson`, `raise_exception`, `strftime_now`,
`break` and `continue`, and {% generation %}.
"""

import datetime
import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar

from llm_jax.types import BadInput

STEPS, SECONDS = 1_000_000, 3  # loop turns, calls and operations of a rendering; of a processor
CHARACTERS = 1 << 27  # that a rendering may make in all
ITEM = 64  # characters that an item of a list counts for
MOST_TEXT = 1 << 20  # characters of a template
OPEN, CLOSE = '\ufdd0', '\ufdd1'  # noncharacters around what {% generation %} holds

_METHODS = {
  str: (
    'capitalize count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric '
    'isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind '
    'rindex rpartition rsplit rstrip split splitlines startswith strip title upper'
  ),
  dict: 'get items keys values',
  list: 'count index',
  tuple: 'count index',
}
_ALLOWED = {kind: set(names.split()) for kind, names in _METHODS.items()}
_FILTERS = (
  *('abs', 'attr', 'capitalize', 'count', 'd', 'default', 'dictsort', 'e', 'escape', 'first'),
  *('float', 'int', 'items', 'last', 'length', 'list', 'lower', 'map', 'max', 'min', 'reject'),
  *('rejectattr', 'reverse', 'round', 'safe', 'select', 'selectattr', 'sort', 'sum', 'title'),
  *('trim', 'unique', 'upper'),
)
_DIRECTIVES = re.compile(r'(%-?[A-Za-z%]|[^%])*')  # of a time, without widths
MOST_BITS = 10_000  # of a number
_WIDTH = re.compile(r'%[^a-zA-Z%]*(\d{3}|\*)')


class NoDate(BadInput):
  """The template writes the date, and none is set."""


class _Spent(Exception):
  """More steps or characters than a rendering has."""


class _Budget:
  def __init__(self) -> None:
    self.steps, self.characters = STEPS, CHARACTERS
    self.until = time.thread_time() + SECONDS

  def step(self) -> None:
    self.steps -= 1
    if self.steps < 0:
      raise _Spent(f'more than {STEPS:,} steps')
    if not self.steps % 16 and time.thread_time() > self.until:
      raise _Spent(f'more than {SECONDS} seconds')

  def spend(self, characters: int) -> None:
    self.characters -= characters
    if self.characters < 0:
      raise _Spent(f'more than {CHARACTERS:,} characters')


_budget: ContextVar[_Budget] = ContextVar('budget')


class Sandboxed:
  """A template that can be rendered.

  Attributes:
    constants: the texts in its expressions.
    fields: the names that it reads of messages, these texts among them.
    marks: whether it says with {% generation %} what the assistant wrote.
  """

  def __init__(self, text: str, where: str):
    """`text` is in Jinja, and errors begin with `where`.

    Raises:
      BadInput: jinja2 is missing, or this is no template.
    """
    if len(text) > MOST_TEXT:
      raise BadInput(f'{where}: {len(text):,} characters of Jinja; {MOST_TEXT:,} are allowed')
    self._where, self._environment = where, _environment()
    self._template = self._guarded(None, lambda: self._environment.from_string(text))
    tree = self._guarded(None, lambda: self._environment.parse(text))
    self.constants, self.fields = self._guarded(None, lambda: _texts(tree))
    self.marks = re.search(r'{%-?\s*generation\s*-?%}', text) is not None

  def render(self, date: datetime.datetime | None, **variables: Any) -> str:
    """The text for variables; OPEN and CLOSE are around what is marked as the assistant's.

    Args:
      date: what `strftime_now` says.
      **variables: as the template names them.

    Raises:
      NoDate: it wants the date, and that is None.
      BadInput: it raised, or wanted more than its budget.
    """
    run = lambda: ''.join(_counted(self._template.generate(**variables)))
    return self._guarded(date, run)

  def _guarded(self, date: datetime.datetime | None, function: Callable[[], Any]) -> Any:
    self._environment.clock.set(date)
    token = _budget.set(_Budget())
    try:
      return function()
    except NoDate as error:
      raise NoDate(f'{self._where}: {error}') from None
    except _Spent as error:
      raise BadInput(f'{self._where}: it was stopped, since it takes {error}') from None
    except RecursionError:
      raise BadInput(f'{self._where}: it was stopped, since it calls itself without end') from None
    except Exception as error:  # whatever Python code can raise, a template can
      said = ' '.join(f'{error}'.split())[:300]
      raise BadInput(f'{self._where}: it cannot be rendered: {said}') from None
    finally:
      _budget.reset(token)


def _texts(tree: Any) -> tuple[set[str], set[str]]:
  from jinja2 import nodes

  constants = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
  return constants, constants | {node.attr for node in tree.find_all(nodes.Getattr)}


def _counted(chunks: Iterator[str]) -> Iterator[str]:
  budget = _budget.get()
  for chunk in chunks:
    budget.step()
    budget.spend(len(chunk))
    yield chunk


@functools.cache
def _environment() -> Any:
  """The sandbox; jinja2 is imported with the first template."""
  try:
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.filters import make_attrgetter
    from jinja2.runtime import LoopContext, Undefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace, pass_environment
  except ImportError:
    raise BadInput(
      "this chat template is written in Jinja; pip install 'llm_jax[hf]' installs what reads it"
    ) from None

  def size(value: Any) -> int:
    """Characters and items of a value, each counted as often as it would be written."""
    if isinstance(value, str):
      return len(value)
    if isinstance(value, Namespace):
      value = value._Namespace__attrs
    if isinstance(value, Mapping):
      value = [*value, *value.values()]
    if not isinstance(value, (list, tuple)):
      return 1
    _budget.get().spend(ITEM * len(value))
    return sum(map(size, value))

  def paid(value: Any) -> Any:
    _budget.get().spend(size(value))
    return value

  def text(value: Any) -> str:
    return value if isinstance(value, str) else str(paid(value))

  def joined(parts: Iterable[Any], between: str = '') -> str:
    texts = [text(part) for part in parts]
    _budget.get().spend(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)

  def replaced(whole: str, old: str, new: str, *count: int) -> str:
    _budget.get().spend(len(whole) + whole.count(old) * len(new))
    return whole.replace(old, new, *count)

  def turns(items: Any) -> Iterator[Any]:
    for item in items:
      _budget.get().step()
      yield item

  class Generation(Extension):
    tags: ClassVar[set[str]] = {'generation'}

    def parse(self, parser: Any) -> Any:
      line = next(parser.stream).lineno
      body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
      return nodes.CallBlock(self.call_method('_marked'), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
      return f'{OPEN}{caller()}{CLOSE}'

  def filtered(node: Any, name: str) -> Any:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

  class Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({'+', '*', '%', '**'})
    clock: ContextVar[datetime.datetime | None] = ContextVar('clock', default=None)
    concat = staticmethod(joined)

    def _parse(self, *args: Any) -> Any:
      """The tree, in which turns of loops, joined texts and new lists are counted."""
      tree = super()._parse(*args)
      for loop in [*tree.find_all(nodes.For)]:
        loop.iter = filtered(loop.iter, '(turns)')
      for node in [*tree.find_all(nodes.Concat)]:
        node.nodes = [filtered(nodes.List(node.nodes, lineno=node.lineno), '(joined)')]
      for parent in [tree, *tree.find_all(nodes.Node)]:
        for name, value in parent.iter_fields():
          made = lambda x: filtered(x, '(paid)') if is_made(x) else x
          if not isinstance(parent, nodes.Filter) or parent.name not in ('(joined)', '(paid)'):
            setattr(parent, name, [made(x) for x in value] if type(value) is list else made(value))
      tree.set_environment(self)
      return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
      if isinstance(obj, (LoopContext, Namespace, Undefined)):
        return super().is_safe_attribute(obj, attr, value)
      return any(attr in names for kind, names in _ALLOWED.items() if isinstance(obj, kind))

    def wrap_str_format(self, value: Any) -> None:
      """`str.format`, which pads to any width, is out like all that is not in the list."""

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
      _budget.get().step()
      said, name = getattr(__obj, '__self__', None), getattr(__obj, '__name__', '')
      if isinstance(said, str) and name == 'join':
        return joined(*args, between=said)
      if isinstance(said, str) and name == 'replace':
        return replaced(said, *args)
      return paid(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
      _budget.get().step()
      if operator == '*':
        times = [x for x in (left, right) if isinstance(x, int)]
        if len(times) == 1:
          other = right if times[0] is left else left
          _budget.get().spend(max(times[0], 0) * size(other))
      elif operator == '+':
        _budget.get().spend(size(left) + size(right))
      elif operator == '%' and isinstance(left, str):
        paid(right)
        if _WIDTH.search(left):
          raise ValueError(f'a format with a width: {left!r}')
      if operator == '**' or (operator == '*' and isinstance(left, int) and isinstance(right, int)):
        bits = left.bit_length() if isinstance(left, int) else 64
        by = right.bit_length() if operator == '*' else abs(right)
        if (bits + by if operator == '*' else bits * by) > MOST_BITS:
          raise ValueError('a number too large')
      return paid(super().call_binop(context, operator, left, right))

  def is_made(node: Any) -> bool:
    if isinstance(node, nodes.Tuple):
      return node.ctx == 'load'
    return isinstance(node, (nodes.List, nodes.Dict))

  sandbox = Sandbox(
    trim_blocks=True,
    lstrip_blocks=True,
    optimized=False,
    extensions=[Generation, loopcontrols],
    finalize=lambda value: value if isinstance(value, Undefined) else text(value),
  )

  def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
      _budget.get().step()
      return paid(function(*args, **kwargs))

    return called

  @pass_environment
  def join(environment: Any, items: Any, d: str = '', attribute: str | None = None) -> str:
    get = make_attrgetter(environment, attribute) if attribute is not None else lambda x: x
    return joined((get(item) for item in items), text(d))

  def indent(whole: str, width: int = 4, first: bool = False, blank: bool = False) -> str:
    _budget.get().spend((whole.count('\n') + 1) * max(int(width), 0))
    return sandbox_filters['indent'](whole, width, first, blank)

  sandbox_filters = sandbox.filters
  own = {name: guarded(sandbox_filters[name]) for name in _FILTERS}
  own |= {'join': join, 'indent': indent, 'string': text, 'replace': replaced}
  own |= {'tojson': lambda value, **how: _tojson(paid(value), **how)}
  sandbox.tests = {name: guarded(test) for name, test in sandbox.tests.items()}
  sandbox.filters = own | {'(turns)': turns, '(joined)': joined, '(paid)': paid}

  def raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)

  def strftime_now(form: str) -> str:
    date = sandbox.clock.get()
    if date is None:
      raise NoDate(
        'it writes the date of the day; set one with config.data.date=2026-01-31, '
        'which stays with the model, so that the same row has the same ids tomorrow'
      )
    if not _DIRECTIVES.fullmatch(form):
      raise ValueError(f'strftime_now({form!r})')
    return date.strftime(form)

  names = ('range', 'dict', 'namespace', 'joiner')
  sandbox.globals = {name: sandbox.globals[name] for name in names}
  sandbox.globals |= {'raise_exception': raise_exception, 'strftime_now': strftime_now}
  return sandbox


def _tojson(
  value: Any,
  ensure_ascii: bool = False,
  indent: int | None = None,
  separators: tuple[str, str] | None = None,
  sort_keys: bool = False,
) -> str:
  if (isinstance(indent, int) and indent > 16) or len(f'{separators}') > 16:
    raise ValueError('tojson with so much space')
  return json.dumps(
    value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
  )

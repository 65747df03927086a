"""The reference, from docstrings and signatures: what comment lines of a page stand for.

<!-- room: losses -->           each file of a room that a config can name, and its options
<!-- module: llm_jax.types -->  functions and classes of a module, with their examples
<!-- options: matches -->       every option of a config, as `--help` prints them
<!-- configs -->                what each config is
"""

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Collection, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from llm_jax import find, main
from llm_jax.jobs import option_list
from llm_jax.jobs.option_list import Row
from llm_jax.options import NO_DEFAULT, options_of

ROOT = Path(__file__).parents[2]
ENTRIES = ('loss_fn', 'make', 'reward', 'rewards', 'split')  # what a config calls in a file
SECTION = re.compile(r'^(Args|Attributes|Raises|Returns|Yields):$')
WIDTH = 84  # of a signature


@functools.cache
def expanded(markdown: str) -> str:
  """A page with what its comment lines stand for."""
  known = {'room': room, 'module': module, 'options': options, 'configs': configs}
  made = lambda found: '\n'.join(known[found[1]](*filter(None, [found[2]])))
  return re.sub(r'^<!-- (\w+)(?:: (\S+))? -->$', made, markdown, flags=re.MULTILINE)


def room(name: str) -> Iterator[str]:
  """What a config can choose in a room: for each file what it is, its options, and examples."""
  for file in find.names(name):
    found = import_module(f'llm_jax.{name}.{file}')
    entry = next(getattr(found, one) for one in ENTRIES if hasattr(found, one))
    yield f'## {file}\n'
    yield f'{_source(found)}\n'
    yield from document(found.__doc__)
    yield from (line for line in document(_before_sections(entry)) if line)
    rows = [Row(n, o.default, False, o, o.meaning) for n, o in options_of(entry).items()]
    yield from _listed([row for row in rows if row.path not in ('model', 'tokenizer')])
    if presets := getattr(found, 'PRESETS', None):
      yield f'Values of `preset`: {", ".join(f"`{one}`" for one in presets)}.\n'
    shown = {one.__name__ for one in _own(found) if '>>>' in (one.__doc__ or '')}
    yield from _members(found, shown - {entry.__name__})


def module(name: str) -> Iterator[str]:
  """Public functions and classes of a module, in the order in which they are written."""
  found = import_module(name)
  yield f'{_source(found)}\n'
  yield from document(found.__doc__)
  yield from _members(found, {one.__name__ for one in _own(found) if one.__doc__})


def options(words: str) -> Iterator[str]:
  """Every option of a config, group by group."""
  for (group, title), rows in option_list.sections(
    main.read_config(['', f'--config={words}'])
  ).items():
    yield f'### {group or "the job itself"}\n'
    yield f'{prose(title)}\n' if group else ''
    yield from _listed(rows)


def configs() -> Iterator[str]:
  """Each config of configs/ with its first sentence."""
  yield from ('', '| config | what it runs |', '| --- | --- |')
  for path in sorted((ROOT / 'configs').glob('*.py')):
    tree = ast.parse(path.read_text())
    made = [one for one in tree.body if getattr(one, 'name', '') == 'get_config']
    if made and len(made[0].args.args) == len(made[0].args.defaults):  # others are parts of configs
      said = (ast.get_docstring(tree) or '').partition('\n\n')[0]
      yield f'| [`{path.stem}`](../../configs/{path.name}) | {_cell(prose(said))} |'


def document(text: str | None) -> Iterator[str]:
  """A docstring as Markdown: sections as lists, and examples and what is indented as code."""
  section = ''
  for block in re.split(r'\n\s*\n', inspect.cleandoc(text or '')):
    head, _, rest = block.partition('\n')
    if SECTION.match(head):
      section, block = head, textwrap.dedent(rest)
      yield f'**{head}**\n'
    if block.startswith('>>>'):
      yield from ('```pycon', block, '```\n')
    elif section and re.match(r'[\w*, /]+: ', block):
      for item in re.split(r'\n(?=\S)', block):
        name, _, meaning = ' '.join(item.split()).partition(': ')
        yield f'- `{name}`: {prose(meaning)}'
      yield ''
    elif block.startswith((' ', '|')):
      yield from ('```text', textwrap.dedent(block), '```\n')
    elif block:
      yield from _paragraph(block)


def prose(text: str) -> str:
  """Plain text with `code` in it, as Markdown that shows the same."""
  parts = re.split(r'(`[^`]+`)', text)
  return ''.join(
    p if i % 2 else re.sub(r'([\\*_\[\]<>#])', r'\\\1', p) for i, p in enumerate(parts)
  )


def _paragraph(block: str) -> Iterator[str]:
  """Text, and code where lines of it are indented."""
  for code, lines in _runs(block.splitlines()):
    yield f'```text\n{textwrap.dedent(lines)}\n```\n' if code else f'{prose(lines)}\n'


def _runs(lines: list[str]) -> Iterator[tuple[bool, str]]:
  held: list[str] = []
  for line in lines:
    if held and line.startswith('  ') != held[0].startswith('  '):
      yield held[0].startswith('  '), '\n'.join(held)
      held = []
    held.append(line)
  yield held[0].startswith('  '), '\n'.join(held)


def _own(found: Any) -> list[Any]:
  """Public functions and classes that a module defines, in their order."""
  known = [one for one in vars(found).values() if inspect.isfunction(one) or inspect.isclass(one)]
  own = [one for one in known if one.__module__ == found.__name__ and one.__name__[0] != '_']
  return sorted(own, key=lambda one: inspect.getsourcelines(inspect.unwrap(one))[1])


def _members(found: Any, names: Collection[str]) -> Iterator[str]:
  """Some functions and classes of a module, with the methods of these."""
  for one in _own(found):
    if one.__name__ in names:
      yield from _member(one, one.__name__)
      for name, method in vars(one).items() if inspect.isclass(one) else ():
        method = getattr(method, '__func__', method)  # of a class or static method
        if inspect.isfunction(method) and method.__doc__ and not name.startswith('_'):
          yield from _member(method, f'{one.__name__}.{name}')


def _member(one: Any, name: str) -> Iterator[str]:
  yield f'### {name}\n'
  yield from ('```python', _signature(one, name), '```\n')
  yield from document(one.__doc__)


def _signature(one: Any, name: str) -> str:
  """How it is called, as written in its source."""
  tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(one)))).body[0]
  if isinstance(tree, ast.ClassDef):
    fields = [f'  {ast.unparse(line)}' for line in tree.body if isinstance(line, ast.AnnAssign)]
    bases = ', '.join(map(ast.unparse, tree.bases))
    return '\n'.join(
      [f'class {name}({bases}):' if bases else f'class {name}:', *(fields or ['  ...'])]
    )
  assert isinstance(tree, ast.FunctionDef)
  returned = f' -> {ast.unparse(tree.returns)}' if tree.returns else ''
  words = re.sub(r'^(self|cls)(, |$)', '', ast.unparse(tree.args))
  parts = re.split(r', (?=[*\w]+(?:: |=|,|$))(?![^\[]*\])', words)
  parts = [re.sub(r'^(\w+: .*?)=(?=[^=]*$)', r'\1 = ', part) for part in parts]
  line = f'{name}({", ".join(parts)}){returned}'
  lines = '\n'.join([f'{name}(', *(f'  {part},' for part in parts), f'){returned}'])
  return line if len(line) <= WIDTH else lines


def _listed(rows: list[Row]) -> Iterator[str]:
  """Options as a list, which is as readable on a phone as it is elsewhere."""
  for row in rows:
    value = '' if row.value is NO_DEFAULT else f' = `{_short(repr(row.value))}`'
    told = [f'*{prose(facts)}*'] if (facts := option_list.facts(row)) else []
    told += [prose(row.meaning)] if row.meaning else []
    yield ' <br>'.join([f'- `{row.path}`{value}', *told])  # the search drops the break
  yield ''


def _short(text: str, most: int = 60) -> str:
  return text if len(text) <= most else f'{text[:most]}...'


def _cell(text: str) -> str:
  return ' '.join(text.split()).replace('|', '\\|')


def _before_sections(one: Any) -> str:
  lines = inspect.cleandoc(one.__doc__ or '').splitlines()
  stop = next((i for i, line in enumerate(lines) if SECTION.match(line)), len(lines))
  return '\n'.join(lines[:stop])


def _source(found: Any) -> str:
  path = Path(found.__file__).relative_to(ROOT)
  return f'[`{path}`](../../{path})'

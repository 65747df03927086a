"""Pages of the site that are made when it is built: the reference, and what lies beside docs/.

Whatever a page links to beside docs/ (a README, a folder, source) becomes a page below
`repository/`, so the site is whole without a network, and links lead where they lead in a clone.
"""

import ast
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import reference
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[2]
BESIDE = 'repository'
PICTURES = ('.png', '.svg', '.jpg', '.gif')
LANGUAGES = {'.py': 'python', '.sh': 'bash', '.sbatch': 'bash', '.yaml': 'yaml', '.json': 'json'}
LINK = re.compile(r'\]\(([^)\s#:]+)(#[^)\s]*)?\)')
HIDDEN = '---\nsearch: {exclude: true}\n---\n'  # from the search, which is for what explains
_origins: dict[str, str] = {}  # page of the site -> file of the repository


def on_files(files: Files, *, config: Any) -> Files:
  """Adds a page for each file or folder beside docs/ that a page links to."""
  _origins.update((file.src_uri, f'docs/{file.src_uri}') for file in files.documentation_pages())
  left = [(uri, reference.expanded((ROOT / path).read_text())) for uri, path in _origins.items()]
  for uri, text in left:  # grows
    for path in _linked(_origins[uri], text):
      page = _page(path)
      if path.startswith('docs/') or files.get_file_from_path(page) or page in _origins:
        continue
      source = ROOT / path
      if source.suffix in PICTURES:
        files.append(File.generated(config, page, abs_src_path=str(source)))
        continue
      told = ''.join(_told(source))
      _origins[page] = path if source.suffix in ('.md', '.ipynb') else page
      if source.is_dir():
        _origins[page] = f'{path}/README.md'
      hidden = InclusionLevel.NOT_IN_NAV
      files.append(File.generated(config, page, content=told, inclusion=hidden))
      left.append((page, told))
  return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
  """The page with the reference in it, and with links that lead to pages of the site."""
  here = page.file.src_uri

  def moved(found: re.Match[str]) -> str:
    path = posixpath.normpath(posixpath.join(posixpath.dirname(_origins[here]), found[1]))
    if not (ROOT / path).exists():
      return found[0]
    return f']({posixpath.relpath(_page(path), posixpath.dirname(here) or ".")}{found[2] or ""})'

  return _prose(reference.expanded(markdown), lambda text: LINK.sub(moved, text))


def on_page_content(html: str, **others: Any) -> str:
  """The page with flags that are not broken between their dashes and their name."""
  return re.sub(r'(?<=[>\s])--[a-z]+', r'<span class="flag">\g<0></span>', html)


def _linked(origin: str, text: str) -> list[str]:
  """Files and folders of the repository that a page links to."""
  found: list[str] = []
  _prose(text, lambda part: found.extend(match[1] for match in LINK.finditer(part)) or '')
  paths = [posixpath.normpath(posixpath.join(posixpath.dirname(origin), one)) for one in found]
  return [path for path in paths if not path.startswith('..') and (ROOT / path).exists()]


def _page(path: str) -> str:
  """Where a file or folder of the repository is in the site."""
  if path.startswith('docs/'):
    return path.removeprefix('docs/')
  if (ROOT / path).is_dir():
    return f'{BESIDE}/{path}/README.md'
  return f'{BESIDE}/{path}' + ('' if path.endswith(('.md', *PICTURES)) else '.md')


def _told(path: Path) -> Iterator[str]:
  """A file or folder as a page."""
  name = path.relative_to(ROOT)
  if path.is_dir() and not (path / 'README.md').exists():
    yield f'{HIDDEN}# {name}\n\n| file | what it is |\n| --- | --- |\n'
    for file in sorted(path.glob('*.py')):
      said = (ast.get_docstring(ast.parse(file.read_text())) or '').partition('\n')[0]
      yield f'| [`{file.name}`]({file.name}) | {reference.prose(said)} |\n'
  elif path.is_dir() or path.suffix == '.md':
    yield ((path / 'README.md') if path.is_dir() else path).read_text()
  elif path.suffix == '.ipynb':
    yield from _notebook(json.loads(path.read_text()))
  else:
    language = LANGUAGES.get(path.suffix, 'text')
    yield f'{HIDDEN}# {name}\n\n``` {{ .{language} }}\n{path.read_text()}\n```\n'


def _notebook(content: Any) -> Iterator[str]:
  """Texts, code, and the pictures stored with it; of those from elsewhere, the words."""
  for cell in content['cells']:
    text = re.sub(r'!\[([^]]*)\]\(https?:[^)]*\)', r'\1', ''.join(cell['source']))
    yield f'\n\n{text}\n' if cell['cell_type'] == 'markdown' else f'\n\n```python\n{text}\n```\n'
    for output in cell.get('outputs', ()):
      if picture := output.get('data', {}).get('image/png'):
        yield f'\n![output](data:image/png;base64,{"".join(picture).strip()})\n'


def _prose(text: str, change: Callable[[str], str]) -> str:
  """A page whose prose is changed, and whose code is as it was."""
  parts = re.split(r'(^```.*?^```$|`[^`\n]+`)', text, flags=re.MULTILINE | re.DOTALL)
  return ''.join(part if i % 2 else change(part) for i, part in enumerate(parts))

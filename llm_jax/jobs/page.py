"""A report as a list of blocks, written as Markdown and as one HTML file that needs no other."""

import base64
import dataclasses
import html
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.files import replacing, write_json
from llm_jax.text.visible import visible

FACTS = 'report.json'  # the numbers of a report
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .8rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left;
  vertical-align: top; }
th { background: var(--soft); }
td:first-child { white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
.pieces { font: 15px/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.pieces span { border-radius: 3px; padding: .1em 0; background: #4a8cff33; }
.pieces span:nth-child(3n) { background: #3fbf6a33; }
.pieces span:nth-child(3n+1) { background: #ffb02e33; }
.pieces .control { border: 1px solid; border-radius: 4px; padding: 0 .25em; background: none;
  font-size: .85em; white-space: nowrap; }
.pieces .trained { text-decoration: underline 2px #1a8f4a; text-underline-offset: 4px; }
details { margin: .4rem 0; }
summary { cursor: pointer; }
"""


@dataclasses.dataclass(frozen=True)
class Heading:
  """A heading; level 1 is the title of the page."""

  text: str
  level: int = 2


@dataclasses.dataclass(frozen=True)
class Text:
  """A paragraph."""

  text: str


@dataclasses.dataclass(frozen=True)
class Table:
  """Cells are texts, or numbers with their unit already written; `bold` has (row, column)."""

  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  bold: Collection[tuple[int, int]] = ()


@dataclasses.dataclass(frozen=True)
class Figure:
  """A drawing; `name` is its file beside the Markdown."""

  name: str
  svg: bytes
  alt: str


@dataclasses.dataclass(frozen=True)
class Pieces:
  """Tokens of a text: (what it shows, 'control', 'trained', both or '')."""

  tokens: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Fold:
  """Blocks that a reader of the page opens when they are wanted."""

  title: str
  blocks: 'Sequence[Block]'


_ONE = r'[-–+]?[\d.,:]*(e[-+]?\d+)?%?'
NUMBER = re.compile(rf'{_ONE}( \[{_ONE}, {_ONE}\])?')  # perhaps with its interval
# Markup inside of a line, with what GitHub makes links of: `https://a.b` and `www.a.b`.
_MARKUP = re.compile(r'[\\|`*_\[\]$~#]|:(?=//)|(?<=www)\.', re.IGNORECASE)
_START = re.compile(r'^(\d*)([-+=.)])')  # makes a list or a heading of a paragraph
Block = Heading | Text | Table | Figure | Pieces | Fold


def write(folder: Path, blocks: Sequence[Block], title: str, facts: Mapping[str, Any]) -> None:
  """Writes `report.html`, `report.md` and, at last, `report.json`, each whole or not at all.

  Args:
    folder: where they are put; drawings for the Markdown go to `figures` in it.
    blocks: the report.
    title: of the page.
    facts: the numbers that the blocks were made of.
  """
  texts = {'report.html': page(blocks, title), 'report.md': markdown(blocks, folder / 'figures')}
  for name, text in texts.items():
    with replacing(folder / name) as file:
      file.write(text.encode())
  write_json(folder / FACTS, facts)


def markdown(blocks: Sequence[Block], folder: Path) -> str:
  """The blocks as Markdown; figures are written as files into `folder`, and linked by its name.

  >>> print(markdown([Table(['stage', 'reward'], [['sft', '-1.276']])], Path('figures')), end='')
  | stage | reward |
  | --- | --- |
  | sft | -1.276 |
  """
  out = []
  for block in blocks:
    match block:
      case Heading(text, level):
        out.append(f'{"#" * level} {_inline(text)}')
      case Text(text):
        out.append(_START.sub(r'\1\\\2', _inline(text)))
      case Table(header, rows, bold):
        line = lambda cells: '| ' + ' | '.join(cells) + ' |'
        strong = lambda cell, i, j: f'**{_inline(cell)}**' if (i, j) in bold else _inline(cell)
        body = [[strong(cell, i, j) for j, cell in enumerate(row)] for i, row in enumerate(rows)]
        head = [[*map(_inline, header)], ['---'] * len(header)]
        out.append('\n'.join(map(line, [*head, *body])))
      case Figure(name, svg, alt):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(svg)
        out.append(f'![{_inline(alt)}]({folder.name}/{name})')
      case Pieces(tokens):
        out.append(_START.sub(r'\1\\\2', _inline('|'.join(text for text, _ in tokens))))
      case Fold(title, inside):
        out += [_inline(title), markdown(inside, folder).rstrip('\n')]
  return '\n\n'.join(out) + '\n'


def page(blocks: Sequence[Block], title: str) -> str:
  """The blocks as HTML, with style and figures inside."""
  return (
    f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{_html(title)}</title>\n<style>{STYLE}</style>\n<body>\n'
    + _body(blocks)
    + '\n</body>\n</html>\n'
  )


def _body(blocks: Sequence[Block]) -> str:
  out = []
  for block in blocks:
    match block:
      case Heading(text, level):
        out.append(f'<h{level}>{_html(text)}</h{level}>')
      case Text(text):
        out.append(f'<p>{_html(text)}</p>')
      case Table(header, rows, bold):
        head = ''.join(f'<th>{_html(cell)}</th>' for cell in header)
        cells = lambda i, row: ''.join(_data(cell, (i, j) in bold) for j, cell in enumerate(row))
        body = ''.join(f'<tr>{cells(i, row)}</tr>\n' for i, row in enumerate(rows))
        out.append(
          f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>'
          '</table></div>'
        )
      case Figure(_, svg, alt):
        # Its own document: the ids of two drawings would collide inside of one page.
        source = f'data:image/svg+xml;base64,{base64.b64encode(svg).decode()}'
        out.append(f'<img alt="{_html(alt)}" src="{source}">')
      case Pieces(tokens):
        one = lambda text, kind: f'<span class="{_html(kind)}">{_html(text)}</span>'
        out.append(f'<p class="pieces">{"".join(one(*token) for token in tokens)}</p>')
      case Fold(title, inside):
        head = f'<summary>{_html(title)}</summary>'
        out.append(f'<details>{head}\n{_body(inside)}\n</details>')
  return '\n'.join(out)


def _inline(text: str) -> str:
  """A part of a line of Markdown, in which nothing is taken for markup or for an address."""
  safe = html.escape(' '.join(visible(text).split()), quote=False)
  return _MARKUP.sub(r'\\\g<0>', safe)


def _html(text: str) -> str:
  return html.escape(visible(text))


def _data(text: str, strong: bool) -> str:
  kind = 'number' if NUMBER.fullmatch(text) else 'text'
  shown = f'<strong>{_html(text)}</strong>' if strong else _html(text)
  return f'<td class="{kind}">{shown}</td>'

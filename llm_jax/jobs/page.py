"""A report as a list of blocks, written as Markdown and as one HTML file that needs no other."""

import base64
import dataclasses
import html
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
td.number small { display: block; opacity: .75; }
td.text { white-space: pre-wrap; overflow-wrap: break-word; max-width: min(34rem, 75vw); }
img { max-width: 100%; border-radius: 4px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); border-radius: 8px;
  padding: .6rem .8rem; font: .9rem/1.5 ui-monospace, monospace; margin: .3rem 0 .8rem; }
.talk { max-width: 46rem; margin: 1rem 0 1.6rem; display: grid; gap: .4rem; }
.talk div { border-radius: 10px; padding: .4rem .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; border: 1px solid var(--line); margin-right: 8%; }
.talk .asked { background: var(--soft); border-color: transparent; margin: 0 0 0 8%; }
.talk .right { border-left: 4px solid #1a8f4a; }
.talk .wrong { border-left: 4px solid #c9402f; }
.talk .who { display: block; font-weight: bold; font-size: .8rem; opacity: .75; }
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


class Turn(NamedTuple):
  """What somebody said.

  Attributes:
    who: and what is to be told of it.
    text: as it was said.
    mark: 'asked' of what was put to a model; 'right' or 'wrong' of what it said, if that is known.
  """

  who: str
  text: str
  mark: str = ''


@dataclasses.dataclass(frozen=True)
class Talk:
  """A conversation, or one question with the answers of several models."""

  turns: Sequence[Turn]


@dataclasses.dataclass(frozen=True)
class Code:
  """A command or a program, to be copied."""

  text: str


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
Block = Heading | Text | Table | Figure | Pieces | Talk | Code | Fold
SIGNS = {'right': '✓ ', 'wrong': '✗ '}


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
      case Talk(turns):
        out += [
          f'> **{_inline(SIGNS.get(turn.mark, "") + turn.who)}:** {_inline(turn.text)}'
          for turn in turns
        ]
      case Code(text):
        shown = visible(text, lines=False)
        fence = '`' * max(3, *(len(run) + 1 for run in re.findall('`+', shown)), 0)
        out.append(f'{fence}\n{shown}\n{fence}')
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
      case Talk(turns):
        one = lambda turn: (
          f'<div class="{_html(turn.mark)}"><span class="who">'
          f'{_html(SIGNS.get(turn.mark, "") + turn.who)}</span>{_html(turn.text)}</div>'
        )
        out.append(f'<div class="talk">{"".join(map(one, turns))}</div>')
      case Code(text):
        out.append(f'<pre>{_html(text)}</pre>')
      case Fold(title, inside):
        head = f'<summary>{_html(title)}</summary>'
        out.append(f'<details>{head}\n{_body(inside)}\n</details>')
  return '\n'.join(out)


def texts(blocks: Sequence[Block]) -> Iterator[str]:
  """What our own blocks say in words, without what models said."""
  for block in blocks:
    match block:
      case Heading(text) | Text(text):
        yield text
      case Table(header, rows):
        yield from header
        yield from (row[0] for row in rows)
      case Talk(turns):
        yield from (turn.who for turn in turns)
      case Fold(title, inside):
        yield title
        yield from texts(inside)


def _inline(text: str) -> str:
  """A part of a line of Markdown, in which nothing is taken for markup or for an address."""
  safe = html.escape(' '.join(visible(text).split()), quote=False)
  return _MARKUP.sub(r'\\\g<0>', safe)


def _html(text: str) -> str:
  return html.escape(visible(text))


def _data(text: str, strong: bool) -> str:
  kind = 'number' if NUMBER.fullmatch(text) else 'text'
  shown = f'<strong>{_html(text)}</strong>' if strong else _html(text)
  if kind == 'number' and ' [' in text:  # the interval gets a line of its own
    shown = shown.replace(' [', ' <small>[', 1).replace(']', ']</small>', 1)
  return f'<td class="{kind}">{shown}</td>'

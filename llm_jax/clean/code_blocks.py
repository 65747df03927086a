"""Code blocks of a page, which come through an extractor of text as they were written.

Extractors collapse blank lines, or take a block for a quotation. So each block is flattened to its
text and set between two marks, made-up words that no extractor touches. Whatever is found between
the marks afterwards is replaced by the block. Where the extractor left a block out, it stays out.
"""

import html
import re
from collections.abc import Iterable, Sequence

from llm_jax.clean.markup import Block, Outline

_COMMENT = re.compile(r'<!--.*?-->', re.S)
_BREAK = re.compile(r'<br\b[^>]*>', re.I)
_LINE_END = re.compile(r'</(?:div|p|li|tr)\s*>(?!\s*\n)(?=.)', re.I | re.S)
_TAG = re.compile(r'</?[a-zA-Z](?:[^>"\']|"[^"]*"|\'[^\']*\'|["\'])*+>')
_REST = re.compile(r'[| \t]*\n|[| \t]*\Z|[ \t]+')  # of the line that a block ends on
_CONTROL = re.compile('[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]')


def hide(text: str, outline: Outline) -> tuple[str, list[str], str]:
  """A page with marks around its code blocks and without its scripts, the blocks, and the mark.

  The line numbers that stand in a block of their own beside another are left out.
  """
  found: list[str] = []
  pieces: list[str] = []
  blocks = [block for block in outline.blocks if block.name == 'pre' or _stands_alone(text, block)]
  mark = 'qcodeq'
  while blocks and mark in text:
    mark = f'q{mark}'
  edits: dict[int, tuple[int, Block | str]] = {block.start: (block.end, block) for block in blocks}
  edits |= {start: (end, instead) for start, end, instead in outline.cuts if start not in edits}
  at = 0
  for start, (end, block) in sorted(edits.items()):
    if start < at:  # inside of a block
      continue
    pieces.append(text[at:start])
    at = end
    if isinstance(block, str):
      pieces.append(block)
      continue
    code = _code(text[block.inside : block.after])
    if code and not (_counts(code) and _is_beside(text, block, blocks)):
      begin, last = _marks(mark, len(found))
      found.append(code)
      pieces.append(f'<pre><code>{begin}\n{html.escape(code, quote=False)}\n{last}</code></pre>')
  pieces.append(text[at:])
  return ''.join(pieces), found, mark


def fold(text: str, mark: str) -> str:
  """What an extractor made of a page of `hide`, with each block as one line: its first mark."""
  found = [*re.finditer(rf'{mark}(\d+)(begin|end)', text)]
  ends = {end[1]: end for end in found if end[2] == 'end'}
  pieces: list[str] = []
  at = 0
  for begin in found:
    if begin.start() < at:
      continue
    end = ends.get(begin[1])
    if begin[2] == 'end' or end is None or end.start() < begin.start():
      pieces.append(text[at : begin.start()])  # half a block stays as the extractor left it
      at = begin.end()
      continue
    before, line_break, line = text[at : begin.start()].rpartition('\n')
    if line.strip('|-•* \t'):
      line_break, line = f'{line_break}{line.rstrip()}', '\n'
    else:  # marks of a table or a list
      line = ''
    pieces.append(f'{before}{line_break}{line}{begin[0]}\n')
    rest = _REST.match(text, end.end())
    at = rest.end() if rest else end.end()
  return ''.join([*pieces, text[at:]])


def restore(lines: Iterable[str], blocks: Sequence[str], mark: str) -> str:
  """The lines of `fold` joined, with the blocks in their places."""
  known = {_marks(mark, i)[0]: block for i, block in enumerate(blocks)}
  return '\n'.join(known.get(line, line) for line in lines)


def _marks(mark: str, i: int) -> tuple[str, str]:
  return f'{mark}{i}begin', f'{mark}{i}end'


def _code(inside: str) -> str:
  """The text of the content of a block."""
  text = _COMMENT.sub('', inside.replace('\r\n', '\n').replace('\r', '\n'))
  text = _TAG.sub('', _LINE_END.sub('\n', _BREAK.sub('\n', text)))
  text = _CONTROL.sub('', html.unescape(text).replace('\xa0', ' '))
  if not text.isascii():
    text = text.encode('utf-8', 'ignore').decode('utf-8')
  # As in browsers, the first line break of a block is none.
  return text.removeprefix('\n').rstrip()


def _stands_alone(text: str, block: Block) -> bool:
  """Whether an element <code> has lines and is all that its parent holds."""
  inside = text[block.inside : block.after].strip()
  if '\n' not in inside and '<br' not in inside.lower():
    return False
  before = text[max(0, block.start - 200) : block.start].rstrip()
  return before.endswith('>') and text[block.end : block.end + 200].lstrip().startswith('</')


def _counts(code: str) -> bool:
  """Whether each line is the number of a line."""
  numbers = code.split()
  if not all(n.isdecimal() and n.isascii() and len(n) < 8 for n in numbers):
    return False
  first = int(numbers[0])
  return [int(n) for n in numbers] == [*range(first, first + len(numbers))]


def _is_beside(text: str, block: Block, blocks: Sequence[Block]) -> bool:
  """Whether another block follows in the next cell of a table."""
  after = text[block.end : block.end + 1000]
  cell = re.match(r'\s*(?:</div>\s*)*</t[dh]>\s*<t[dh]\b[^>]*>\s*(?:<div\b[^>]*>\s*)*', after, re.I)
  return bool(cell) and any(other.start == block.end + cell.end() for other in blocks)

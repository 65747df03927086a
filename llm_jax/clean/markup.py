"""What can be told of HTML before it is parsed: how deep it nests, and where its code blocks are.

Parsers go down once for each element that is open, and some end the process when they come too
deep. So tags are counted here first, in one pass and without recursion.
"""

import html
import re
from collections import Counter
from typing import NamedTuple

# All that begins with '<': a comment; an element that holds text to its end; a tag that matters
# here; any other tag. Each matches to its end or swallows the rest, as in browsers, so nothing is
# looked at twice. The order of alternatives is that of how much they ask.
_ATTRIBUTES = r'(?:[^>=]++|=\s*+"[^"]*"|=\s*+\'[^\']*\'|=)*+'
_MARKUP = re.compile(
  rf"""<(?:
    /?+(?:p|li|td|tr|th|br|img|dd|dt|a)(?=[\s/>]){_ATTRIBUTES}(?:>|\Z)
  | /([a-z][^\s/>]*+)[^>]*+(?:>|\Z)
  | (script|style|textarea|title|xmp|iframe|noembed|noframes)(?=[\s/>])({_ATTRIBUTES})
    (?:>(.*?)</\2(?=[\s/>])[^>]*+(?:>|\Z)|.*)
  | ([a-z][^\s/>]*+)({_ATTRIBUTES})(?:>|(\Z))
  | !--(?:.*?-->|.*)
  )""",
  re.I | re.S | re.X,
)
_END, _RAW, _RAW_ATTRIBUTES, _CONTENT, _START, _START_ATTRIBUTES, _CUT = range(1, 8)
# Empty elements, and those that the next of their kind closes; what holds the latter is counted.
_NOT_COUNTED = frozenset(
  re.findall(
    r'\w+',
    """area base basefont bgsound br col command embed frame hr image img input keygen link meta
    param source track wbr
    a body caption colgroup dd dt head html li optgroup option p plaintext rb rp rt rtc tbody td
    tfoot th thead tr""",
  )
)
_FOREIGN = ('svg', 'math')
_LANGUAGE = re.compile(r'(?<![\w:-])lang\s*=\s*["\']?([\w-]{2,20})', re.I)
_MAX_TITLE = 1000
_NAME = re.compile(r'</?[a-zA-Z][\w:-]*')
_LONG_TAG = 5000  # parsers compare each attribute with all before it


class Block(NamedTuple):
  """An element <pre>, or <code> outside of one.

  Attributes:
    name: 'pre' or 'code'.
    start: where its start tag begins.
    inside: where its content begins.
    after: where its content ends.
    end: where its end tag ends.
  """

  name: str
  start: int
  inside: int
  after: int
  end: int


class Outline(NamedTuple):
  """What was found in one pass.

  Attributes:
    depth: the largest number of elements that are open at once, by tags that have to be closed.
    tags: how many tags and comments there are.
    title: of the page, in one line; '' if it has none.
    language: of the attribute `lang` of <html>; '' if it has none.
    blocks: the outermost <pre> and <code> that have an end, in order.
    cuts: (start, end, instead) of what an extractor can do without: scripts and styles, other than
      data in JSON, and the attributes of tags with very many.
  """

  depth: int
  tags: int
  title: str
  language: str
  blocks: list[Block]
  cuts: list[tuple[int, int, str]]


def outline(text: str) -> Outline:
  """Looks through a page once; takes time in proportion to its length, whatever is in it.

  >>> outline('<div><p>a<p>b<br><pre>c</pre></div>')[:2]
  (2, 7)
  """
  open_tags: Counter[str] = Counter()
  depth = deepest = tags = 0
  title = language = ''
  blocks: list[Block] = []
  cuts: list[tuple[int, int, str]] = []
  block: tuple[str, int, int] | None = None
  for found in _MARKUP.finditer(text):
    tags += 1
    start, end = found.span()
    kind = found.lastindex
    if end - start > _LONG_TAG and (name := _NAME.match(text, start)) and not found[_RAW]:
      cuts.append((start, end, f'{name[0]}>'))
    if kind is None:  # a tag that is passed over, or a comment
      continue
    if kind == _END:
      name = found[_END].lower()
      if open_tags[name]:
        open_tags[name] -= 1
        depth -= 1
        if block and name == block[0] and not open_tags[name]:
          blocks.append(Block(*block, start, end))
          block = None
    elif found[_START]:
      name, attributes = found[_START].lower(), found[_START_ATTRIBUTES]
      if name in _NOT_COUNTED:
        if name == 'html' and not language:
          lang = _LANGUAGE.search(attributes)
          language = lang[1] if lang else ''
        continue
      if attributes.endswith('/') and (open_tags['svg'] or open_tags['math'] or name in _FOREIGN):
        continue
      open_tags[name] += 1
      depth += 1
      deepest = max(deepest, depth)
      if (name == 'pre' and (not block or block[0] == 'code')) or (name == 'code' and not block):
        block = name, start, end
    elif found[_RAW].lower() == 'title':
      title = title or ' '.join(html.unescape(found[_CONTENT] or '').split())[:_MAX_TITLE]
    elif (
      found[_RAW].lower() in ('script', 'style') and 'json' not in found[_RAW_ATTRIBUTES].lower()
    ):
      cuts.append((start, end, ''))
  return Outline(deepest, tags, title, language, blocks, cuts)

"""The text of a page out of its HTML, by trafilatura or, ten times as fast, by resiliparse.

The text depends on the page and the options alone. What a library would remember of other pages is
switched off, and size and nesting decide what is too much, so that no clock has to.
"""

import contextlib
import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from llm_jax.clean import code_blocks
from llm_jax.clean.boilerplate import is_boilerplate
from llm_jax.clean.charset import decode
from llm_jax.clean.extra import library
from llm_jax.clean.markup import Outline, outline
from llm_jax.clean.page import Limit, Page, Rule, Value
from llm_jax.options import Count, Seconds, within

# White space between these is not shown, and costs the parser and all that walks its tree a node.
_BETWEEN = re.compile(
  r'>\s++<(?=/?(?:table|thead|tbody|tfoot|tr|t[dh]|div|section|article|p|h[1-6])[\s/>])', re.I
)
# Choices of a form, which are no text. resiliparse needs longer for each than for the one before.
_CHOICE = re.compile(
  r'<select\b[^<]*+(?:<(?!/?select\b)[^<]*+)*+</select\s*>|</?(?:option|optgroup|select)\b[^>]*>',
  re.I,
)
_LIST = re.compile(r'<(/?)[uo]l\b', re.I)
_ITEM = re.compile(r'<li\b([^>]*)>', re.I)  # its end tag ends no paragraph, and need not
Engine = Callable[[str], str]
READS = ('body',)  # a source of HTML needs such a step


class _Timeout(Exception):
  """The time for a page is over."""


def make(
  *,
  engine: Literal['trafilatura', 'resiliparse'] = 'trafilatura',
  comments: bool = False,
  tables: bool = True,
  links: bool = False,
  boilerplate: bool = False,
  fast_above: Count = 2_000_000,
  fast_above_tags: Count = 30_000,
  max_depth: Annotated[int, within(1, 1000)] = 250,
  seconds: Seconds = 60.0,
) -> Rule:
  """From the body of a page to its text, with code blocks as they were written.

  A page that came as text passes as it is. Reasons to drop a page are 'deep', 'timeout' and
  'empty'. The meta gets `title`, `charset`, and `html_language` where the page declares one.

  Args:
    engine: 'trafilatura' finds the article best; 'resiliparse' takes a tenth of the time, and lets
      more of what surrounds it through.
    comments: keep what readers wrote below the article.
    tables: keep tables, a row a line.
    links: keep the addresses of links.
    boilerplate: keep lines such as 'Read more' and 'Accept all cookies'; see `boilerplate.py`.
    fast_above: characters of HTML above which resiliparse does the work, since trafilatura takes
      minutes for some pages of this size.
    fast_above_tags: the same for the number of tags, which decides how long it takes.
    max_depth: how deep elements may nest. A deeper page is dropped before a parser sees it.
    seconds: after which a page is dropped; a last guard, which no page should meet.
  """
  fast = _resiliparse(comments=comments, links=links, tables=tables)
  chosen = _trafilatura(comments, tables, links) if engine == 'trafilatura' else fast

  def measure(page: Page) -> tuple[Page, Mapping[str, Value]]:
    if not page.body:
      return page, {'characters': len(page.text.strip())}
    html, charset, replaced = decode(page.body, page.meta.get('content_type', ''))
    found = outline(html)
    values: dict[str, Value] = {
      'html_characters': len(html),
      'replaced_characters': replaced,
      'depth': found.depth,
      'tags': found.tags,
      'too_deep': int(found.depth > max_depth),
      'timed_out': 0,
    }
    text = ''
    if not values['too_deep']:
      try:
        with _limited(seconds):
          large = len(html) > fast_above or found.tags > fast_above_tags
          text = _text(html, found, fast if large else chosen, boilerplate)
      except _Timeout:
        values['timed_out'] = 1
    values['characters'] = len(text)
    meta = {'title': found.title, 'charset': charset, 'html_language': found.language}
    return page.edited(text, **{name: value for name, value in meta.items() if value}), values

  # Fixed, so that nobody moves a limit whose text was never made.
  limits = (
    Limit('deep', 'too_deep', high=0),
    Limit('timeout', 'timed_out', high=0),
    Limit('empty', 'characters', low=1),
  )
  return Rule(measure, limits)


def _text(html: str, found: Outline, engine: Engine, boilerplate: bool) -> str:
  """The text that an engine finds, cleaned by lines, with code blocks in their places."""
  hidden, blocks, mark = code_blocks.hide(html, found)
  text = engine(hidden)
  if not text.isascii():
    text = text.encode('utf-8', 'ignore').decode('utf-8')
  folded = code_blocks.fold(text.replace('\0', ''), mark) if blocks else text.replace('\0', '')
  lines = [line.rstrip() for line in folded.split('\n')]
  lines = [line for line in lines if line != '-']  # an item without text
  if not boilerplate:
    lines = [line for line in lines if not line or not is_boilerplate(line)]
  return code_blocks.restore(lines, blocks, mark).strip('\n')


def _trafilatura(comments: bool, tables: bool, links: bool) -> Engine:
  """trafilatura without `deduplicate`, whose result depends on the pages that came before."""
  extract = library('trafilatura', "engine 'trafilatura'").extract
  logging.getLogger('trafilatura').setLevel(logging.CRITICAL)  # one line a page otherwise

  def engine(html: str) -> str:
    options = {
      'include_comments': comments,
      'include_tables': tables,
      'include_links': links,
      'deduplicate': False,
    }
    return _guarded(lambda: extract(_BETWEEN.sub('><', html), **options)) or ''

  return engine


def _resiliparse(*, comments: bool, tables: bool, links: bool) -> Engine:
  """resiliparse with everything off that one can do without."""
  extract = library('resiliparse.extract.html2text', 'extracting').extract_plain_text
  skip = [] if tables else ['table']

  def engine(html: str) -> str:
    # It loses lists of links and nested lists, also in the middle of an article; paragraphs stay.
    html = _ITEM.sub(r'<p\1>- ', _LIST.sub(r'<\1div', _CHOICE.sub('', html)))
    options: dict[str, Any] = {
      'main_content': True,
      'alt_texts': False,
      'links': links,
      'comments': comments,
      'skip_elements': skip,
    }
    return _guarded(lambda: extract(html, **options)) or ''

  return engine


def _guarded(extract: Callable[[], str | None]) -> str | None:
  """What an engine says of a page; None where it gives up, as on a page that is not HTML."""
  try:
    return extract()
  except _Timeout:
    raise
  except Exception:  # of their own kinds, of lxml's, RecursionError ...: one page, not the run
    return None


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
  """Raises `_Timeout` inside when the time is over, in the main thread of a process on Unix."""
  main = threading.current_thread() is threading.main_thread()
  if not main or not hasattr(signal, 'setitimer') or signal.getitimer(signal.ITIMER_REAL)[0]:
    yield
    return

  def over(number: int, frame: Any) -> None:
    raise _Timeout

  before = signal.signal(signal.SIGALRM, over)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)

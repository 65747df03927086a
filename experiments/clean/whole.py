"""All text that a page shows, as in the WET files of a crawl: menus and footers too."""

from collections.abc import Mapping

from llm_jax.clean.charset import decode
from llm_jax.clean.extra import library
from llm_jax.clean.page import Limit, Page, Rule, Value

READS = ('body',)


def make() -> Rule:
  """From the body of a page to its whole text; a page that came as text passes as it is."""
  extract = library('resiliparse.extract.html2text', 'extracting').extract_plain_text

  def measure(page: Page) -> tuple[Page, Mapping[str, Value]]:
    if not page.body:
      return page, {'characters': len(page.text.strip())}
    html, _, _ = decode(page.body, page.meta.get('content_type', ''))
    text = extract(html, main_content=False, alt_texts=False, links=False)
    text = text.replace('\0', '').encode('utf-8', 'ignore').decode()
    return page.edited(text), {'characters': len(text.strip())}

  return Rule(measure, (Limit('empty', 'characters', low=1),))

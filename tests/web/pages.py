"""What a page holds, and what goes wrong while a browser shows it."""

from html.parser import HTMLParser


class Elements(HTMLParser):
  """All elements of a page, as (tag, attributes)."""

  def __init__(self, html):
    super().__init__()
    self.found = []
    self.feed(html)

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))


def watched(context):
  """A new tab whose errors, and what its policy refused, go to `context.faults`."""
  page = context.new_page()
  page.on('pageerror', lambda error: context.faults.append(str(error)))
  refused = lambda message: 'Content Security Policy' in message.text
  page.on('console', lambda m: context.faults.append(m.text) if refused(m) else None)
  page.on('dialog', lambda dialog: dialog.accept())
  return page

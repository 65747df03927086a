"""Lines that belong to a web site and not to the text of a page."""

import re

MAX_LETTERS = 80  # a longer line is never one of these

# Each describes a whole line, without its punctuation and arrows, in lower case.
LINES = (
  # Consent.
  r'(?:accept|reject|allow|decline) (?:all(?: cookies)?|cookies)',
  r'(?:manage|cookie|privacy)(?: my| your| cookie)? (?:preferences|settings|choices|policy|notice)',
  r'(?:we|this (?:web)?site) uses? cookies\b.{0,50}',
  r'by (?:continuing|using|browsing)\b.{0,40}\bcookies?\b.{0,20}',
  # Sharing.
  r'share(?: this)?(?: (?:article|post|page|story|on|via|with|to)\b.{0,40})?',
  r'(?:tweet|pin it|follow us|like us|email this|print this|print page)(?: on\b.{0,40})?',
  # More elsewhere.
  r'(?:read|see|show|view|load|learn) (?:more|all|less)(?: (?:articles|posts|news|stories))?',
  r'(?:continue reading|click here|skip to (?:main )?content|back to (?:the )?top)',
  r'(?:related|recommended|popular|more) (?:articles|posts|stories|news)',
  r'(?:you (?:may|might) also (?:like|enjoy)|advertisement|sponsored content)',
  # Accounts.
  r'(?:sign|log)[ -]?(?:in|up|out)(?: now| here)?|register(?: now)?|create an account',
  r'(?:subscribe|sign up) (?:for|to) (?:our|the) (?:newsletter|mailing list)\b.{0,40}',
  r'subscribe(?: now)?',
  r'(?:post|leave|add|write) a comment|leave a reply|(?:no|\d+) comments?',
  r'all rights reserved',
)
_LINE = re.compile('|'.join(f'(?:{line})' for line in LINES))
_EDGES = re.compile(r'^[\W_]+|[\W_]+$')


def is_boilerplate(line: str) -> bool:
  """Whether a line says nothing but, for example, that there is more to read.

  >>> is_boilerplate('Read more »'), is_boilerplate('Read more poetry, he said.')
  (True, False)
  """
  if len(line) > MAX_LETTERS or line.startswith('|'):  # a row of a table
    return False
  return _LINE.fullmatch(_EDGES.sub('', line).lower()) is not None

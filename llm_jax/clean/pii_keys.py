"""Keys and tokens of services in a text, by the marks that their makers gave them.

Long strings that only look random are left alone: hashes, identifiers and data do as well.
"""

import re
from collections.abc import Callable, Iterator

from llm_jax.clean.pii_addresses import Span

_ALONE = r'(?<![A-Za-z0-9_\-])'
_BASE64 = r'[A-Za-z0-9_\-]{6,}'
_END = r'(?![A-Za-z0-9_\-])'


def _mixed(text: str) -> bool:
  """Whether a text has digits and both cases, as random ones have and words have not."""
  return all(re.search(part, text) for part in ('[0-9]', '[a-z]', '[A-Z]'))


# What a text has to hold, the key around it, and what else has to be true of it.
_KEYS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = tuple(
  (mark, re.compile(pattern), test)
  for mark, pattern, test in (
    ('AKIA', rf'{_ALONE}AKIA[A-Z2-7]{{16}}{_END}', bool),  # Amazon
    ('ASIA', rf'{_ALONE}ASIA[A-Z2-7]{{16}}{_END}', bool),
    ('AIza', rf'{_ALONE}AIza[A-Za-z0-9_\-]{{35}}{_END}', bool),  # Google
    *((f'gh{kind}_', rf'{_ALONE}gh{kind}_[A-Za-z0-9]{{36,255}}{_END}', bool) for kind in 'pousr'),
    ('github_pat_', rf'{_ALONE}github_pat_[A-Za-z0-9_]{{40,255}}{_END}', bool),  # GitHub
    ('glpat-', rf'{_ALONE}glpat-[A-Za-z0-9_\-]{{20,64}}{_END}', _mixed),  # GitLab
    ('hf_', rf'{_ALONE}hf_[A-Za-z]{{30,40}}{_END}', bool),  # Hugging Face
    ('npm_', rf'{_ALONE}npm_[A-Za-z0-9]{{36}}{_END}', bool),
    ('xox', rf'{_ALONE}xox[abeoprs]-[A-Za-z0-9\-]{{10,250}}{_END}', bool),  # Slack
    ('sk-', rf'{_ALONE}sk-[A-Za-z0-9_\-]{{20,250}}{_END}', _mixed),  # OpenAI, Anthropic
    ('k_live_', rf'{_ALONE}[sr]k_live_[A-Za-z0-9]{{16,250}}{_END}', bool),  # Stripe
    # JSON web tokens, RFC 7519: two parts begin with '{"' in Base64.
    ('eyJ', rf'{_ALONE}eyJ{_BASE64}\.eyJ{_BASE64}\.{_BASE64}', bool),
    (
      'PRIVATE KEY',  # RFC 7468; without its end, the lines of Base64 that follow
      r'-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----'
      r'(?:(?:[^-]|-(?!----)){0,20000}-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----'
      r'|(?:\s*[A-Za-z0-9+/=]{40,})*)',
      bool,
    ),
  )
)


def keys(text: str) -> Iterator[Span]:
  """Where keys, tokens and private key blocks stand; those of one kind after those of another.

  >>> text = 'key AKIAIOSFODNN7EXAMPLE of sk-learn-like-words-that-are-long'
  >>> [text[a:b] for a, b in keys(text)]
  ['AKIAIOSFODNN7EXAMPLE']
  """
  for mark, pattern, test in _KEYS:
    if mark in text:
      yield from (found.span() for found in pattern.finditer(text) if test(found[0]))

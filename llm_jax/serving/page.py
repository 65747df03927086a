"""Pages of the server: a file of HTML each, and headers under which nothing else can run in it."""

import base64
import hashlib
import re
from pathlib import Path

import llm_jax

WEB = Path(llm_jax.__file__).parent / 'web'
FILES = {'/': WEB / 'chat.html', '/tokens': WEB / 'tokens.html'}
_INLINE = re.compile(r'<(script|style)\b[^>]*>(.*?)</\1\s*>', re.DOTALL | re.IGNORECASE)


def read(file: Path) -> tuple[bytes, dict[str, str]] | None:
  """The page and its headers; None where there is none."""
  if not file.is_file():
    return None
  content = file.read_bytes()
  return content, {
    'content-security-policy': policy(content.decode()),
    'cache-control': 'no-cache',
    'referrer-policy': 'no-referrer',
    'x-frame-options': 'DENY',
    'cross-origin-opener-policy': 'same-origin',
  }


def pages() -> dict[str, tuple[bytes, dict[str, str]]]:
  """The pages that are there, by their paths."""
  return {path: found for path, file in FILES.items() if (found := read(file))}


def policy(html: str) -> str:
  """A Content-Security-Policy that allows the scripts and styles of a page, by their hashes.

  >>> policy('<script>1</script>')[:52]
  "default-src 'self'; script-src 'sha256-a4ayc/80/OGda"
  """
  found: dict[str, list[str]] = {'script': [], 'style': []}
  for kind, text in _INLINE.findall(html):
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    found[kind.lower()].append(f"'sha256-{digest}'")
  allowed = lambda kind: ' '.join(found[kind]) or "'none'"
  rules = [
    "default-src 'self'",
    f'script-src {allowed("script")}',
    f'style-src {allowed("style")}',
    "img-src 'self' data:",
    "object-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ]
  return '; '.join(rules)

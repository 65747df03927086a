"""The page at `/`: one file of HTML, and headers under which nothing else can run in it."""

import base64
import hashlib
import re
from pathlib import Path

import llm_jax

FILE = Path(llm_jax.__file__).parent / 'web' / 'chat.html'
_INLINE = re.compile(r'<(script|style)\b[^>]*>(.*?)</\1\s*>', re.DOTALL | re.IGNORECASE)


def read(file: Path = FILE) -> tuple[bytes, dict[str, str]] | None:
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

"""Pages out of WARC and WET files, ISO 28500, as Common Crawl and others write them.

The reader is our own: what it makes of a damaged file must not depend on which library is there,
and FastWARC and warcio go on differently behind damage. The tests hold it against both.
"""

import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO

from llm_jax.clean.inflate import Broken, Stream, TooLarge, payload
from llm_jax.clean.page import Page, Split

MAX_BYTES = 50_000_000
_MAX_LINE = 1 << 16
_MAX_HEADER = 1 << 18  # bytes of all header lines of a record together
_CHUNK = 1 << 16
_VERSION = re.compile(rb'WARC/\d+\.\d+[ \t]*\r?\n')
_STATUS = re.compile(rb'HTTP/\d(?:\.\d)?[ \t]+(\d{3})\b')
_CHUNK_SIZE = re.compile(rb'[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n')
_SNIFF = re.compile(
  rb'(?:\xef\xbb\xbf)?\s*(?><!--.{0,2000}?-->\s*)*+<(?:!doctype html|html|head|body)', re.I | re.S
)
_HTML = ('text/html', 'application/xhtml+xml')
_NO_PAGES = ('warcinfo', 'request', 'metadata', 'revisit', 'continuation')


def read(
  file: str | BinaryIO,
  split: Split,
  counts: Counter[str],
  *,
  max_bytes: int = MAX_BYTES,
  statuses: Collection[int] = (200,),
) -> Iterator[Page]:
  """The pages of a file, in order: HTML as it was served, or the text of a WET file.

  The meta of a page has, where it is known: `content_type`, `date`, `record_id`, `status`,
  `languages` (what a crawler found, as ISO 639-3) and `truncated` (why a crawler stopped early).

  Args:
    file: a path, or a binary file that is open. Gzip and Zstandard are told by the first bytes.
    split: from a text to its words.
    counts: kind -> how many records, or places of damage, were no page; grows while pages are read.
      Records of other types are 'warcinfo', 'request', 'metadata', 'revisit', 'continuation' and
      'other_type'. Records that could be a page are 'status', 'not_html', 'not_text', 'empty_body',
      'too_large', 'broken_http' and 'broken_encoding'. Damage is 'broken_record',
      'truncated_record' and 'broken_compression'.
    max_bytes: of a page, as stored and as decoded. A larger one is passed over, not held.
    statuses: of HTTP, whose responses are pages.
  """
  with open(file, 'rb') if isinstance(file, str) else io.BytesIO() as opened:
    stream = Stream(opened if isinstance(file, str) else file)
    lines = io.BufferedReader(stream, 1 << 17)
    while (head := _next_head(lines, counts)) is not None:
      block = _block(lines, head, max_bytes, counts)
      page = None if block is None else _page(head, block, split, counts, max_bytes, statuses)
      if page is not None:
        yield page
    if stream.broken:
      counts['broken_compression'] += 1


def _next_head(lines: BinaryIO, counts: Counter[str]) -> dict[str, str] | None:
  """The header of the next record with a length; None at the end."""
  lost = False
  while line := lines.readline(_MAX_LINE):
    if not _VERSION.fullmatch(line):
      if line.strip() and not lost:
        counts['broken_record'] += 1
        lost = True
      continue
    lost = False
    head = _head(lines)
    if head is not None and re.fullmatch(r'[0-9]{1,15}', head.get('content-length', '')):
      return head
    counts['broken_record'] += 1
    lost = True
  return None


def _head(lines: BinaryIO) -> dict[str, str] | None:
  """Names in lower case -> values, up to the empty line; None if it does not come in time."""
  raw = bytearray()
  while (line := lines.readline(_MAX_LINE)) not in (b'\r\n', b'\n'):
    raw += line
    if not line.endswith(b'\n') or len(raw) > _MAX_HEADER:
      return None
  return fields(bytes(raw))


def fields(raw: bytes) -> dict[str, str]:
  """Header lines as WARC, HTTP and mail have them: the first value of each name, in lower case.

  >>> fields(b'Content-Type: text/html;\\r\\n charset=utf-8\\r\\nnonsense\\r\\n')
  {'content-type': 'text/html; charset=utf-8'}
  """
  text = re.sub(r'\r?\n[ \t]+', ' ', raw.decode('utf-8', 'replace'))
  found: dict[str, str] = {}
  for line in re.split(r'\r?\n', text):
    name, colon, value = line.partition(':')
    if colon:
      found.setdefault(name.strip().lower(), value.strip().replace('\0', ''))
  return found


def _block(
  lines: BinaryIO, head: Mapping[str, str], max_bytes: int, counts: Counter[str]
) -> bytes | None:
  """What a record holds; None, and counted, if that cannot become a page."""
  length, kind = int(head['content-length']), head.get('warc-type', '').lower()
  if kind in _NO_PAGES:
    reason = kind
  elif kind not in ('response', 'resource', 'conversion'):
    reason = 'other_type'
  else:
    reason = 'too_large' if length > max_bytes + _MAX_HEADER else ''
  block, left = bytearray(), length
  while left and (data := lines.read(min(left, _CHUNK))):
    left -= len(data)
    if not reason:
      block += data
  if left:
    reason = 'truncated_record'
  if not reason:
    return bytes(block)
  counts[reason] += 1
  return None


def _page(
  head: Mapping[str, str],
  block: bytes,
  split: Split,
  counts: Counter[str],
  max_bytes: int,
  statuses: Collection[int],
) -> Page | None:
  """The page of a record; None, and counted, if it has none."""
  meta: dict[str, Any] = {
    'content_type': head.get('content-type', ''),
    'date': head.get('warc-date', ''),
    'record_id': head.get('warc-record-id', '').strip('<>'),
    'languages': head.get('warc-identified-content-language', ''),
    'truncated': head.get('warc-truncated', ''),
  }
  text, body = '', block
  if head['warc-type'].lower() == 'conversion':
    text, body = block.decode('utf-8', 'replace').replace('\0', ''), b''
    reason = '' if meta['content_type'].lower().startswith('text/plain') else 'not_text'
  elif meta['content_type'].lower().startswith('application/http'):
    body, reason = _response(block, meta, max_bytes, statuses)
  else:
    reason = '' if head['warc-type'].lower() == 'resource' else 'not_html'  # as for DNS
  declared = meta['content_type'] or head.get('warc-identified-payload-type', '')
  if not reason and body and not is_html(declared, body):
    reason = 'not_html'
  if not reason and len(body) > max_bytes:
    reason = 'too_large'
  if not reason and not (text.strip() or body.strip()):
    reason = 'empty_body'
  if reason:
    counts[reason] += 1
    return None
  url = head.get('warc-target-uri', '').strip('<>')
  return Page(url, text, split, body, {name: value for name, value in meta.items() if value})


def _response(
  block: bytes, meta: dict[str, Any], max_bytes: int, statuses: Collection[int]
) -> tuple[bytes, str]:
  """The decoded body of an HTTP response, and why it is none; `meta` gets what its header says."""
  start = _STATUS.match(block)
  end = re.search(rb'\r?\n\r?\n', block[:_MAX_HEADER])
  if not start or not end:
    return b'', 'broken_http'
  http = fields(block[block.find(b'\n') + 1 : end.end()])
  meta |= {'status': int(start[1]), 'content_type': http.get('content-type', '')}
  if meta['status'] not in statuses:
    return b'', 'status'
  body = block[end.end() :]
  if 'chunked' in http.get('transfer-encoding', '').lower():
    body = unchunked(body)
  if not is_html(meta['content_type'], b'<html>'):  # before it is decoded for nothing
    return b'', 'not_html'
  try:
    return payload(body, http.get('content-encoding', ''), max_bytes), ''
  except TooLarge:
    return b'', 'too_large'
  except Broken:
    return b'', 'broken_encoding'


def unchunked(body: bytes) -> bytes:
  """A body in chunks, RFC 9112, joined, as far as it goes.

  One that does not begin with a chunk is taken as it is, as many archives store bodies decoded and
  keep the header.

  >>> unchunked(b'3\\r\\nabc\\r\\n1\\r\\nd\\r\\n0\\r\\n\\r\\n'), unchunked(b'<html>')
  (b'abcd', b'<html>')
  """
  parts, at = [], 0
  while found := _CHUNK_SIZE.match(body, at):
    size = int(found[1], 16)
    parts.append(body[found.end() : found.end() + size])
    at = found.end() + size
    at += 2 if body[at : at + 2] == b'\r\n' else 1 if body[at : at + 1] == b'\n' else 0
    if not size:
      break
  return b''.join(parts) if parts else body


def is_html(content_type: str, body: bytes) -> bool:
  """Whether a content type says HTML; where there is none, whether the body begins like it."""
  kind = content_type.partition(';')[0].strip().lower()
  return kind in _HTML if kind else bool(_SNIFF.match(body[:8192]))

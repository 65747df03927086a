"""Bytes of a page to text: which charset it is in, as browsers decide it and where they are wrong.

Labels mean what https://encoding.spec.whatwg.org says: 'latin1' is windows-1252 and 'gb2312' is
gb18030. Other than a browser, a page is read as UTF-8 wherever that is possible, and a charset that
was declared is given up where the bytes contradict it.
"""

import codecs
import re
from typing import NamedTuple

from llm_jax.clean.extra import library

_DETECTED = 1 << 16  # bytes that detection looks at
_PRESCAN = 4096
_META = re.compile(
  rb'<(?:meta|\?xml)[^>]{0,1000}?(?:charset|encoding)\s*=\s*["\']?\s*([\w:.-]{1,40})', re.I
)
_HEADER = re.compile(r'charset\s*=\s*["\']?\s*([\w:.-]{1,40})', re.I)
_BOMS = ((b'\xef\xbb\xbf', 'utf-8'), (b'\xff\xfe', 'utf-16-le'), (b'\xfe\xff', 'utf-16-be'))
# Python's codecs that read everything that browsers read under the same label.
_WIDER = {
  'gbk': 'gb18030',
  'euc_kr': 'cp949',
  'shift_jis': 'cp932',
  'big5': 'big5hkscs',
  'iso8859-11': 'cp874',
  'iso2022_jp': 'iso2022_jp_ext',
}
_WIDE = ('gb18030', 'cp949', 'cp932', 'big5hkscs', 'euc_jp')
# Letters of Chinese, Japanese and Korean, and the marks that stand between them.
_EAST = re.compile('[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7a3\uff00-\uffef]')
_NOT_ASCII = re.compile('[^\x00-\x7f]')
_HIGH = bytes(range(128, 256))
_RUN = re.compile(rb'[\x80-\xff]{3,}')
_LONGER = re.compile(rb'[\xe0-\xf4]')  # begins a character of three or four bytes in UTF-8


class Decoded(NamedTuple):
  """The text of a page.

  Attributes:
    text: without a byte order mark, NUL, or halves of surrogate pairs.
    charset: the name of Python's codec.
    replaced: how many U+FFFD stand for bytes that are none of its characters.
  """

  text: str
  charset: str
  replaced: int


def decode(body: bytes, content_type: str = '') -> Decoded:
  """A page as text, whatever it is.

  In this order: a byte order mark; UTF-8 if it is valid; the charset of the HTTP header, of the
  page's own declaration, UTF-8 with a few errors, and detection, the first of which fits the bytes;
  windows-1252.

  Args:
    body: of the page, as served.
    content_type: the HTTP header, such as 'text/html; charset=utf-8'; '' where there is none.

  >>> decode('na\\u00efve'.encode(), 'text/html; charset=latin1')[:2]
  ('naïve', 'utf-8')
  >>> decode('\\u4e2d\\u6587\\u20ac'.encode('gb18030'), 'text/html; charset=gb2312')[:2]
  ('中文€', 'gb18030')
  """
  for mark, name in _BOMS:
    if body.startswith(mark):
      return _decoded(body[len(mark) :], name)
  header = _HEADER.search(content_type)
  meta = _META.search(body[:_PRESCAN])
  header, meta = (found and codec(found[1]) for found in (header, meta))
  if meta and meta.startswith('utf-16'):  # it could not have been read
    meta = 'utf-8'
  declared = [name for name in dict.fromkeys((header, meta)) if name]
  if wide := _utf_16(body, declared):
    return _decoded(body, wide)
  jis = 'iso2022_jp_ext'  # of seven bits, hence valid UTF-8
  if b'\x1b' in body and (jis in declared or (b'\x1b$' in body and _detected(body) == jis)):
    return _decoded(body, jis)
  if _is_utf_8(body, declared):
    return _decoded(body, 'utf-8')
  return _fitting(body, declared)


def codec(label: str | bytes) -> str | None:
  """Python's codec for a label of the web, or None for one that browsers do not know.

  >>> codec('Latin1'), codec('gb2312'), codec('utf-7'), codec('rot13')
  ('cp1252', 'gb18030', None, None)
  """
  text = label.decode('ascii', 'replace') if isinstance(label, bytes) else label
  map_label = library('resiliparse.parse.encoding', 'reading HTML').map_encoding_to_html5
  name = map_label(text.strip().lower(), fallback_utf8=False)
  return _WIDER.get(name, name) if name else None


def _utf_16(body: bytes, declared: list[str]) -> str | None:
  """UTF-16 without a byte order mark: declared, or told by the NULs of ASCII letters."""
  start = body[:_PRESCAN]
  low, high = start[0::2].count(0), start[1::2].count(0)
  names = [name for name in declared if name.startswith('utf-16')]
  if high > 4 * low and high > len(start) / 5:
    return 'utf-16-le'
  if low > 4 * high and low > len(start) / 5:
    return 'utf-16-be'
  return names[0] if names and not _valid(body, 'utf-8') else None


def _is_utf_8(body: bytes, declared: list[str]) -> bool:
  """Whether a page is valid UTF-8 and not, by accident, a short one in a charset of East Asia.

  A few words of Chinese in GBK can be valid UTF-8, though of characters of two bytes only.
  """
  if not _valid(body, 'utf-8'):
    return False
  east = [name for name in declared if name in _WIDE]
  if body.isascii() or not east or 'utf-8' in declared or _LONGER.search(body):
    return True
  return not any(_valid(body, name) and _east(body.decode(name)) for name in east)


def _fitting(body: bytes, declared: list[str]) -> Decoded:
  """With the first charset that fits; the one with the fewest errors if none does."""
  detected = _detected(body)
  if detected and _dense(body):
    declared = [name for name in declared if name != 'cp1252']
  # Servers are set to windows-1252 once, for all pages; who wrote this one knew better.
  declared = sorted(declared, key=lambda name: name == 'cp1252')
  tried = []
  for name in dict.fromkeys([*declared, 'utf-8', detected or 'cp1252', 'cp1252']):
    found = _decoded(body, name)
    others = len(_NOT_ASCII.findall(found.text))
    # A cut or a few bytes of advertisement in another charset do not make a page another's.
    if not found.replaced or (name in ('utf-8', *declared) and found.replaced * 25 <= others):
      return found
    tried.append(found)
  return min(tried, key=lambda found: found.replaced)


def _detected(body: bytes) -> str | None:
  encoding = library('resiliparse.parse.encoding', 'reading HTML')
  name = encoding.detect_encoding(body, max_len=_DETECTED, html5_compatible=False)
  return 'cp949' if name == 'cp949' else codec(name) if name else None  # no label of the web


def _dense(body: bytes) -> bool:
  """Whether bytes that are not ASCII stand side by side, as in no language of Western Europe."""
  others = len(body) - len(body.translate(None, _HIGH))
  return others >= 20 and sum(map(len, _RUN.findall(body))) > others / 2


def _east(text: str) -> bool:
  """Whether nearly all that is not ASCII in a text is Chinese, Japanese or Korean."""
  return len(_EAST.findall(text)) >= 0.9 * len(_NOT_ASCII.findall(text))


def _valid(body: bytes, name: str) -> bool:
  try:
    body.decode(name)
  except UnicodeError:
    return False
  return True


def _decoded(body: bytes, name: str) -> Decoded:
  text = body.decode(name, 'windows_1252' if name == 'cp1252' else 'replace')
  if not text.isascii():
    text = text.encode('utf-8', 'replace').decode('utf-8')
  return Decoded(text.removeprefix('\ufeff').replace('\0', ''), name, text.count('\ufffd'))


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
  """The five bytes that windows-1252 leaves open are control characters on the web."""
  if not isinstance(error, UnicodeDecodeError):
    raise error
  return error.object[error.start : error.end].decode('latin-1'), error.end


codecs.register_error('windows_1252', _as_latin_1)

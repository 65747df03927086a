"""One spelling for a URL, RFC 3986 section 6.2.2, and one key for all URLs of the same page.

Nothing here raises: what is no URL with a scheme and a host has neither.
"""

import re

import idna

# A scheme and an authority are all that makes a text a URL here; 'mailto:a@b.c' names no page.
_URL = re.compile(
  r'([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\\]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?', re.DOTALL
)
_AUTHORITY = re.compile(r'(?:.*@)?(\[[0-9A-Za-z:.%]+\]|[^:\[\]]+)(?::([0-9]*))?', re.DOTALL)
_PORTS = {'http': 80, 'https': 443, 'ws': 80, 'wss': 443, 'ftp': 21}
_ESCAPES = re.compile(r'(?:%[0-9A-Fa-f]{2})+')
_UNRESERVED = frozenset(b'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~')
# What a path or a query may not hold as it is, a '%' that begins no escape among them.
_UNSAFE = re.compile(r"(?:[^A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]|%(?![0-9A-Fa-f]{2}))+")
_NO_HOST = re.compile(r'[\x00-\x20\x7f"#%/<>?@\\^`{|}]')
_LONGEST_HOST = 253  # characters of a name in the DNS
_SESSION_IN_PATH = re.compile(r';(?:jsessionid|phpsessid|sessionid)=[^/;]*', re.IGNORECASE)
_TRACKING = re.compile(
  r'utm_.*|gclid|fbclid|msclkid|yclid|dclid|igshid|mc_cid|mc_eid|_ga|phpsessid|jsessionid|sessionid',
  re.IGNORECASE | re.DOTALL,
)


def normalised(url: str) -> str | None:
  """The URL in its normal form, or None for what is no URL.

  Scheme and host are in lower case and the host as its IDNA form, without a dot at its end; there
  is no default port, no user, no fragment and no empty query. Escapes of unreserved characters are
  decoded and the others in capitals, dot segments are resolved, and an empty path is '/'.

  >>> normalised('HTTP://User@Example.com:80/a/./b/../%7Ec?x=1#top'), normalised('example.com')
  ('http://example.com/a/~c?x=1', None)
  """
  parts = _parts(url)
  if parts is None:
    return None
  scheme, host, path, query = parts
  return f'{scheme}://{host}{path}{"?" if query else ""}{query}'


def key(url: str) -> str | None:
  """The same text for all URLs of one page, or None for what is no URL.

  It is the normal form without the scheme, 'www.', the last '/', and parameters that follow
  visitors or hold their session; the other parameters are sorted.

  >>> key('http://www.example.com/a/?b=2&utm_source=x&a=1') == key('https://example.com/a?a=1&b=2')
  True
  """
  parts = _parts(url)
  if parts is None:
    return None
  _, host, path, query = parts
  if '.' in host[4:]:
    host = host.removeprefix('www.')
  path = _SESSION_IN_PATH.sub('', path).removesuffix('/')
  kept = sorted(
    part for part in query.split('&') if part and not _TRACKING.fullmatch(part.partition('=')[0])
  )
  return host + path + ('?' if kept else '') + '&'.join(kept)


def host_of(url: str) -> str:
  """The host of a URL in its normal form, without its port; '' for what is no URL.

  >>> host_of('https://User@WWW.Example.com.:8080/x')
  'www.example.com'
  """
  parts = _parts(url)
  return re.sub(r':[0-9]*\Z', '', parts[1]) if parts else ''


def _parts(url: str) -> tuple[str, str, str, str] | None:
  """Scheme, host with its port, path and query, each in its normal form."""
  found = _URL.fullmatch(url.strip())
  if not found:
    return None
  scheme, authority = found[1].lower(), _AUTHORITY.fullmatch(found[2])
  if not authority:
    return None
  host, port = _host(authority[1]), authority[2]
  if not host or len(port or '') > 5 or int(port or 0) > 65535:
    return None
  if port and int(port) != _PORTS.get(scheme):
    host += f':{int(port)}'
  return scheme, host, _without_dots(_escaped(found[3])), _escaped(found[4] or '')


def _host(host: str) -> str:
  """A host in lower case and ASCII, without the dot at its end; '' for what no host can be."""
  host = _ESCAPES.sub(lambda found: _bytes(found).decode(errors='replace'), host).lower()
  if len(host) > _LONGEST_HOST or _NO_HOST.search(host):
    return ''
  if not host.isascii():
    try:
      host = idna.encode(host, uts46=True).decode()
    except UnicodeError:
      try:
        host = host.encode('idna').decode()  # of 2003, which has names of emoji
      except UnicodeError:
        return ''
  return host.rstrip('.')


def _bytes(escapes: re.Match[str]) -> bytes:
  return bytes.fromhex(escapes[0].replace('%', ''))


def _escaped(text: str) -> str:
  """A path or query with the escapes it needs, in capitals, and no others."""
  text = _UNSAFE.sub(lambda found: _percent(found[0].encode('utf-8', 'surrogatepass')), text)
  if '%' not in text:
    return text
  return _ESCAPES.sub(
    lambda found: ''.join(
      chr(byte) if byte in _UNRESERVED else f'%{byte:02X}' for byte in _bytes(found)
    ),
    text,
  )


def _percent(data: bytes) -> str:
  return ''.join(f'%{byte:02X}' for byte in data)


def _without_dots(path: str) -> str:
  """RFC 3986 section 5.2.4, for a path that is absolute or empty."""
  if not path.startswith('/'):
    path = f'/{path}'  # an empty one, or browsers' reading of a backslash behind the host
  kept: list[str] = []
  *segments, last = path[1:].split('/')
  for segment in segments:
    if segment == '..':
      del kept[-1:]
    elif segment != '.':
      kept.append(segment)
  if last == '..':
    del kept[-1:]
  return '/' + '/'.join([*kept, '' if last in ('.', '..') else last])

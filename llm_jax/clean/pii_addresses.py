"""E-mail addresses and public IP addresses in a text: where they stand.

The e-mail pattern is that of datatrove, found in linear time because the search begins at the '@'.
Which IP addresses are public is said by a table of ours, after IANA's registries of special-purpose
addresses, since that of Python changes between its versions.
"""

import ipaddress
import re
from collections.abc import Iterator

Span = tuple[int, int]

_LOCAL = "A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_LOCAL_BACKWARDS = re.compile(rf'[{_LOCAL}]+(?:\.[{_LOCAL}]+)*')
_BEGIN = re.compile(rf'\b[{_LOCAL}]')
_LABEL = r'[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?'
DOMAIN = re.compile(rf'(?:{_LABEL}\.)+{_LABEL}')
_OCTET = r'(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)'
DOMAIN_OR_IP = re.compile(
  rf'{DOMAIN.pattern}|\[(?:{_OCTET}\.){{3}}(?:{_OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\]'
)
# Four numbers of a length that an address can have; what touches them is looked at afterwards.
# The first digit stands alone because a search skips to a character much faster than to a repeat.
_FOUR = re.compile(r'[0-9][0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}')
_DATATROVE_FOUR = re.compile(rf'(?:{_OCTET}\.){{3}}{_OCTET}')
_TOUCHES_4 = re.compile(r'[\w.]')
# All that is public begins with 2 or 3, and so its first group has four digits.
_GROUPS = re.compile(r'[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,8}')
_BEFORE_6 = re.compile(r'[\w:.]')
_TOUCHES_6 = re.compile(r'[\w:]|\.[0-9]')

_NOT_PUBLIC_4 = (
  *('0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16'),
  *('172.16.0.0/12', '192.0.0.0/24', '192.0.2.0/24', '192.168.0.0/16', '198.18.0.0/15'),
  *('198.51.100.0/24', '203.0.113.0/24', '240.0.0.0/4'),
)
_PUBLIC_4 = ('192.0.0.9/32', '192.0.0.10/32')
_NOT_PUBLIC_6 = ('2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20')
_PUBLIC_6 = (
  *('2001:1::1/128', '2001:1::2/128', '2001:1::3/128', '2001:3::/32', '2001:4:112::/48'),
  *('2001:20::/28', '2001:30::/28'),
)
_Ranges = tuple[Span, ...]


def _ranges(blocks: tuple[str, ...]) -> _Ranges:
  networks = map(ipaddress.ip_network, blocks)
  return tuple((int(n.network_address), int(n.broadcast_address)) for n in networks)


_OUT_4, _IN_4, _OUT_6, _IN_6 = map(_ranges, (_NOT_PUBLIC_4, _PUBLIC_4, _NOT_PUBLIC_6, _PUBLIC_6))


def emails(text: str, domain: re.Pattern[str] = DOMAIN) -> Iterator[Span]:
  """Where e-mail addresses stand, in order.

  >>> [(3, 9)] == list(emails('at a@b.co, a@b and ä@b.co'))
  True
  """
  after, at = 0, text.find('@')
  while at >= 0:
    before = _LOCAL_BACKWARDS.match(text[after:at][::-1])
    begin = _BEGIN.search(text, at - before.end(), at) if before else None
    end = domain.match(text, at + 1) if begin else None
    if begin and end:
      yield begin.start(), end.end()
    after = end.end() if end else at + 1
    at = text.find('@', after)


def ipv4(text: str) -> Iterator[Span]:
  """Where public IPv4 addresses stand that no word character and no dot touches.

  >>> list(ipv4('8.8.8.8 but not 10.0.0.1, v8.8.8.8 or 8.8.8.8.8'))
  [(0, 7)]
  """
  for found in _FOUR.finditer(text):
    begin, end = found.span()
    touched = _TOUCHES_4.match(text, end) or (begin and _TOUCHES_4.match(text, begin - 1))
    if not touched and is_public_4(found[0]):
      yield begin, end


def ipv6(text: str) -> Iterator[Span]:
  """Where public IPv6 addresses stand that no word character and no other colon touches.

  >>> list(ipv6('[2606:4700:4700::1111]:443 but not 2001:db8::1, 2000:1:2 or 12:34:56'))
  [(1, 21)]
  """
  for found in _GROUPS.finditer(text):
    begin, end = found.span()
    if text[end - 1] == ':' and text[end - 2] != ':':
      end -= 1  # it belongs to the sentence
    elif _TOUCHES_6.match(text, end):
      continue
    if begin and _BEFORE_6.match(text, begin - 1):
      continue
    if is_public_6(text[begin:end]):
      yield begin, end


def any_ipv4(text: str, *, public_only: bool = True) -> Iterator[Span]:
  """Where datatrove finds IPv4 addresses: inside of longer numbers and of versions too."""
  for found in _DATATROVE_FOUR.finditer(text):
    if is_public_4(found[0]) or (not public_only and _number_4(found[0]) is not None):
      yield found.span()


def is_public_4(text: str) -> bool:
  """Whether a text is an IPv4 address that is reachable from everywhere.

  >>> [is_public_4(ip) for ip in ('8.8.8.8', '172.15.0.1', '172.16.0.1', '192.0.0.9', '8.8.8.08')]
  [True, True, False, True, False]
  """
  number = _number_4(text)
  return number is not None and (not _within(number, _OUT_4) or _within(number, _IN_4))


def is_public_6(text: str) -> bool:
  """Whether a text is an IPv6 address that is reachable from everywhere."""
  try:
    number = int(ipaddress.IPv6Address(text))
  except ValueError:
    return False
  return number >> 125 == 1 and (not _within(number, _OUT_6) or _within(number, _IN_6))


def _number_4(text: str) -> int | None:
  try:
    return int(ipaddress.IPv4Address(text))
  except ValueError:
    return None


def _within(number: int, ranges: _Ranges) -> bool:
  return any(low <= number <= high for low, high in ranges)

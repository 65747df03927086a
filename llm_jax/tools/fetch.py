"""One HTTP request whose every address is checked, within a time and a size; urllib3 speaks HTTP.

A service that is asked may answer with an address inside of the network that asks (server-side
request forgery, CWE-918). So a name is resolved once for each hop, what it resolves to is checked,
and the connection goes to that very number: a name that resolves otherwise a moment later (DNS
rebinding) changes nothing. Proxies of the environment are not used, since they would resolve names.
"""

import contextlib
import http.client
import ipaddress
import queue
import re
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

from llm_jax.types import BadInput

REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 3
_PIECE = 2**16
_SAID = 2000  # bytes that are read of an answer without success
_GLOBAL_V6 = ipaddress.ip_network('2000::/3')
# Not for everybody to reach, whatever the registries say: services of clouds for their machines.
_SPECIAL = tuple(map(ipaddress.ip_network, ('168.63.129.16/32', '192.0.0.0/24')))


class Refused(OSError):
  """An address that may not be asked."""


class NoSuccess(OSError):
  """An answer whose status is none of success.

  Attributes:
    status: of HTTP.
    wait: seconds after which the service wants to be asked again; 0 where it does not say.
    body: the begin of what it said, which is not to be trusted.
  """

  def __init__(self, message: str, status: int = 0, wait: float = 0.0, body: str = '') -> None:
    super().__init__(message)
    self.status, self.wait, self.body = status, wait, body


def parsed(url: str) -> Any:
  """The url as urllib3 reads it.

  Raises:
    Refused: it is not one of http or https with a host, or it holds a password.
    BadInput: urllib3 is not installed.
  """
  urllib3 = _urllib3()
  try:
    parts = urllib3.util.parse_url(url)
  except (urllib3.exceptions.HTTPError, ValueError):
    parts = None
  if parts is None or parts.scheme not in ('http', 'https') or not parts.host or parts.auth:
    raise Refused(f'{url[:200]!r} is not a web address; use http://host/path')
  return parts


def is_public(address: str) -> bool:
  """Whether an IP address is one of the internet, and none of this machine, network or cloud.

  >>> [is_public(a) for a in ('9.9.9.9', '127.0.0.1', '169.254.169.254', '::ffff:10.0.0.1')]
  [True, False, False, False]
  """
  ip = ipaddress.ip_address(address.partition('%')[0])
  ip = getattr(ip, 'ipv4_mapped', None) or ip
  if any(ip in network for network in _SPECIAL if network.version == ip.version):
    return False
  if isinstance(ip, ipaddress.IPv6Address) and (
    ip not in _GLOBAL_V6 or ip.sixtofour is not None or ip.teredo is not None
  ):
    return False  # addresses that stand for one of version 4, among others
  return ip.is_global and not ip.is_multicast


def fetch(
  url: str,
  *,
  method: str = 'GET',
  body: bytes | None = None,
  headers: Mapping[str, str],
  timeout: float,
  largest: int,
  private: bool = False,
  redirects: int = MOST_REDIRECTS,
) -> bytes:
  """The body of the answer.

  Redirects are followed, a few, with GET and never from https to http.

  Args:
    url: of the user's config. Where its host is `localhost` or a number, this origin may be on this
      machine or in its network.
    method: of the first request.
    body: of the first request.
    headers: of all requests.
    timeout: seconds for all of it: names, connections, headers and bodies.
    largest: bytes of a body.
    private: the host of `url` may be in a private network also if it is a name.
    redirects: most that are followed. Headers go along, so it is 0 where one of them is a secret.

  Raises:
    TimeoutError: it took longer.
    OSError: no answer, one that is too large, compressed or not whole, (NoSuccess) one that is no
      success, or (Refused) an address that may not be asked.
  """
  hop = _Hop(parsed(url), time.monotonic() + timeout)
  answer: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

  def work() -> None:
    try:
      answer.put(_follow(hop, method, body, headers, largest, private, redirects))
    except Exception as error:
      answer.put(error)

  # In a thread of its own: a resolver has no time limit, and that of a socket starts anew with
  # every byte that comes.
  threading.Thread(target=work, daemon=True).start()
  try:
    found = answer.get(timeout=timeout)
  except queue.Empty:
    hop.hang_up()
    raise TimeoutError(f'took longer than {timeout:g} seconds') from None
  if isinstance(found, Exception):
    raise _in_words(found, timeout) from found
  return found


class _Hop:
  """The request that is being made: its address, the end of its time, its connection."""

  def __init__(self, parts: Any, end: float) -> None:
    self.parts, self.end = parts, end
    self.connection: Any = None

  def left(self) -> float:
    if (left := self.end - time.monotonic()) <= 0:
      raise TimeoutError
    return left

  def hang_up(self) -> None:
    sock = getattr(self.connection, 'sock', None)
    with contextlib.suppress(OSError):
      if sock is not None:
        sock.shutdown(socket.SHUT_RDWR)


def _origin(parts: Any) -> tuple[str, str, int]:
  return parts.scheme, parts.host, parts.port or {'http': 80, 'https': 443}[parts.scheme]


def _follow(
  hop: _Hop,
  method: str,
  body: bytes | None,
  headers: Mapping[str, str],
  largest: int,
  private: bool,
  redirects: int,
) -> bytes:
  first, at_home = _origin(hop.parts), private or is_local_name(hop.parts.host)
  for _ in range(redirects + 1):
    at_home = at_home and _origin(hop.parts) == first
    response = _ask(hop, method, body, headers, anywhere=at_home)
    if response.status not in REDIRECTS:
      return _body(hop, response, largest)
    hop.connection.close()
    was, method, body = hop.parts, 'GET', None
    hop.parts = parsed(urljoin(was.url, response.headers.get('Location', '')))
    if (was.scheme, hop.parts.scheme) == ('https', 'http'):
      raise Refused('redirects from https to http')
  raise OSError(f'redirects more than {redirects} times')


def is_local_name(host: str) -> bool:
  """Whether a host in a config can only be meant as the machine or network that it is in."""
  with contextlib.suppress(ValueError):
    return bool(ipaddress.ip_address(host.strip('[]')))
  return host == 'localhost'


def _ask(
  hop: _Hop, method: str, body: bytes | None, headers: Mapping[str, str], *, anywhere: bool
) -> Any:
  """The response, its body unread, from the first address of the host that takes a connection."""
  scheme, host, port = _origin(hop.parts)
  name = host.strip('[]')
  found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
  addresses = [*dict.fromkeys(str(entry[4][0]) for entry in found)]
  for address in addresses:
    if not anywhere and not is_public(address):
      raise Refused(f'{host} is {address}, which is not an address of the internet')
  connection = _urllib3().connection
  for i, address in enumerate(addresses):
    if scheme == 'https':
      tls = dict(server_hostname=name, assert_hostname=name)
      hop.connection = connection.HTTPSConnection(address, port, timeout=hop.left(), **tls)
    else:
      hop.connection = connection.HTTPConnection(address, port, timeout=hop.left())
    try:
      hop.connection.connect()
      break
    except _urllib3().exceptions.NewConnectionError:
      if i == len(addresses) - 1:
        raise
  # What is not compressed does not grow when it is read.
  more = {'Host': hop.parts.netloc, 'Accept-Encoding': 'identity', 'Connection': 'close'}
  hop.connection.request(
    method, hop.parts.request_uri, body, {**headers, **more}, preload_content=False
  )
  return hop.connection.getresponse()


def _body(hop: _Hop, response: Any, largest: int) -> bytes:
  if not 200 <= response.status < 300:
    raise _no_success(hop, response)
  if response.headers.get('Content-Encoding', 'identity').lower() != 'identity':
    raise OSError('answered with a compressed body, which was not asked for')
  found = b''
  while piece := response.read(min(_PIECE, largest + 1 - len(found)), decode_content=False):
    found += piece
    if len(found) > largest:
      hop.connection.close()
      raise OSError(f'answered with more than {largest} bytes')
    hop.left()
  hop.connection.close()
  return found


def _no_success(hop: _Hop, response: Any) -> NoSuccess:
  wait = response.headers.get('Retry-After', '')
  said = b''
  with contextlib.suppress(OSError, _urllib3().exceptions.HTTPError):
    said = response.read(_SAID, decode_content=False)
  hop.connection.close()
  return NoSuccess(
    f'answered with HTTP status {response.status}',
    response.status,
    float(wait) if re.fullmatch(r'[0-9]{1,5}', wait) else 0.0,
    said.decode('utf-8', 'replace'),
  )


def _in_words(error: Exception, timeout: float) -> Exception:
  """The error that the caller hears of; what is a mistake of ours stays as it is."""
  exceptions = _urllib3().exceptions
  if isinstance(error, (TimeoutError, exceptions.TimeoutError)) and not isinstance(
    error, exceptions.NewConnectionError
  ):
    return TimeoutError(f'took longer than {timeout:g} seconds')
  if isinstance(error, (exceptions.ProtocolError, http.client.HTTPException)):
    return OSError(f'answered with something that is not whole: {error}')
  if type(error) is OSError or isinstance(error, (Refused, NoSuccess)):
    return error
  if isinstance(error, (OSError, exceptions.HTTPError, ValueError)):
    return OSError(f'cannot be reached: {error}')
  return error


def _urllib3() -> Any:
  try:
    import urllib3
    import urllib3.connection
  except ImportError:
    raise BadInput("asking a service needs urllib3; pip install 'llm_jax[search]'") from None
  return urllib3

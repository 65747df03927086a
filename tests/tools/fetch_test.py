"""Whom a request reaches, for how long, and how much of the answer is taken."""

import gzip
import ipaddress
import random
import socket
import threading
import time

import pytest

from llm_jax.tools import fetch as module
from llm_jax.tools.fetch import NoSuccess, Refused, fetch, is_public, parsed

HEADERS = {'Accept': 'application/json'}


class Server(threading.Thread):
  """Answers each connection with the bytes (and pauses, in seconds) of `script`, by its number."""

  def __init__(self, script, family=socket.AF_INET):
    super().__init__(daemon=True)
    self.script, self.asked = script, []
    self.socket = socket.create_server(('127.0.0.1', 0), family=family)
    self.port = self.socket.getsockname()[1]
    self.start()

  def run(self):
    while True:
      try:
        peer, _ = self.socket.accept()
      except OSError:
        return
      threading.Thread(target=self.answer, args=(peer,), daemon=True).start()

  def answer(self, peer):
    with peer:
      peer.settimeout(3)
      try:
        self.asked.append(peer.recv(2**16))
        for part in self.script(len(self.asked) - 1):
          time.sleep(part) if isinstance(part, float) else peer.sendall(part)
      except OSError:
        pass


@pytest.fixture
def serve():
  servers = []

  def start(script):
    servers.append(Server(script if callable(script) else lambda n: script))
    return servers[-1]

  yield start
  for server in servers:
    server.socket.close()


def ask(server, path='/', **options):
  given = dict(headers=HEADERS, timeout=2.0, largest=1000) | options
  return fetch(f'http://127.0.0.1:{server.port}{path}', **given)


def whole(body, *more, status=b'200 OK'):
  head = [b'HTTP/1.1 ' + status, b'Content-Length: %d' % len(body), *more]
  return [b'\r\n'.join(head) + b'\r\n\r\n' + body]


def moved(where):
  return whole(b'', b'Location: ' + where.encode(), status=b'302 Found')


def test_the_config_may_name_this_machine(serve):
  server = serve(whole(b'[]'))
  assert ask(server) == b'[]'
  assert fetch(f'http://localhost:{server.port}', headers={}, timeout=2, largest=9) == b'[]'
  assert b'Host: 127.0.0.1:%d' % server.port in server.asked[0]


PLACES = (
  *('file:///etc/passwd', 'ftp://127.0.0.1:{port}/', 'gopher://127.0.0.1:{port}/', 'data:,x'),
  *('http://127.0.0.1:{port}/', '//127.0.0.1:{port}/', 'http://localhost:{port}/'),
  *('http://127.1:{port}/', 'http://2130706433:{port}/', 'http://0x7f000001:{port}/'),
  *('http://0:{port}/', 'http://[::1]:{port}/', 'http://[::ffff:127.0.0.1]:{port}/'),
  *('http://[::]:{port}/', 'http://a@127.0.0.1:{port}/', 'https://127.0.0.1:{port}/'),
  *('http://169.254.169.254/latest/meta-data/', 'http://[fd00:ec2::254]/', 'http://10.0.0.1/'),
  *('http://192.168.0.1/', 'http://100.100.100.200/', 'http://[fe80::1]/', 'http://172.16.0.1/'),
  *('http://168.63.129.16/', 'http://[64:ff9b::7f00:1]/', 'http://[2002:7f00:1::]/'),
)  # fmt: skip


@pytest.mark.parametrize('place', PLACES)
def test_a_redirect_leads_to_the_internet_or_nowhere(serve, place):
  inside = serve(whole(b'secret'))
  server = serve(moved(place.format(port=inside.port)))
  with pytest.raises(OSError, match=r'is not a|cannot be reached'):
    ask(server)
  assert not inside.asked


@pytest.mark.parametrize('private', [False, True])
def test_a_redirect_within_the_service_is_followed_and_others_are_not(serve, private):
  inside = serve(whole(b'secret'))
  ways = [moved('/there'), whole(b'here')]
  server = serve(lambda n: ways[n])
  assert ask(server, method='POST', body=b'{}', private=private) == b'here'
  assert server.asked[1].startswith(b'GET /there ')
  ways[:] = [moved(f'http://127.0.0.1:{inside.port}/')] * 9
  with pytest.raises(Refused):
    ask(server, private=private)
  circle = serve(moved('/'))
  with pytest.raises(OSError, match='redirects more than 3 times'):
    ask(circle)
  assert not inside.asked and len(circle.asked) == 4


def names(monkeypatch, table):
  """A resolver of our own: name -> one address after the other; numbers are themselves."""
  real, asked = socket.getaddrinfo, []

  def resolve(host, *args, **options):
    if host in table:
      asked.append(host)
      host = table[host].pop(0) if len(table[host]) > 1 else table[host][0]
    return real(host, *args, **options)

  monkeypatch.setattr(socket, 'getaddrinfo', resolve)
  return asked


def test_a_name_for_this_machine_is_asked_only_if_the_config_says_private(serve, monkeypatch):
  server = serve(whole(b'[]'))
  names(monkeypatch, {'search.example': ['127.0.0.1']})
  url = f'http://search.example:{server.port}'
  with pytest.raises(Refused, match=r'search\.example is 127\.0\.0\.1, which is not an address'):
    fetch(url, headers={}, timeout=2, largest=9)
  assert not server.asked
  assert fetch(url, headers={}, timeout=2, largest=9, private=True) == b'[]'
  assert b'Host: search.example:%d\r\n' % server.port in server.asked[0]


def test_the_connection_goes_to_the_address_that_was_checked(serve, monkeypatch):
  """A name that is resolved a second time is that of another machine."""
  server = serve(whole(b'[]'))
  monkeypatch.setattr(module, 'is_public', lambda address: address == '127.0.0.1')  # for the test
  asked = names(monkeypatch, {'search.example': ['127.0.0.1', '10.9.9.9']})
  assert fetch(f'http://search.example:{server.port}', headers={}, timeout=2, largest=9) == b'[]'
  assert asked == ['search.example']


def test_every_address_of_a_name_is_checked(monkeypatch):
  entry = lambda address: (socket.AF_INET, socket.SOCK_STREAM, 6, '', (address, 80))
  both = [entry('93.184.216.34'), entry('127.0.0.1')]
  monkeypatch.setattr(socket, 'getaddrinfo', lambda *args, **options: both)
  with pytest.raises(Refused):
    fetch('http://two.example', headers={}, timeout=2, largest=9)


def test_addresses_of_the_internet():
  rng = random.Random(0)
  for _ in range(2000):
    v4 = ipaddress.IPv4Address(rng.getrandbits(32))
    inside = not is_public(str(v4))
    assert inside or v4.is_global
    for form in (f'::ffff:{v4}', f'64:ff9b::{v4}', f'::{v4}', f'2002:{int(v4) >> 16:x}::1'):
      assert not is_public(form) or (form.startswith('::ffff') and not inside)
    assert not is_public(f'{ipaddress.IPv6Address(rng.getrandbits(121) | 0xFD << 120)}')
  assert is_public('2606:4700:4700::1111') and not is_public('ff02::1') and is_public('9.9.9.9')
  assert not is_public('224.0.0.251') and not is_public('fe80::1%eth0')


@pytest.mark.parametrize(
  'place', ['', 'x', 'file:///etc/passwd', 'http:///x', 'http://a:b@c/', 'http://[::1']
)
def test_what_is_no_web_address(place):
  with pytest.raises(Refused, match='is not a web address'):
    parsed(place)


DRIPS = {
  'nothing': [9.0],
  'status': [b'H', *[0.05, b'T'] * 60],
  'headers': [b'HTTP/1.1 200 OK\r\n', *[0.05, b'A: b\r\n'] * 60],
  'body': [b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n', *[0.05, b'x'] * 60],
  'chunks': [b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', *[0.05, b'1\r\nx\r\n'] * 60],
  'again': [b'HTTP/1.1 100 Continue\r\n\r\n', *[0.05, b'HTTP/1.1 100 Continue\r\n\r\n'] * 60],
}


@pytest.mark.parametrize('slow', DRIPS)
def test_the_time_is_that_of_everything(serve, slow):
  start = time.monotonic()
  with pytest.raises(TimeoutError, match=r'took longer than 0\.2 seconds'):
    ask(serve(DRIPS[slow]), timeout=0.2)
  assert time.monotonic() - start < 1.0


def test_also_that_of_a_resolver_and_of_redirects(serve, monkeypatch):
  start = time.monotonic()
  with pytest.raises(TimeoutError):
    ask(serve([0.15, *moved('/')]), timeout=0.2)
  monkeypatch.setattr(socket, 'getaddrinfo', lambda *args, **options: time.sleep(3))
  with pytest.raises(TimeoutError):
    fetch('http://slow.example', headers={}, timeout=0.2, largest=9)
  assert time.monotonic() - start < 1.5


CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
BROKEN = {
  'shorter': [b'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[]'],
  'two lengths': [b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 1\r\n\r\n[]'],
  'no last chunk': [CHUNKED + b'2\r\n[]\r\n'],
  'half a chunk': [CHUNKED + b'9\r\n[]'],
  'no number': [CHUNKED + b'zz\r\n[]\r\n0\r\n\r\n'],
  'no http': [b'SSH-2.0-OpenSSH\r\n'],
  'gone': [b''],
  'long': whole(b'x' * 1001),
  'endless': [CHUNKED, *[b'64\r\n' + b'x' * 100 + b'\r\n'] * 50],
  'announced': [b'HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n' + b'x' * 2000],
  'bomb': whole(gzip.compress(b'0' * 10**7)[:999], b'Content-Encoding: gzip'),
  'long header': [b'HTTP/1.1 200 OK\r\nA: ' + b'b' * 70000 + b'\r\n\r\n[]'],
  'many headers': [b'HTTP/1.1 200 OK\r\n' + b'A: b\r\n' * 200 + b'\r\n[]'],
  'status': whole(b'[]', status=b'503 Busy'),
  'not modified': whole(b'', status=b'304 Not Modified'),
}


@pytest.mark.parametrize('answer', BROKEN)
def test_what_is_not_whole_is_not_taken(serve, answer):
  with pytest.raises(OSError) as error:
    ask(serve(BROKEN[answer]))
  assert type(error.value) is (NoSuccess if answer in ('status', 'not modified') else OSError)

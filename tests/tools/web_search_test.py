"""Against a server of our own on this machine."""

import http.server
import json
import threading
import time
import urllib.parse

import pytest

from llm_jax.tools import web_search
from llm_jax.types import BadInput

ANSWERS = {
  '/search': {'results': [
    {'title': 'Paris', 'content': 'The capital of France.', 'url': 'http://paris'},
    {'title': 'Lyon', 'content': ''},
    'a bare text',
    {'title': 'Nice'},
  ]},
  '/nested': {'result': [['first', 'second']]},
  '/none': {'results': []},
  '/other': {'answers': []},
  '/number': {'results': 3},
}  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self, body=b''):
    self.server.seen.append((self.command, self.path, body))
    path = urllib.parse.urlsplit(self.path).path
    if path == '/slow':
      self.send_response(200)
      self.end_headers()
      for _ in range(40):  # each byte in time, all of them not
        try:
          self.wfile.write(b' ')
          time.sleep(0.05)
        except OSError:
          return
      return
    text = b'<html>' if path == '/html' else json.dumps(ANSWERS.get(path)).encode()
    self.send_response(200 if path in ANSWERS or path == '/html' else 404)
    self.send_header('Content-Length', str(len(text)))
    self.end_headers()
    self.wfile.write(text)

  def do_POST(self):
    self.do_GET(self.rfile.read(int(self.headers['Content-Length'])))

  def log_message(self, *args):
    pass


@pytest.fixture(scope='module')
def server():
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
  monkeypatch.setenv('no_proxy', '127.0.0.1')


def make(server, path, **options):
  return web_search.make(url=f'http://127.0.0.1:{server.server_port}{path}', **options)


def test_a_question_goes_into_the_url(server):
  result = make(server, '/search?format=json')(' what & where? ')
  assert result == 'Paris\nThe capital of France.\n\nLyon\n\na bare text'
  assert server.seen[-1] == ('GET', '/search?format=json&q=what+%26+where%3F', b'')


def test_or_into_a_json_body(server):
  search = make(server, '/nested', method='POST', parameter='query', field='result.0', top=1)
  assert search('été') == 'first'
  method, path, body = server.seen[-1]
  assert (method, path, json.loads(body)) == ('POST', '/nested', {'query': 'été'})


def test_what_is_shown_of_a_result(server):
  assert make(server, '/search', text=('url',), top=1)('x') == 'http://paris'
  assert make(server, '/search', max_chars=8, top=1)('x') == 'Paris\nTh'
  assert make(server, '/none')('x') == 'Nothing was found.'


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('/other', "without the field 'results'"),
    ('/number', 'is no list'),
    ('/html', 'did not answer with JSON'),
    ('/missing', 'HTTP status 404'),
  ],
)
def test_a_service_that_answers_otherwise_is_an_os_error(server, path, message):
  with pytest.raises(OSError, match=message):
    make(server, path)('x')


def test_a_service_that_is_too_slow_or_gone(server):
  start = time.monotonic()
  with pytest.raises(TimeoutError, match=r'took longer than 0\.2 seconds'):
    make(server, '/slow', timeout=0.2)('x')
  assert time.monotonic() - start < 1.5
  with pytest.raises(OSError, match='cannot be reached'):
    web_search.make(url='http://127.0.0.1:1/')('x')


@pytest.mark.parametrize('text', ['', '  ', 'a' * 1001])
def test_a_malformed_call_asks_nobody(server, text):
  before = len(server.seen)
  with pytest.raises(ValueError, match='give a question'):
    make(server, '/search')(text)
  assert len(server.seen) == before


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'url': 'file:///etc/passwd'}, 'not a web address'),
    ({'url': 'localhost:8080'}, 'not a web address'),
    ({'url': 'http://a', 'method': 'PUT'}, "method 'PUT'; choose from: GET, POST"),
    ({'url': 'http://a', 'timeout': 0}, 'choose a number above 0'),
    ({'url': 'http://a', 'top': 0}, 'choose a whole number from 1'),
  ],
)
def test_options_are_checked(options, message):
  with pytest.raises(BadInput, match=message):
    web_search.make(**options)

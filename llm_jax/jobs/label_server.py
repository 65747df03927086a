"""The page of job `label`, and the requests that it makes, on one port of this machine.

  GET  /       the page, under a policy that lets nothing run or load but its own script and style
  POST /about  who I am, the guideline, how far we are
  POST /next   items for me: {"count": 3, "held": [ids that the page has]}
  POST /event  what I did; answered when it is on the disk
  POST /item   one item again, POST /last  what I did last; both for taking it back

An annotator has a token, which stands behind the # of their address, so no server or log sees it
there. Each request is JSON, has the token in a header, and comes from this page alone.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from llm_jax.files import read_json, sealed
from llm_jax.labels import order
from llm_jax.labels.candidates import Item
from llm_jax.labels.log import Log
from llm_jax.labels.tasks import Task
from llm_jax.serving import page as served_page
from llm_jax.types import BadInput

PAGE = Path(__file__).parents[1] / 'web' / 'label.html'
LARGEST = 64 * 1024  # bytes of a request
IDLE = 60.0  # seconds for which a connection may be silent
MOST = 20  # items at once
LOCAL = ('127.0.0.1', 'localhost', '[::1]')


class _Refused(Exception):
  """A request that is not answered; the arguments are status and reason."""


def tokens(path: Path, annotators: Sequence[str]) -> dict[str, str]:
  """The token of each annotator, kept in a file that only its owner reads.

  Tokens of annotators who are not named this time stay in the file, and are not valid.
  """
  known = read_json(path, 'delete it, and all get new addresses') if path.is_file() else {}
  found = {name: known.get(name) or secrets.token_urlsafe(24) for name in annotators}
  if found.items() - known.items():
    partial = path.with_name(f'{path.name}.partial')
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 'w') as file:
      json.dump(sealed({**known, **found}), file)
    os.replace(partial, path)
  return found


class Server(ThreadingHTTPServer):
  """Listens from the moment it is made; `start` answers, `stop` ends.

  Args:
    log: that events go to.
    tokens: of each annotator.
    host, port: where to listen; port 0 is any that is free.
    seed: of the order of answers.
    guideline: a text that annotators can read.
    ask: 'compare', or 'rate'.

  Attributes:
    asked: when the last request came, on the clock of `time.monotonic`.

  Raises:
    BadInput: the port is taken, or the host is not one of this machine.
  """

  daemon_threads = True
  request_queue_size = 64

  def __init__(
    self,
    log: Log,
    tokens: Mapping[str, str],
    *,
    host: str = '127.0.0.1',
    port: int = 0,
    seed: int = 0,
    guideline: str = '',
    ask: str = 'compare',
  ) -> None:
    self.log, self._tokens, self._seed = log, tokens, seed
    self._load()
    self.page = served_page.read(PAGE) or (b'', {})
    many = any(len(item.answers) > 2 for item in self._items.values())
    self._about = {
      'guideline': guideline,
      'version': _short(guideline) if guideline else '',
      'page': hashlib.sha256(self.page[0]).hexdigest()[:8],
      'log': log.id,
      'longest': LARGEST,
      'ask': ask,
      'ranks': many and ask == 'compare',
    }
    self.local, self.asked = host in LOCAL, time.monotonic()
    try:
      self.address_family = socket.AF_INET6 if ':' in host else socket.AF_INET
      super().__init__((host, port), _Handler)
    except (OSError, OverflowError) as error:
      raise BadInput(
        f'label: {host}:{port} cannot be listened on ({error}); choose another --config.port'
      ) from None
    shown = f'[{host}]' if ':' in host else host
    self.url = f'http://{shown}:{self.server_port}/'

  def start(self) -> None:
    """Answers requests, in threads of its own."""
    threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

  def stop(self) -> None:
    """Answers no more."""
    self.shutdown()
    self.server_close()

  def who(self, token: str) -> str | None:
    """The annotator with a token."""
    given = token.encode()
    found = [name for name, one in self._tokens.items() if hmac.compare_digest(one.encode(), given)]
    return found[0] if found else None

  def answer(self, path: str, body: Mapping[str, Any], annotator: str) -> dict[str, Any]:
    """What a request is told.

    Raises:
      BadInput: naming what is wrong with it.
      _Refused: there is no such path.
    """
    match path:
      case '/about':
        progress = self.log.progress(annotator)
        return {**self._about, 'annotator': annotator, 'progress': progress}
      case '/next':
        count, held = body.get('count', 1), body.get('held', [])
        if type(count) is not int or not 0 <= count <= MOST:
          raise BadInput(f'next: count {count!r}; give 0 to {MOST}')
        if not isinstance(held, list) or not all(isinstance(one, str) for one in held):
          raise BadInput('next: held: give a list of ids')
        tasks = self.log.tasks(annotator, count, held)
        shown = [self._shown(task, annotator) for task in tasks]
        return {'tasks': shown, 'progress': self.log.progress(annotator)}
      case '/event':
        told = self.log.add(body, annotator)
        item = self._item(body['item'])
        answers = () if item.gold else item.answers
        return {**told, 'about': {one.id: _told(one.about) for one in answers}}
      case '/item':
        item = self._item(str(body.get('item')))
        return self._shown(Task(item.id, body.get('again') is True), annotator)
      case '/last':
        return {'last': self.log.last(annotator)}
    raise _Refused(HTTPStatus.NOT_FOUND, 'there is nothing here')

  def _item(self, name: str) -> Item:
    """An item, also one that another process has put into the log since this one began.

    Raises:
      BadInput: there is none with this id.
    """
    if name not in self._items:
      self.log.item(name)
      self._load()
    return self._items[name]

  def _load(self) -> None:
    """Reads the items of the log, and which of them each annotator sees turned."""
    items, names = self.log.items(), self.log.names()
    self._turned = {name: order.turned(self._seed, names, name) for name in self._tokens}
    self._items = items

  def _shown(self, task: Task, annotator: str) -> dict[str, Any]:
    """An item as the page gets it: no names of models, no scores, no gold."""
    item = self._item(task.item)
    turn = task.item in self._turned[annotator] or (
      bool(item.gold) and order.draw(self._seed, item.id, annotator, 'side') < 0.5
    )
    return {
      'item': item.id,
      'again': task.again,
      'prompt': item.prompt,
      'shown': order.shown(self._seed, item, annotator, turn=turn, again=task.again),
      'texts': {answer.id: answer.text for answer in item.answers},
    }


def _told(about: Mapping[str, Any]) -> dict[str, Any]:
  """What is known of an answer, as far as it is short."""
  return {k: v for k, v in about.items() if v is not None and len(str(v)) <= 200}


def _short(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:8]


class _Handler(BaseHTTPRequestHandler):
  server: Server
  protocol_version = 'HTTP/1.1'
  timeout = IDLE
  server_version, sys_version = 'llm_jax', ''

  def log_message(self, format: str, *args: Any) -> None:
    """Says nothing; what matters is in the log of events."""

  def do_GET(self) -> None:
    try:
      self._check_host()
    except _Refused as refused:
      return self._json(refused.args[0], {'error': refused.args[1]})
    if self.path.split('?')[0] != '/':
      return self._json(HTTPStatus.NOT_FOUND, {'error': 'there is nothing here'})
    data, headers = self.server.page
    self._send(HTTPStatus.OK, data, {**headers, 'content-type': 'text/html; charset=utf-8'})

  def do_POST(self) -> None:
    self.server.asked = time.monotonic()
    try:
      body = self._body()
      annotator = self.server.who(self._token())
      if annotator is None:
        raise _Refused(HTTPStatus.UNAUTHORIZED, 'this token is not known')
      told = self.server.answer(self.path, body, annotator)
    except _Refused as refused:
      return self._json(refused.args[0], {'error': refused.args[1]})
    except BadInput as error:
      return self._json(HTTPStatus.BAD_REQUEST, {'error': str(error)})
    except UnicodeError:  # half a character in an id, which no database holds
      return self._json(HTTPStatus.BAD_REQUEST, {'error': 'a text is not Unicode'})
    except (sqlite3.Error, OSError) as error:  # a full disk, a lock; the page tries again
      return self._json(HTTPStatus.SERVICE_UNAVAILABLE, {'error': str(error)})
    self._json(HTTPStatus.OK, told)

  def _check_host(self) -> None:
    """Another site cannot come here under a name that it gave to this machine."""
    host = re.sub(r':\d+\Z', '', self.headers.get('host', ''))
    if self.server.local and host not in LOCAL:
      raise _Refused(HTTPStatus.FORBIDDEN, 'another host is asked for')

  def _body(self) -> dict[str, Any]:
    size = self.headers.get('content-length', '')
    if not re.fullmatch(r'\d{1,9}', size):
      self.close_connection = True
      raise _Refused(HTTPStatus.LENGTH_REQUIRED, 'the length of the body is missing')
    if int(size) > LARGEST:
      self.close_connection = True
      raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f'more than {LARGEST:,} bytes')
    data = self.rfile.read(int(size))  # also of what is refused, so that the connection goes on
    self._check_host()
    origin = self.headers.get('origin')
    if origin is not None and origin != f'http://{self.headers.get("host", "")}':
      raise _Refused(HTTPStatus.FORBIDDEN, 'another site asks')
    kind = self.headers.get('content-type', '').partition(';')[0].strip().lower()
    if kind != 'application/json':
      raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 'the body has to be application/json')
    try:
      found = json.loads(data)
    except (ValueError, RecursionError):
      found = None
    if not isinstance(found, dict):
      raise _Refused(HTTPStatus.BAD_REQUEST, 'the body is no JSON object')
    return found

  def _token(self) -> str:
    kind, _, token = self.headers.get('authorization', '').partition(' ')
    return token if kind.lower() == 'bearer' else ''

  def _json(self, status: int, told: Mapping[str, Any]) -> None:
    kind = {'content-type': 'application/json', 'cache-control': 'no-store'}
    self._send(status, json.dumps(told).encode(), kind)

  def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
    safe = {
      'content-length': str(len(data)),
      'x-content-type-options': 'nosniff',
      'cross-origin-resource-policy': 'same-origin',
    }
    try:
      self.send_response(status)
      for name, value in {**headers, **safe}.items():
        self.send_header(name, value)
      if self.close_connection:
        self.send_header('connection', 'close')
      self.end_headers()
      self.wfile.write(data)
    except (BrokenPipeError, ConnectionResetError):
      self.close_connection = True

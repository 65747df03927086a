"""A small server of OpenAI's contract for tests of the chat page; what it does, the question says.

A question is a list of words. The first is one of `WAYS` or anything else, which is echoed.
"""

import functools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from llm_jax.serving import page
from llm_jax.serving.conversation import Conversation
from llm_jax.serving.errors import ApiError
from llm_jax.serving.feedback import Feedback
from llm_jax.serving.fields import Fields
from llm_jax.serving.openai import About
from llm_jax.serving.tokens import tokens
from llm_jax.text import chat, folder
from llm_jax.text.tokenizer import Tokenizer

HOSTILE = (
  'Look <img src=/stolen onerror="document.title=1"> <script>document.title = 2</script>\n\n'
  '[bank](javascript:alert(1)) [bank](data:text/html,hi) '
  '[https://bank.example](https://evil.example/x) ![pixel](https://evil.example/pixel.png)\n\n'
  '```html" onclick="x\n<b>\u202egnp.exe</b>\n```\n\n'
  'hidden\u200btext \x1b[2J </textarea></script>'
)
WAYS = ('slow', 'split', 'hostile', 'think', 'tool', 'cut', 'broken', 'busy', 'long', 'full', 'say')


class FakeServer(ThreadingHTTPServer):
  """Listens on a free port of this machine.

  Attributes:
    asked: bodies of requests for answers, in order.
    left: how many clients went away before their answer had ended.
    events: bodies of events by `client`.
    repeated: how many events came a second time.
    feedback: what the events are given to.
    key: that clients have to send, or ''.
    keeps: whether events are kept.
    refuse: how many of the next events are answered with 500, after they were kept.
  """

  daemon_threads = True

  def __init__(self) -> None:
    super().__init__(('127.0.0.1', 0), _Handler)
    self.url = f'http://127.0.0.1:{self.server_port}/'
    threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

  def reset(self, file) -> None:
    """Forgets all, for the next test, whose events go into this file."""
    self.feedback = Feedback(file)
    self.asked, self.left, self.repeated, self.refuse = [], 0, 0, 0
    self.events, self.key, self.keeps = {}, '', True


@functools.cache
def _talks():
  """Two models with tokenizers of both makes."""
  ours = Tokenizer.train(['the cat sat on a mat, a cat'] * 20, vocab_size=290)
  theirs = folder.load(Path(__file__).parents[1] / 'fixtures' / 'tokenizers' / 'byte_level')
  missing = [name for name in chat.specials('chatml') if name not in theirs.specials]
  theirs = theirs.with_specials(missing) if missing else theirs
  about = lambda tokenizer: About(tokenizer.vocab_size, 512, 512)
  return {
    'small': Conversation(ours, 'llm_jax', about(ours)),
    'large': Conversation(theirs, 'chatml', about(theirs)),
  }


class _Handler(BaseHTTPRequestHandler):
  server: FakeServer

  def log_message(self, format, *args):
    pass

  def do_GET(self):
    if self.path in ('/', '/tokens'):
      html, headers = page.pages()[self.path]
      return self._answer(200, html, {**headers, 'content-type': 'text/html; charset=utf-8'})
    if self._wrong_key():
      return None
    if self.path == '/v1/models':
      models = [
        {'id': name, 'object': 'model', 'max_model_len': 512} for name in ('small', 'large')
      ]
      return self._json(200, {'object': 'list', 'data': models})
    if self.path == '/events':
      return self._json(200, {'object': 'events', 'enabled': self.server.keeps})
    return self._json(404, {'error': {'message': 'there is nothing', 'code': 'not_found'}})

  def do_DELETE(self):
    conversation = self.path.removeprefix('/events/')
    self._json(200, {'deleted': self.server.feedback.delete(conversation)})

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers['content-length'])))
    if self._wrong_key():
      return
    if self.path == '/events':
      try:
        new = self.server.feedback.add(body, {'fingerprint': 'f00'})['new']
      except ApiError as error:
        return self._json(error.status, error.body())
      self.server.repeated += not new
      self.server.events[body['client']] = body
      self.server.refuse -= 1
      if self.server.refuse >= 0:
        return self._json(500, {'error': {'message': 'the disk is full'}})
      return self._json(200, {'object': 'event', 'seq': len(self.server.events)})
    if self.path == '/tokens':
      said = tokens(_talks()[body['model']], Fields(body))
      shades = [None, *(-2.5 for _ in said['ids'][1:])]
      return self._json(200, {**said, 'logprobs': shades if body['logprobs'] else None})
    self.server.asked.append(body)
    heard = [x for x in body['messages'] if x['role'] in ('user', 'tool')][-1]['content']
    try:
      self._generate(body, heard)
    except (BrokenPipeError, ConnectionResetError):
      self.server.left += 1

  def _wrong_key(self):
    given, key = self.headers['authorization'], self.server.key
    right = not key or given == f'Bearer {key}'
    if not right:
      self._error(401, 'an API key is missing', 'invalid_api_key')
    return not right

  def _generate(self, body, heard):
    words = heard.split()
    way = words[0] if words and words[0] in WAYS else ''
    if way == 'busy':
      return self._error(429, 'the queue is full', 'queue_full', {'retry-after': '3'})
    if way == 'long':
      return self._error(400, 'this model has 512 positions', 'context_length_exceeded')
    self.send_response(200)
    self.send_header('content-type', 'text/event-stream')
    self.end_headers()
    n = body.get('n', 1)
    for i in range(n):
      self._chunk(body, i, {'role': 'assistant', 'content': ''})
    if way == 'split':
      return self._split(body)
    if way == 'think':
      for text in ('First ', 'I think.'):
        self._chunk(body, 0, {'reasoning_content': text})
    if way == 'tool':
      call = {'id': 'call_1', 'type': 'function', 'function': {'name': 'add', 'arguments': ''}}
      self._chunk(body, 0, {'tool_calls': [{'index': 0, **call}]})
      for text in ('{"a": 1,', ' "b": 2}'):
        self._chunk(body, 0, {'tool_calls': [{'index': 0, 'function': {'arguments': text}}]})
    else:
      for word in self._words(body, way, heard):
        if way == 'slow':
          time.sleep(0.03)
        for i in range(n):
          text = f'{word}' if n == 1 else f'{word}{i} '
          self._chunk(body, i, {'content': text}, **self._logprobs(body, text))
    if way == 'cut':
      return None
    if way == 'broken':
      return self._event({'error': {'message': 'the engine failed', 'code': 'engine_error'}})
    for i in range(n):
      ends = {'tool': 'tool_calls', 'full': 'length'}.get(way, 'stop')
      self._chunk(body, i, {}, finish_reason=ends)
    usage = {'prompt_tokens': 20, 'completion_tokens': 5 * n, 'total_tokens': 20 + 5 * n}
    self._event({'id': 'chatcmpl-1', 'choices': [], 'usage': usage})
    self.wfile.write(b'data: [DONE]\n\n')

  def _words(self, body, way, heard):
    if way == 'slow':
      return [f'word{i} ' for i in range(int(heard.split()[1]))]
    if way == 'hostile':
      return [HOSTILE[i : i + 9] for i in range(0, len(HOSTILE), 9)]
    if way == 'say':
      return [json.loads(heard.removeprefix('say '))]
    asked = ' '.join(heard.split())
    return [f'{body["model"]} ', 'heard ', asked, f' with {body.get("seed")}']

  def _logprobs(self, body, text):
    if not body.get('logprobs'):
      return {}
    half = [0xE6, 0x97]
    top = [{'token': 'other', 'logprob': -0.5, 'bytes': [*b'other']}]
    entry = {'token': text, 'logprob': -2.0794415, 'bytes': [*text.encode()], 'top_logprobs': top}
    other = {'token': '\ufffd', 'logprob': -0.1, 'bytes': half, 'top_logprobs': []}
    return {'logprobs': {'content': [entry, other], 'refusal': None}}

  def _split(self, body):
    """The same stream in pieces of every length, with pings, CRLF and halves of characters."""
    chunk = {'id': 'x', 'choices': [{'index': 0, 'delta': {'content': 'naïve 日本 👩‍🔬'}}]}
    last = {'id': 'x', 'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}]}
    data = lambda x, end: f'data: {json.dumps(x, ensure_ascii=False)}{end}{end}'.encode()
    whole = b': ping\r\n\r\n' + data(chunk, '\r\n') + b': ping\n\n' + data(last, '\n')
    whole += b'event: x\rid: 3\rdata: [DONE]\r\n\r\n'
    for size in range(len(whole)):
      piece, whole = whole[: size % 5 + 1], whole[size % 5 + 1 :]
      self.wfile.write(piece)
      self.wfile.flush()
      time.sleep(0.001)

  def _chunk(self, body, index, delta, **more):
    choice = {'index': index, 'delta': delta, 'logprobs': None, 'finish_reason': None, **more}
    chunk = {'id': 'chatcmpl-1', 'object': 'chat.completion.chunk', 'model': body['model']}
    self._event({**chunk, 'choices': [choice]})

  def _event(self, found):
    self.wfile.write(f'data: {json.dumps(found)}\n\n'.encode())
    self.wfile.flush()

  def _error(self, status, message, code, headers=None):
    self._json(status, {'error': {'message': message, 'code': code}}, headers)

  def _json(self, status, found, headers=None):
    headers = {'content-type': 'application/json', **(headers or {})}
    self._answer(status, json.dumps(found).encode(), headers)

  def _answer(self, status, content, headers):
    self.send_response(status)
    for name, value in {**headers, 'content-length': str(len(content))}.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(content)

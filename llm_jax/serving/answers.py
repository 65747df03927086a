"""From the events of an engine to the chunks of a stream, and to the whole answer.

A whole answer is made of the chunks that a stream would have had, so the two say the same.
"""

import codecs
import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.sampling.request import Event, Request
from llm_jax.serving.errors import ApiError
from llm_jax.serving.fields import finite
from llm_jax.serving.listener import Delta, Listener
from llm_jax.serving.openai import Asked
from llm_jax.types import Tokenizer

JSON = dict[str, Any]


@dataclasses.dataclass
class Choice:
  """One answer as it grows.

  Attributes:
    index: its number in the response.
    request: what the engine was asked.
    listener: who hears it.
    ids: sampled so far.
    cached: tokens of the prompt that were not read again.
    finish: why it ended, or None.
    text, reasoning, calls, logprobs: what was said so far.
    offset: characters of the text before the next token.
    decoder: of the bytes of its tokens.
  """

  index: int
  request: Request
  listener: Listener
  ids: list[int] = dataclasses.field(default_factory=list)
  cached: int = 0
  finish: str | None = None
  text: str = ''
  reasoning: str = ''
  calls: list[JSON] = dataclasses.field(default_factory=list)
  logprobs: list[Any] = dataclasses.field(default_factory=list)
  offset: int = 0
  decoder: codecs.IncrementalDecoder = dataclasses.field(
    default_factory=lambda: codecs.getincrementaldecoder('utf-8')('replace')
  )


class Answer:
  """All choices of one response.

  Args:
    asked: the body.
    choices: in order of their index.
    tokenizer: of the model.
    model: its name.
    created: seconds since 1970.
    echoes: of each prompt its text, where it is part of the answer.
  """

  def __init__(
    self,
    asked: Asked,
    choices: Sequence[Choice],
    tokenizer: Tokenizer,
    *,
    model: str,
    created: int,
    echoes: Sequence[str] = (),
  ) -> None:
    self.choices, self._asked, self._tokenizer, self._echoes = choices, asked, tokenizer, echoes
    kind = 'chat.completion' if asked.chat else 'text_completion'
    prefix = 'chatcmpl' if asked.chat else 'cmpl'
    self._head = {'id': f'{prefix}-{secrets.token_hex(12)}', 'object': kind}
    self._tail = {'created': created, 'model': model}

  def opening(self) -> list[JSON]:
    """What a stream begins with, before any token."""
    found = []
    for choice in self.choices:
      ids = {'prompt_token_ids': list(choice.request.prompt)} if self._asked.return_ids else {}
      if self._asked.chat:
        found.append(self._chunk(choice, {'role': 'assistant', 'content': ''}, **ids))
      elif ids or (self._asked.echo and self._asked.logprobs is None):
        # With log-probabilities the text waits for them.
        echoes = self._asked.echo and self._asked.logprobs is None
        choice.text = self._echo(choice) if echoes else ''
        found.append(self._chunk(choice, choice.text, **ids))
    return found

  def chunks(self, choice: Choice, event: Event) -> list[JSON]:
    """What an event adds to a stream.

    Raises:
      ApiError: the engine failed, or gave up the request.
    """
    if event.finish in ('error', 'abort'):
      raise ApiError(500, 'the engine failed at this request', code='engine_error')
    found = [self._prompt(choice, event.prompt)] if event.prompt is not None else []
    if self._asked.max_new == 0:  # a token had to be sampled all the same
      event = event._replace(tokens=(), logprobs=(), top=(), finish='length')
    return found + self._said(choice, event)

  def _echo(self, choice: Choice) -> str:
    return self._echoes[choice.index // self._asked.n]

  def _prompt(self, choice: Choice, scores: Sequence[Any]) -> JSON:
    """The text of a prompt with its log-probabilities; its first token has none."""
    choice.text = text = self._echo(choice)
    entries = []
    for i, (logp, top) in zip(choice.request.prompt, [(None, None), *scores], strict=True):
      entries.append((i, logp, top, min(choice.offset, len(text))))
      choice.offset += self._length(choice, i)
    choice.offset = len(text)
    choice.decoder.reset()
    choice.logprobs += entries
    return self._chunk(choice, text, logprobs=self._log(entries))

  def _length(self, choice: Choice, i: int) -> int:
    """How many characters a token adds to the text."""
    if self._tokenizer.token_bytes[i] == 0:
      return 0
    return len(choice.decoder.decode(self._tokenizer.bytes_of(i)))

  def _said(self, choice: Choice, event: Event) -> list[JSON]:
    """What new tokens add to a stream."""
    # Sampled ids count, the stop id among them; it has no text and no log-probability.
    choice.ids += event.tokens
    choice.cached = max(choice.cached, event.cached)
    ends = event.finish == 'stop' and event.tokens and event.tokens[-1] in choice.request.stop
    # After a prompt it has: whoever scores texts takes off one entry for each sampled token.
    told = len(event.tokens) - bool(ends and not self._asked.echo)
    deltas = choice.listener.push(event.tokens)
    if event.finish is not None:
      deltas += choice.listener.finish()
    more: JSON = {'token_ids': list(event.tokens)} if self._asked.return_ids else {}
    if self._asked.logprobs is not None:
      more['logprobs'] = self._logprobs(choice, event, told)
    found = [self._chunk(choice, piece) for piece in self._pieces(choice, deltas)]
    if more and event.tokens:
      first = (
        found[0] if found else self._chunk(choice, {'content': ''} if self._asked.chat else '')
      )
      first['choices'][0].update(more)
      found = found or [first]
    if event.finish is not None:
      called = choice.calls and event.finish == 'stop'
      choice.finish = 'tool_calls' if called else event.finish
      last = self._chunk(choice, {} if self._asked.chat else '')
      last['choices'][0]['finish_reason'] = choice.finish
      found.append(last)
    return found

  def closing(self) -> list[JSON]:
    """What a stream ends with, when all choices have."""
    if not self._asked.include_usage:
      return []
    return [{**self._named(), 'choices': [], 'usage': self.usage()}]

  def whole(self) -> JSON:
    """The response to a body that asked for no stream."""
    named = {**self._head, **self._tail}
    if self._asked.chat and self._asked.return_ids:
      named['prompt_token_ids'] = list(self.choices[0].request.prompt)
    return {**named, 'choices': [*map(self._choice, self.choices)], 'usage': self.usage()}

  def usage(self) -> JSON:
    """Tokens of prompts, each counted once, and of answers."""
    prompts = self.choices[:: self._asked.n]
    prompt = sum(len(choice.request.prompt) for choice in prompts)
    said = sum(len(choice.ids) for choice in self.choices)
    return {
      'prompt_tokens': prompt,
      'completion_tokens': said,
      'total_tokens': prompt + said,
      'prompt_tokens_details': {'cached_tokens': sum(choice.cached for choice in prompts)},
    }

  def _choice(self, choice: Choice) -> JSON:
    found: JSON = {'index': choice.index}
    if self._asked.chat:
      content = choice.text if choice.text or not choice.calls else None
      message: JSON = {'role': 'assistant', 'content': content, 'refusal': None}
      if choice.reasoning:
        message['reasoning_content'] = choice.reasoning
      if choice.calls:
        message['tool_calls'] = choice.calls
      found['message'] = message
    else:
      found['text'] = choice.text
    found['logprobs'] = None
    if self._asked.logprobs is not None:
      found['logprobs'] = self._log(choice.logprobs)
    found['finish_reason'] = choice.finish
    if self._asked.return_ids:
      found['token_ids'] = choice.ids
      if not self._asked.chat:
        found['prompt_token_ids'] = list(choice.request.prompt)
    return found

  # --- chunks ------------------------------------------------------------------------------------

  def _named(self) -> JSON:
    object = 'chat.completion.chunk' if self._asked.chat else self._head['object']
    return {'id': self._head['id'], 'object': object, **self._tail}

  def _chunk(self, choice: Choice, said: Any, **more: Any) -> JSON:
    key = 'delta' if self._asked.chat else 'text'
    one = {'index': choice.index, key: said, 'logprobs': None, 'finish_reason': None, **more}
    chunk = {**self._named(), 'choices': [one]}
    return {**chunk, 'usage': None} if self._asked.include_usage else chunk

  def _pieces(self, choice: Choice, deltas: Sequence[Delta]) -> list[Any]:
    """What deltas are in a stream; the choice remembers them."""
    found: list[Any] = []
    for kind, text in deltas:
      if kind == 'content':
        choice.text += text
        found.append({'content': text} if self._asked.chat else text)
      elif kind == 'reasoning':
        choice.reasoning += text
        found.append({'reasoning_content': text})
      else:
        found.append({'tool_calls': [self._called(choice, kind, text)]})
    return found

  def _called(self, choice: Choice, kind: str, text: str) -> JSON:
    if kind == 'call':
      function = {'name': text, 'arguments': ''}
      call = {'id': f'call_{secrets.token_hex(12)}', 'type': 'function', 'function': function}
      choice.calls.append(call)
      return {'index': len(choice.calls) - 1, **call, 'function': dict(function)}
    choice.calls[-1]['function']['arguments'] += text
    return {'index': len(choice.calls) - 1, 'function': {'arguments': text}}

  # --- log-probabilities -------------------------------------------------------------------------

  def _logprobs(self, choice: Choice, event: Event, told: int) -> JSON:
    entries = []
    for n in range(told):
      top = event.top[n][: self._asked.logprobs] if self._asked.logprobs and event.top else ()
      i = event.tokens[n]
      entries.append((i, event.logprobs[n], top, choice.offset))
      choice.offset += self._length(choice, i)
    choice.logprobs += entries
    return self._log(entries)

  def _log(self, entries: Sequence[Any]) -> JSON:
    """Log-probabilities in the form of either endpoint."""
    if self._asked.chat:
      one = lambda i, logp: {**self._token(i), 'logprob': finite(logp)}
      listed = [
        {**one(i, logp), 'top_logprobs': [one(*other) for other in top]}
        for i, logp, top, _ in entries
      ]
      return {'content': listed, 'refusal': None}
    return {
      'tokens': [self._spelled(i) for i, *_ in entries],
      'token_logprobs': [None if logp is None else finite(logp) for _, logp, *_ in entries],
      'top_logprobs': [
        {self._spelled(i): finite(logp) for i, logp in top}
        if self._asked.logprobs and top is not None
        else None
        for _, _, top, _ in entries
      ],
      'text_offset': [offset for *_, offset in entries],
    }

  def _token(self, i: int) -> Mapping[str, Any]:
    raw = self._tokenizer.bytes_of(i)
    return {'token': raw.decode('utf-8', 'replace'), 'bytes': list(raw)}

  def _spelled(self, i: int) -> str:
    r"""A token as a text; one that is no character by its bytes, as bytes:\xe6\x97."""
    raw = self._tokenizer.bytes_of(i)
    try:
      return raw.decode()
    except UnicodeDecodeError:
      return 'bytes:' + ''.join(f'\\x{b:02x}' for b in raw)

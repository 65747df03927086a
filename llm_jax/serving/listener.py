"""What an answer says as its tokens come: text, thoughts, and calls of tools."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from llm_jax.sampling.spoken_text import Spoken
from llm_jax.text import calls
from llm_jax.text.templates import MARKS
from llm_jax.types import Tokenizer

# How calls and thoughts are written: between control tokens of ours, between tags, or not at all.
Form = Literal['marks', 'tags', 'text']
MARKED = {'think': MARKS['thinking'], 'call': MARKS['search']}
TAGS = {'think': ('<think>', '</think>'), 'call': ('<tool_call>', '</tool_call>')}
_NAMED = re.compile(r'\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": (.*)\}\s*', re.DOTALL)


class Delta(NamedTuple):
  """A piece of an answer.

  Attributes:
    kind: 'content', 'reasoning', 'call' for the name of a tool, or 'arguments' of the last call.
    text: the piece.
  """

  kind: str
  text: str


class Listener:
  """Hears the ids of one answer; all deltas joined are the answer, however the ids were divided.

  Args:
    tokenizer: of the model.
    form: how calls and thoughts are written.
    after: the id that stands before the answer.
    stop_strings: texts that end it and do not belong to it.
    stop_ids: ids that do.
    tools: what may be called; without any, calls stay text.
    one_call: whether the calls after the first are left out.
    thinking: whether the prompt has opened a thought.
    ours: whether the server answers the calls: they and their results are part of what is thought.

  Attributes:
    calls: how many tools were called.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    *,
    form: Form,
    after: int | None,
    stop_strings: Sequence[str] = (),
    stop_ids: Sequence[int] = (),
    tools: Sequence[Mapping[str, Any]] = (),
    one_call: bool = False,
    thinking: bool = False,
    ours: bool = False,
  ) -> None:
    self._ours, self._result = ours, ''
    self.calls = 0
    self._tokenizer, self._stop_strings, self._stop_ids = tokenizer, stop_strings, {*stop_ids}
    self._form, self._tools, self._one_call = form, tools, one_call
    self._names = _control_names(tokenizer, form)
    self._signs = MARKED if form == 'marks' else TAGS
    self._base = self._kind = 'reasoning' if thinking else 'content'
    self._ended = self._said = False
    self._trim = thinking  # lines before what is said next are part of the form
    self._lines = self._held = self._call = ''
    self._deltas: list[Delta] = []
    self._spoken = self._decoder(after)

  def push(self, ids: Iterable[int]) -> list[Delta]:
    """What these ids add; what could still become something else is held back."""
    run: list[int] = []
    for i in map(int, ids):
      if self._ended:
        break
      name = self._names.get(i)
      if name is None and i not in self._stop_ids:
        run.append(i)
        continue
      self._hear(run)
      run = []
      if not self._ended and name is not None:
        self._read(self._spoken.flush())
        self._spoken = self._decoder(i)
        self._mark(name)
      self._ended |= i in self._stop_ids
    self._hear(run)
    return self._taken()

  def told(self, result: str) -> None:
    """The server has answered the call that the next ids will end."""
    self._result = f' = {result}\n'

  def finish(self) -> list[Delta]:
    """What was held back, at the end of the answer."""
    self._read(self._spoken.flush())
    held, self._held = self._held, ''
    if self._kind == 'call':
      self._call += held
      self._close_call(whole=False)
    else:
      self._emit(held)
    if self._lines:  # at the end they are part of a text, and not of a thought
      lines, self._lines = self._lines, ''
      if self._kind == 'content':
        self._add('content', lines)
    return self._taken()

  def _decoder(self, after: int | None) -> Spoken:
    return Spoken(self._tokenizer, self._stop_strings, (), after)

  def _taken(self) -> list[Delta]:
    found, self._deltas = self._deltas, []
    return found

  def _hear(self, ids: Sequence[int]) -> None:
    if ids and not self._ended:
      self._read(self._spoken.push(ids))
      self._ended |= self._spoken.stopped

  def _read(self, text: str) -> None:
    if self._form != 'tags':
      self._emit(text)
      return
    self._held += text
    while True:
      tags = self._expected()
      found = [(place, tag) for tag in tags if (place := self._held.find(tag)) >= 0]
      if not found:
        keep = max((_overlap(self._held, tag) for tag in tags), default=0)
        end = len(self._held) - keep
        said, self._held = self._held[:end], self._held[end:]
        self._emit(said)
        return
      place, tag = min(found)
      said, self._held = self._held[:place], self._held[place + len(tag) :]
      self._emit(said)
      self._mark(tag)

  def _expected(self) -> list[str]:
    """The tags that would mean something where we are."""
    if self._kind == 'call':
      return [TAGS['call'][1]]
    if self._kind == 'reasoning':
      return [TAGS['think'][1]]
    opens = [TAGS['call'][0]] if self._tools else []
    think, begin = TAGS['think'][0], self._held.lstrip()
    begins = not self._said and (begin.startswith(think) or think.startswith(begin))
    return [*opens, think] if begins else opens

  def _mark(self, name: str) -> None:
    """Goes on behind a mark or a tag."""
    think, call = self._signs['think'], self._signs['call']
    if self._kind == 'call' and name in call:
      self._close_call(whole=name == call[1])
      if name == call[0]:
        self._kind = 'call'
    elif name == call[0] and (self._tools or self._ours):
      self._lines = self._lines.removesuffix('\n') if self._kind == 'content' else ''
      self._emit('', flush=True)
      self._kind = 'call'
    elif name == think[0] and self._kind != 'call' and (self._form == 'marks' or not self._said):
      self._base, self._kind, self._trim = 'reasoning', 'reasoning', True
    elif name == think[1] and self._kind == 'reasoning':
      self._base, self._kind, self._lines, self._trim = 'content', 'content', '', True
      self._said = True
    elif name not in think:
      self._emit(name)

  def _close_call(self, *, whole: bool) -> None:
    """A call has ended; one that makes no sense, or did not end, stays text."""
    tags, text, self._call = self._signs['call'], self._call, ''
    self._kind = self._base
    if self._ours and whole:
      result, self._result = self._result, ''
      self._add('reasoning', text + result)
      return
    found = call_of(text, self._tools, plain=self._form == 'marks') if whole else None
    if found is None:
      self._emit(f'{tags[0]}{text}{tags[1] if whole else ""}')
    elif not (self._one_call and self.calls):
      self.calls += 1
      self._said = True
      self._deltas += [Delta('call', found[0]), Delta('arguments', found[1])]

  def _emit(self, text: str, flush: bool = False) -> None:
    """Adds text to what is being said; in the form of tags, lines at its borders wait."""
    if self._kind == 'call':
      self._call += text
      return
    if self._form == 'tags':
      whole = self._lines + text
      if self._trim:
        whole = whole.lstrip('\n')
      self._trim &= not whole
      end = len(whole) if flush else len(whole.rstrip('\n'))
      text, self._lines = whole[:end], whole[end:]
    if text:
      self._said = True
      self._add(self._kind, text)

  def _add(self, kind: str, text: str) -> None:
    last = self._deltas[-1] if self._deltas else None
    if last is not None and last.kind == kind:
      self._deltas[-1] = Delta(kind, last.text + text)
    else:
      self._deltas.append(Delta(kind, text))


def _control_names(tokenizer: Tokenizer, form: Form) -> dict[int, str]:
  """The control tokens that are heard, by id."""
  heard = MARKS.values() if form == 'marks' else TAGS.values() if form == 'tags' else ()
  names = [name for both in heard for name in both]
  return {tokenizer.specials[name]: name for name in names if name in tokenizer.specials}


def _overlap(text: str, tag: str) -> int:
  """How many characters at the end of a text could begin a tag.

  >>> _overlap('a <tool', '<tool_call>')
  5
  """
  longest = min(len(text), len(tag) - 1)
  return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)


def call_of(
  text: str, tools: Sequence[Mapping[str, Any]], *, plain: bool = False
) -> tuple[str, str] | None:
  """The name of a tool and its arguments as JSON, of a call as models write it.

  >>> call_of('{"name": "add", "arguments": {"a": 1}}', [])
  ('add', '{"a": 1}')
  >>> tools = [{'function': {'name': name}} for name in ('search', 'calculator')]
  >>> call_of('who was Ada?', tools, plain=True), call_of('calculator(2 * 3)', tools, plain=True)
  (('search', '{"query": "who was Ada?"}'), ('calculator', '{"query": "2 * 3"}'))

  Args:
    text: of the call.
    tools: what may be called.
    plain: whether a text that is no JSON is read too, as `text.calls.read` does.
  """
  try:
    if found := _NAMED.fullmatch(text):
      name, arguments = json.loads(found[1]), found[2]
      json.loads(arguments)
      return name, arguments
    read = json.loads(text)
  except (ValueError, RecursionError):
    read = None
  if isinstance(read, dict) and isinstance(read.get('name'), str):
    arguments = read.get('arguments', read.get('parameters', {}))
    as_text = isinstance(arguments, str)
    return read['name'], arguments if as_text else json.dumps(arguments, ensure_ascii=False)
  if not plain or not tools:
    return None
  functions = {tool['function']['name']: tool['function'] for tool in tools}
  name, said = calls.read(text, functions)
  schema = functions.get(name, {}).get('parameters') or {}
  properties = schema.get('properties') if isinstance(schema, Mapping) else None
  first = next(iter(properties), 'query') if isinstance(properties, Mapping) else 'query'
  return name, json.dumps({first: said}, ensure_ascii=False)

"""Job `chat`: a conversation with a trained model in the terminal, written as it is sampled."""

import contextlib
import dataclasses
import io
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from llm_jax import artifact
from llm_jax.find import call, find
from llm_jax.jobs import answering
from llm_jax.jobs.trust import trusted
from llm_jax.models.compute import Compute
from llm_jax.options import Count, NotNegative, Place, Seed, TopP
from llm_jax.options import check as check_options
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling import pick
from llm_jax.sampling.calls import Caller, Tools
from llm_jax.sampling.request import Request
from llm_jax.sampling.runner import keep_programs
from llm_jax.sampling.spoken_text import Spoken
from llm_jax.sampling.turns import Turns
from llm_jax.text import calls, chat
from llm_jax.text.message import message
from llm_jax.text.terminal import say
from llm_jax.text.visible import settled, visible
from llm_jax.tools import listed, make_tools
from llm_jax.types import BadInput

QUESTION = 64  # tokens that are kept free for what the user says
HELP = """/reset            forget the conversation
/temperature 0.7  how freely to sample; 0 always takes the likeliest token
/top_p 0.95       only the likeliest tokens that together have this probability
/tools on         let the model call its tools, or off
/quit             leave; so does Ctrl-D. Ctrl-C stops an answer"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'chat'.
    artifact: folder of the model.
    system: what it is told before the conversation; '' for nothing.
    max_new: most tokens of an answer.
    temperature: logits are divided by it; 0 always takes the likeliest token.
    top_p: only the likeliest tokens that together have this probability; None for all.
    tools: a file of tools/ -> its options.
    use_tools: whether it may call them from the start; /tools on and /tools off change it.
    mesh: sizes of the axes of the device mesh.
    seed: of the sampling.
    compute: how the model is run.
    trust: modules of yours that the artifacts may name as their model, such as 'mine.model'; other
      code than llm_jax's own is not imported because an artifact names it.
  """

  job: str
  artifact: Place
  system: str
  max_new: Count
  temperature: NotNegative
  top_p: TopP | None
  tools: Mapping[str, Any]
  use_tools: bool
  mesh: Mapping[str, Any]
  seed: Seed
  compute: Mapping[str, Any] | None = None
  trust: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  yield 'mesh', make_mesh, ('devices',)
  yield 'compute', Compute, ()
  for name in config.tools:
    yield f'tools.{name}', find('tools', name).make, ()


def check(config: Any) -> None:
  """Whether there is a model that can answer.

  Raises:
    BadInput: naming the field or the folder.
  """
  check_options(Fields, config, where='config')
  call(make_mesh, config.mesh, where='mesh')
  for name, group in config.tools.items():
    check_options(find('tools', name).make, group, where=f'tools.{name}')
  model = answering.model_of(config.artifact, job='chat')
  if config.max_new + QUESTION > model.get('max_length', 2048):
    raise BadInput(
      f'chat: max_new {config.max_new} leaves no room for a question among the '
      f'{model.get("max_length", 2048)} positions of the model'
    )
  pick.make(temperature=config.temperature, top_p=config.top_p)


def main(config: Any) -> None:
  """Reads a line, answers it, until there is no more."""
  mesh = call(make_mesh, config.mesh, where='mesh')
  if isinstance(sys.stdin, io.TextIOWrapper):
    sys.stdin.reconfigure(errors='surrogateescape')  # else one bad byte takes other lines with it
  signal.signal(signal.SIGINT, signal.default_int_handler)  # ends the chat; see `_stops`
  keep_programs()
  with jax.set_mesh(mesh), contextlib.suppress(EOFError, KeyboardInterrupt):
    talk = Chat(config, mesh)
    say(f'{config.artifact}: {talk.about}. /help says what else can be typed.')
    while True:
      try:
        line = _read()
        if line == '/quit':
          return
        if line.startswith('/'):
          say(talk.command(line))
        elif line:
          talk.answer(line)
      except BadInput as error:  # this line cannot be answered; the next one may
        say(str(error))


def _read() -> str:
  """A line of the user.

  Raises:
    BadInput: its bytes are not UTF-8.
    EOFError: there are no more.
  """
  if sys.stdin.isatty():
    with contextlib.suppress(ImportError):
      import readline  # noqa: F401, gives `input` its history and its keys
  line = input('\nyou> ' if sys.stdin.isatty() else '').strip()
  try:
    line.encode()
  except UnicodeEncodeError as error:
    raise BadInput(
      f'chat: character {error.start + 1} of this line is not UTF-8; write it anew'
    ) from None
  return line


class Chat:
  """A conversation, and the model that it is held with.

  Attributes:
    messages: so far.
    about: one line on the model.
  """

  def __init__(self, config: Any, mesh: jax.sharding.Mesh) -> None:
    made = artifact.load(config.artifact, mesh, config.get('compute'), trust=trusted(config))
    self._model, self._params, self._tokenizer = made.model, made.params, made.tokenizer
    self._max_new, self._seed = config.max_new, config.seed
    # A model that never saw a conversation is asked in the way of the text it knows.
    self._template = chat.find_template(made.template or 'plain', self._tokenizer)
    self._system, self._turn = config.system, 0
    self._how = {'temperature': config.temperature, 'top_p': config.top_p}
    self._groups, self._tools_on = config.tools.to_dict(), bool(config.use_tools)
    self._tools: Caller | None = None
    self._turns = Turns(self._model, self._params, self._tokenizer, mesh)
    # Of the answer that is being written.
    self._ids, self._said, self._shown = [], '', 0
    self.messages: list[Mapping[str, Any]] = []
    self._reset()
    shape = self._model.shape
    own = self._template if isinstance(self._template, str) else 'of its own'
    kind = f'template {own}' if made.template else 'a base model, it goes on with text'
    self.about = f'stage {made.stage}, {self._model.num_params() / 1e6:.2f}M parameters, {kind}'
    self.about += f', {shape.max_length} positions'

  def command(self, line: str) -> str:
    """Does what a line that begins with / says; returns what to print."""
    name, _, value = line[1:].partition(' ')
    try:
      if name == 'reset':
        self._reset()
        return 'forgotten'
      if name in self._how and value:
        how = {**self._how, name: float(value)}
        pick.make(**how)
        self._how = how
        return f'{name} is {float(value):g}'
      if name == 'tools' and value in ('on', 'off'):
        before, self._tools_on = self._tools_on, value == 'on'
        try:
          self._caller()  # says now if a tool is missing
        except BadInput:
          self._tools_on = before
          raise
        return f'tools are {value}: {", ".join(listed(self._groups)) or "there are none"}'
    except (BadInput, ValueError) as error:
      return str(error)
    return HELP

  def answer(self, text: str) -> str:
    """Says something, prints the answer as it comes, and remembers both.

    Ctrl-C ends the answer; what was written until then is remembered.
    """
    before = list(self.messages)
    self.messages.append({'role': 'user', 'content': text})
    try:
      caller = self._caller()
      request = self._request(caller)
    except BadInput:
      self.messages = before
      raise
    self._turn += 1
    self._ids, self._said, self._shown = [], '', 0
    stop, after = request.stop, request.prompt[-1]
    spoken = Spoken(self._tokenizer, stop_ids=stop, after=after, specials=True)
    seen: list[tuple[float, int]] = []  # when how many tokens were there
    with _stops() as stopped, contextlib.closing(self._turns.answer(request, caller)) as events:
      for event in events:
        self._ids += event.tokens
        self._said += spoken.push(event.tokens)
        self._print(settled(self._said))  # half a character waits for its other half
        seen.append((time.perf_counter(), len(self._ids)))
        if stopped.is_set():
          break
    self._said = self._said.rstrip('\ufffd')  # what bytes are that never became a character
    self._print()
    if stopped.is_set():
      say(' [stopped]', end='')
    say()
    say(_pace(seen), style='dim')
    said = message(self._tokenizer, self._ids, template=self._template, after=after)
    self.messages.append(_without_calls(said))
    return self._said

  def _reset(self) -> None:
    self.messages = [{'role': 'system', 'content': self._system}] if self._system else []

  def _request(self, caller: Caller | None) -> Request:
    """The conversation to be answered; its oldest turns are left out once it is too long."""
    most = self._turns.positions - self._room(caller)
    kept = self.messages
    while True:
      names = listed(self._groups) if self._tools_on else []
      pieces = chat.pieces(calls.led(kept, names), template=self._template, answer=True)
      ids, _ = chat.encode(self._tokenizer, pieces)
      if len(ids) <= most:
        break
      first = next(i for i, message in enumerate(kept) if message['role'] == 'user')
      later = next((i for i in range(first + 1, len(kept)) if kept[i]['role'] == 'user'), None)
      if later is None:
        raise BadInput(f'chat: a question of {len(ids)} tokens; the model has room for {most}')
      kept = [*kept[:first], *kept[later:]]
    if len(kept) < len(self.messages):
      say(f'[{len(self.messages) - len(kept)} old messages no longer fit]', style='dim')
      self.messages = list(kept)
    key = jax.random.fold_in(jax.random.key(self._seed), self._turn)
    stop = tuple(chat.stop_ids(self._tokenizer, self._template))
    words = jax.random.key_data(key).tolist()
    return Request(prompt=ids, max_new=self._max_new, stop=stop, key=words, **self._how)

  def _room(self, caller: Caller | None) -> int:
    """Positions that an answer with the results of its tools can take."""
    return self._max_new + (caller.tools.slots if caller else 0)

  def _caller(self) -> Caller | None:
    """Who runs the tools; None while they are off."""
    if not self._tools_on or not self._groups:
      return None
    if self._tools is None:
      tools = Tools(make_tools(self._groups, where='tools'))
      self._tools = Caller(self._tokenizer, tools, self._model.shape.vocab_size)
    room, most = self._room(self._tools), self._turns.positions
    if room + QUESTION > most:
      raise BadInput(
        f'chat: answers with their tools take up to {room} of the {most} positions of the model, '
        'which leaves no room for a question; lower config.max_new'
      )
    return self._tools

  def _print(self, text: str | None = None) -> None:
    """Prints what is new of the text, by default of all that was said."""
    shown = visible(self._said if text is None else text)
    say(shown[self._shown :], end='')
    self._shown = max(self._shown, len(shown))


@contextlib.contextmanager
def _stops() -> Iterator[threading.Event]:
  """In this context Ctrl-C sets the event; one more acts as it would outside.

  An exception in the middle of a step could leave the arrays of the engine half changed.
  """
  stopped = threading.Event()

  def once(number: int, frame: Any) -> None:
    del number, frame
    signal.signal(signal.SIGINT, before)
    stopped.set()

  before = signal.signal(signal.SIGINT, once)
  try:
    yield stopped
  finally:
    signal.signal(signal.SIGINT, before)


def _pace(seen: Sequence[tuple[float, int]]) -> str:
  """Tokens of an answer, and how fast they came after the first, which waits for compilation."""
  if len(seen) < 2:
    return f'{seen[-1][1] if seen else 0} tokens'
  (first, few), (last, all_) = seen[0], seen[-1]
  return f'{all_} tokens, {(all_ - few) / max(last - first, 1e-9):.0f} a second'


def _without_calls(said: Mapping[str, Any]) -> dict[str, Any]:
  """An answer without its calls and their results, as it enters the conversation."""
  content = said['content']
  if not isinstance(content, str):
    content = [part for part in content if part['type'] in ('text', 'thinking')]
    if all(part['type'] == 'text' for part in content):
      content = ''.join(part['text'] for part in content)
  if isinstance(content, str):
    content = content.rstrip('\ufffd').strip()
  return {'role': 'assistant', 'content': content}

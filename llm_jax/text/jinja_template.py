"""The chat template of somebody else's model: Jinja text, read into pieces as our own are.

The text is that of transformers. It is cut where the template itself wrote a control token, so
nobody who types one gets one (text/disguise.py), and there is one rendering: the prompt of an
answer is the beginning of its training row, or the row is refused. Trained is what the template
marks with {% generation %}, else what an answer adds to its prompt, up to the token that stops it.
A message of which the template writes nothing is refused as well.
"""

import datetime
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from llm_jax.text import jinja_messages as form
from llm_jax.text.disguise import Disguise
from llm_jax.text.sandbox import CLOSE, OPEN, NoDate, Sandboxed
from llm_jax.text.templates import Piece, Turn
from llm_jax.types import BadInput, Tokenizer

# The beginning of a template whose date stands still; to Jinja it is a comment.
_DATE = re.compile(r'\{# date: ([0-9T:.-]+) #\}')
_EMPTY_THOUGHT = re.compile(r'\s*<think>\s*</think>\n*')


class Written(NamedTuple):
  """A rendering.

  Attributes:
    text: of the whole conversation.
    controls: (start, end) of each control token that the template wrote.
    said: whether the character at a place comes from a message, as far as that is known.
    marks: (start, end) of what the template marks as the assistant's.
  """

  text: str
  controls: list[tuple[int, int]]
  said: Callable[[int], bool]
  marks: list[tuple[int, int]]


class JinjaTemplate:
  """A chat template in Jinja and the control tokens of its tokenizer.

  Attributes:
    text: in Jinja, with the date before it if there is one.
    stop: name of the control token that ends an answer; None if there is no such.
  """

  def __init__(self, text: str, tokenizer: Tokenizer, where: str = 'chat template', date: str = ''):
    """
    Args:
      text: in Jinja.
      tokenizer: gives the names of control tokens.
      where: what errors begin with.
      date: what the template takes for today, such as 2026-01-31; by default that of `text`.

    Raises:
      BadInput: this is no template, or no date, or it needs a date.
    """
    dated = _DATE.match(text)
    body = text[dated.end() :] if dated else text
    date = date or (dated[1] if dated else '')
    try:
      self._date = datetime.datetime.fromisoformat(date) if date else None
    except ValueError:
      raise BadInput(f'data.date {date!r} is no date; write it like 2026-01-31') from None
    self.text = f'{{# date: {date} #}}{body}' if date else body
    self._where = where
    self._sandboxed = Sandboxed(body, where)
    self._names = sorted(tokenizer.specials, key=len, reverse=True)  # the longest is matched first
    self._controls = re.compile('|'.join(map(re.escape, self._names)) or '(?!)')
    name_of = {i: name for name, i in tokenizer.specials.items()}
    self._bos = name_of.get(-1 if tokenizer.bos_id is None else tokenizer.bos_id)
    self._eos = name_of.get(next(iter(tokenizer.stop_ids), -1))
    tokens = {'bos_token': self._bos, 'eos_token': self._eos}
    self._variables = {key: name for key, name in tokens.items() if name is not None}
    self.stop = self._stop()

  def _stop(self) -> str | None:
    reply = '\U000f0000'
    asked = [{'role': 'user', 'content': 'x'}, {'role': 'assistant', 'content': reply}]
    try:
      text = self.render(asked)
    except NoDate:
      raise
    except BadInput:  # it wants conversations of another kind
      return None
    found = self._controls.search(text, text.rfind(reply) + 1) if reply in text else None
    return found[0] if found else None

  def render(
    self,
    messages: Sequence[Mapping[str, Any]],
    *,
    answer: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
    **variables: Any,
  ) -> str:
    """The text that transformers would write, with all its losses.

    Args:
      messages: of chat interfaces.
      answer: whether the beginning of an answer follows.
      tools: JSON schemas of what may be called.
      **variables: others that this template knows, such as `enable_thinking`.
    """
    given = {'messages': [*map(form.with_thought, messages)], 'tools': tools}
    return self._bare(self._render(given, answer, **variables))

  def _render(self, given: form.Given, answer: bool, **variables: Any) -> str:
    """The text, with the marks of {% generation %} in it."""
    return self._sandboxed.render(
      self._date,
      messages=given['messages'],
      tools=[*given['tools']] or None,
      add_generation_prompt=answer,
      **self._variables,
      **variables,
    )

  def _bare(self, text: str) -> str:
    return text.replace(OPEN, '').replace(CLOSE, '') if self._sandboxed.marks else text

  def pieces(
    self,
    messages: Sequence[Mapping[str, Any]],
    turns: Sequence[Turn],
    *,
    answer: bool = False,
    trained: Collection[int] = (),
    tools: Sequence[Mapping[str, Any]] = (),
  ) -> list[Piece]:
    """A conversation as pieces.

    Args:
      messages: of the conversation. No message is written as an empty question.
      turns: the same, read.
      answer: append what the template writes before an answer.
      trained: which messages are trained.
      tools: JSON schemas of what may be called.

    Raises:
      BadInput: the template refuses the messages, loses one, or writes the prompt of a trained
        answer otherwise in its row; the error has the number of the message.
    """
    both = enumerate(zip(messages, turns, strict=True))
    asked = [form.in_form(message, turn, f'chat: message {i}') for i, (message, turn) in both]
    given = {'messages': asked or [{'role': 'user', 'content': ''}], 'tools': tools}
    try:
      text = self._render(given, answer)
    except NoDate:
      raise
    except BadInput:
      given = {**given, 'messages': [*map(form.with_text_arguments, given['messages'])]}
      text = self._render(given, answer)
    written = self._written(text, given, answer, trained)
    begun = sum(written.text[a:b] == self._bos for a, b in written.controls)
    if begun > 1 and self._bos not in (self._eos, self.stop):
      raise BadInput(f'{self._where}: it writes {begun} begin-of-text tokens; one is right')
    if not self._sandboxed.marks:
      return _cut(written, [self._span(written, given, i) for i in trained])
    # A mark belongs to the last answer whose prompt ends before it does.
    answers = [i for i, turn in enumerate(turns) if turn.answers]
    begins = {i: self._begin(written, given, i, i in trained) for i in answers if trained}
    of = lambda end: max((i for i, begin in begins.items() if begin < end), default=None)
    spans = [(start, end) for start, end in written.marks if of(end) in trained]
    return _cut(written, spans)

  def _written(
    self, text: str, given: form.Given, answer: bool, trained: Collection[int]
  ) -> Written:
    """The rendering `text`, read; BadInput if a message is lost."""
    constants, fields = self._sandboxed.constants, self._sandboxed.fields
    disguise = Disguise(given, self._names, constants, fields)
    notes = dict(zip(form.fields(given), disguise.notes))
    for some in (notes, {}):
      try:
        changed = form.noted(given, some)
        worn = self._render({key: disguise.on(changed[key]) for key in changed}, answer)
      except BadInput:  # the template looks at the text, and takes offence at the disguise
        continue
      missing = [field for field, note in notes.items() if note not in worn]
      worn = worn.translate(dict.fromkeys(map(ord, some.values())))
      if disguise.off(worn) == text:
        self._check_lost(text, given, answer, trained, missing)
        return self._read(worn, disguise.off, disguise.said)
    self._check_lost(text, given, answer, trained, [*notes])
    begins = sorted({name[0] for name in self._names} | {OPEN, CLOSE})
    for i, message in enumerate(given['messages']):
      if any(char in said for said in form.texts(message, but=('role',)) for char in begins):
        raise BadInput(
          f'chat: message {i}: the template works on it in such a way that control tokens typed in '
          f'it could not be told from its own; take characters like {begins[0]} out of it'
        )
    return self._read(text, str, lambda worn: lambda place: False)

  def _read(self, worn: str, off: Callable[[str], str], said: Callable[[str], Any]) -> Written:
    """A rendering in disguise, with the marks of {% generation %}."""
    bare, marks, start = '', [], 0
    for part in re.split(f'([{OPEN}{CLOSE}])', worn) if self._sandboxed.marks else (worn,):
      if part == OPEN:
        start = len(bare)
      elif part == CLOSE:
        marks.append((start, len(bare)))
      else:
        bare += part
    controls = [match.span() for match in self._controls.finditer(bare)]
    return Written(off(bare), controls, said(bare), marks)

  def _check_lost(
    self,
    text: str,
    given: form.Given,
    answer: bool,
    trained: Collection[int],
    missing: Sequence[form.Field],
  ) -> None:
    """Refuses fields that make no difference to the text."""
    for field in missing:
      if self._differs(text, given, answer, field):
        continue
      if field.where == 'tools':
        raise BadInput(f'{self._where}: it writes nothing of tools; name them in a system message')
      # Thoughts of earlier answers are left out by design: the last answer keeps its own.
      i, messages, mend = field.index, given['messages'], 'take that out'
      if messages[i]['role'] == 'assistant':
        short = {**given, 'messages': messages[: i + 1]}
        if self._differs(self._render(short, False), short, False, field):
          if i not in trained:
            continue
          mend = 'train the last answer only, config.data.train_on=last'
      raise BadInput(
        f'chat: message {i}: this chat template writes nothing of its {field.name}; {mend}, or '
        'choose another template'
      )

  def _differs(self, text: str, given: form.Given, answer: bool, field: form.Field) -> bool:
    try:
      return self._render(form.noted(given, {field: 'x'}), answer) != text
    except BadInput:
      return True

  def _begin(self, written: Written, given: form.Given, i: int, trained: bool) -> int:
    """Where the answer `i` begins, behind its prompt."""
    try:
      prompt = self._bare(self._render({**given, 'messages': given['messages'][:i]}, True))
    except BadInput as error:
      raise BadInput(f'chat: message {i}: there is no prompt for it: {error}') from None
    same = _common(written.text, prompt)
    if trained and same < len(prompt):
      raise BadInput(
        f'chat: message {i}: its prompt is not how its training row begins: this chat template '
        f'writes {_shown(prompt, same)} before an answer that is sampled and '
        f'{_shown(written.text, same)} in a conversation; choose another template'
      )
    return same

  def _span(self, written: Written, given: form.Given, i: int) -> tuple[int, int]:
    """(start, end) of the answer `i` with the token that stops it."""
    text, start = written.text, self._begin(written, given, i, True)
    alone = self._bare(self._render({**given, 'messages': given['messages'][: i + 1]}, False))
    same = max(_common(text, alone), start)
    thought = _EMPTY_THOUGHT.match(text, start, same)
    if thought and not (given['messages'][i]['content'] or '').lstrip().startswith('<think>'):
      start = thought.end()
    spoken = (place + 1 for place in range(same - 1, start - 1, -1) if written.said(place))
    last = next(spoken, start)
    ends = [(text[a:b], b) for a, b in written.controls if last <= a and b <= same]
    stops = [end for name, end in ends if name in (self.stop, self._eos)]
    if stops:
      return start, stops[0]
    if same < len(alone):
      raise BadInput(
        f'chat: message {i}: this chat template writes an answer otherwise where the conversation '
        f'goes on ({_shown(text, same)}) than at its end ({_shown(alone, same)}); train the last '
        'answer only, config.data.train_on=last, or choose another template'
      )
    return start, ends[0][1] if ends else same


def dated(text: str, tokenizer: Tokenizer, where: str) -> str:
  """A template as it is kept with a model: one that writes the date has from now on that of today.

  Raises:
    BadInput: it is no template; opened by `where`.
  """
  writes = 'strftime_now' in text and not _DATE.match(text)
  today = datetime.date.today().isoformat() if writes else ''
  return JinjaTemplate(text, tokenizer, where, today).text


def _common(one: str, other: str) -> int:
  """How many characters two texts have in common at their beginning."""
  if one.startswith(other):
    return len(other)
  return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), len(one))


def _shown(text: str, place: int) -> str:
  return repr(text[place : place + 24])


def _cut(written: Written, spans: Sequence[tuple[int, int]]) -> list[Piece]:
  """Control tokens, and the texts between them, which are cut at the edges of `spans`."""
  edges = {0, len(written.text), *(edge for span in (*spans, *written.controls) for edge in span)}
  inside = {place for start, end in written.controls for place in range(start + 1, end)}
  places, controls = sorted(edges - inside), set(written.controls)
  found: list[Piece] = []
  for start, end in itertools.pairwise(places):
    control = (start, end) in controls
    trainable = any(a <= start and end <= b for a, b in spans)
    joined = bool(found) and not control and not found[-1].control
    found.append(Piece(written.text[start:end], trainable, control, joined))
  return found

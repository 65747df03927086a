"""Turns messages into pieces of text that know whether they are trained on, and pieces into ids.

A template is a list of pieces, so ids and mask cannot disagree, and a control token is a piece of
its own, so no text can turn into one. Messages are those of chat interfaces:

  {'role': 'system' | 'user' | 'assistant' | 'tool', 'content': a string or a list of parts}

A part is {'type': 'text', 'text': ...}; an assistant has the types 'thinking', 'search' (a query)
and 'result' (what the search gave back, never trained) as well. It may also carry `thinking`,
`reasoning_content` or `reasoning` beside its content, and `tool_calls` in the form of OpenAI. An
answer with `weight: 0`, `train: false` or the like is context and no target; see `is_trained`.

Ids do not depend on what is trained, so the prompt of an answer is a prefix of its training row.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.options import suggest
from llm_jax.text.jinja import JINJA
from llm_jax.text.jinja_messages import THINKING
from llm_jax.text.jinja_template import JinjaTemplate
from llm_jax.text.templates import MARKS, TEMPLATES, Part, Piece, Template, Turn
from llm_jax.text.tokenizer import BOS, EOS
from llm_jax.types import BadInput, Tokenizer

Message = Mapping[str, Any]
ChatTemplate = str | JinjaTemplate

FOLDER = 'folder'  # names the template that came with a tokenizer

ROLES = ('system', 'user', 'assistant', 'tool')
TRAIN_ON = ('all', 'last')
# What people call it whether an answer is a target.
TRAINED = (
  'train',
  'weight',
  'trained',
  'trainable',
  'training',
  'train_on_turn',
  'loss',
  'loss_mask',
  'loss_weight',
  'loss_scale',
  'step_loss_mask',
)
# A mask may mark either what is trained or what is not; details are about parts of a text.
_UNCLEAR = ('mask', 'masked', 'train_detail', 'train_details', 'training_detail')


def pieces(
  messages: Sequence[Message],
  *,
  template: ChatTemplate = 'llm_jax',
  answer: bool = False,
  train_on: str = 'all',
  tools: Sequence[Mapping[str, Any]] = (),
) -> list[Piece]:
  """A conversation as pieces; what the assistant says, up to its stop token, is trainable.

  >>> talk = [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello.'}]
  >>> [piece.text for piece in pieces(talk) if piece.trainable]
  ['Hello.', '<|im_end|>']
  >>> ''.join(piece.text for piece in pieces(talk[:1], answer=True))
  '<|begin_of_text|><|im_start|>user<|im_sep|>Hi<|im_end|><|im_start|>assistant<|im_sep|>'

  Args:
    messages: the top of this file says what they may be.
    template: one of TEMPLATES, or what `find_template` gives.
    answer: append what the template writes before an answer, so that the next one can be generated.
    train_on: whether 'all' answers are trained on, or only the 'last' one.
    tools: JSON schemas of what may be called, for a template in Jinja.

  Raises:
    BadInput: an unknown template, role or part, or something that the template has no form for.
  """
  if train_on not in TRAIN_ON:
    raise BadInput(f'chat: train_on {train_on!r}; {suggest(train_on, list(TRAIN_ON))}')
  turns = [_turn(message, i) for i, message in enumerate(messages)]
  if isinstance(template, JinjaTemplate):
    answers = [i for i, turn in enumerate(turns) if turn.answers and not answer]
    trained = [i for i in (answers if train_on == 'all' else answers[-1:]) if turns[i].trained]
    return template.pieces(messages, turns, answer=answer, trained=trained, tools=tools)
  form = _template(template)
  if tools:
    raise BadInput(
      f'chat: template {template} has no form for tools; list them in a system message'
    )
  turns = form.arrange(turns)
  answers = [i for i, turn in enumerate(turns) if turn.answers]
  trained = [i for i in (answers if train_on == 'all' else answers[-1:]) if turns[i].trained]
  found = [*form.opening]
  for i, turn in enumerate(turns):
    header, body = form.header(turn.role), form.body(turn)
    # Pieces are merged before we look at `train_on`, which must not change the ids. The header of
    # an answer stays a piece of its own: when the answer is generated, it is there already.
    if turn.answers:
      written = header + _merged(body) + form.end(turn)
    else:
      written = _merged(header + _untrained(body)) + form.end(turn)
    found += written if i in trained else _untrained(written)
  return found + form.header(form.assistant) if answer else found


def has_form(template: ChatTemplate, messages: Sequence[Message]) -> bool:
  """Whether a template can write these messages, and an answer behind them.

  >>> question, answer = {'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hi.'}
  >>> [has_form('plain', talk) for talk in ([question], [question, answer, question])]
  [True, False]
  """
  try:
    return bool(pieces(messages, template=template, answer=True))
  except BadInput:
    return False


def is_trained(message: Message) -> bool:
  """Whether a message is a target: answers are, unless one of TRAINED says that they are not.

  >>> is_trained({'role': 'assistant', 'content': 'Hi', 'weight': 0})
  False

  Raises:
    BadInput: it is to be trained in part, or says so in a way that could mean either, or is no
      answer and is to be trained.
  """
  role = message.get('role')
  if unclear := [key for key in _UNCLEAR if message.get(key) is not None]:
    raise BadInput(
      f'{unclear[0]} of a message of {role} is {str(message[unclear[0]])[:60]!r}; a message is '
      'trained as a whole or not: write train: true or train: false'
    )
  said = {key: message[key] for key in TRAINED if message.get(key) is not None}
  flags = {key: truth(value) for key, value in said.items()}
  if None in flags.values() or len(set(flags.values())) > 1:
    raise BadInput(f'a message of {role} has {said}; use one of these, and write 1 or 0')
  # A weight of 1 is what every message has that says nothing.
  if role != 'assistant' and any(flag and key != 'weight' for key, flag in flags.items()):
    raise BadInput(f'a message of {role} has {said}, but only those of the assistant are trained')
  return role == 'assistant' and all(flags.values())


def untrained(message: Message) -> Message:
  """The message as one that is no target."""
  return {k: v for k, v in message.items() if k not in TRAINED} | {'train': False}


def truth(value: Any) -> bool | None:
  """What true or false, 1 or 0, or a text of one of these says; None if it is none of them.

  >>> truth(0.0), truth('True'), truth(0.5)
  (False, True, None)
  """
  if isinstance(value, str):
    return {'true': True, '1': True, '1.0': True, 'false': False, '0': False, '0.0': False}.get(
      value.strip().lower()
    )
  return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


def encode(tokenizer: Tokenizer, found: Iterable[Piece]) -> tuple[list[int], list[int]]:
  """Ids of the pieces, and a mask that is 1 where a token is trainable.

  >>> from llm_jax.text.tokenizer import Tokenizer
  >>> tokenizer = Tokenizer.train(['abc'], vocab_size=273)
  >>> found = [Piece('<|im_sep|>', control=True), Piece('<|im_sep|>'), Piece('abc', trainable=True)]
  >>> ids, mask = encode(tokenizer, found)  # the second one is text, and no control token
  >>> ids.count(tokenizer.special('<|im_sep|>')), sum(mask)
  (1, 3)

  Raises:
    BadInput: a control token that the tokenizer does not have.
  """
  return encode_all(tokenizer, [found])[0]


def encode_all(
  tokenizer: Tokenizer, conversations: Iterable[Iterable[Piece]]
) -> list[tuple[list[int], list[int]]]:
  """`encode` of many conversations; a text that occurs often is encoded once.

  A token that spans joined pieces is trained if one of them is.
  """
  listed = [[own for piece in found for own in _own(tokenizer, piece)] for found in conversations]
  runs = [_runs(found) for found in listed]
  pairs = [[(_text(run), run[0].control) for run in some] for some in runs]
  encoded = []
  for some, parts in zip(runs, tokenizer.encode_pieces(pairs), strict=True):
    mask: list[int] = []
    for n, (run, ids) in enumerate(zip(some, parts, strict=True)):
      if len({piece.trainable for piece in run}) == 1:
        mask += [int(run[0].trainable)] * len(ids)
      else:
        mask += _mask(tokenizer, some[n - 1] if n else [], run, ids)
    encoded.append(([i for part in parts for i in part], mask))
  return encoded


def _runs(found: Iterable[Piece]) -> list[list[Piece]]:
  """Pieces that are encoded together."""
  runs: list[list[Piece]] = []
  for piece in found:
    if piece.joined:
      runs[-1].append(piece)
    else:
      runs.append([piece])
  return runs


def _text(run: Iterable[Piece]) -> str:
  return ''.join(piece.text for piece in run)


def _mask(
  tokenizer: Tokenizer, before: Sequence[Piece], run: Sequence[Piece], ids: Sequence[int]
) -> list[int]:
  """Which ids of a run of pieces touch one that is trained."""
  # A tokenizer may change a text, so where pieces end is measured in bytes of tokens.
  size = lambda some: sum(int(tokenizer.token_bytes[i]) for i in some)
  led = [(_text([piece]), piece.control) for piece in before]
  starts = [[*led, (_text(run[: n + 1]), False)] for n in range(len(run))]
  ends = [size(parts[-1]) for parts in tokenizer.encode_pieces(starts)]
  begins = [0, *ends[:-1]]
  mask, at = [], 0
  for i in ids:
    to = at + size([i])
    touches = (p.trainable and a < to and at < b for p, a, b in zip(run, begins, ends))
    mask.append(int(any(touches)))
    at = to
  return mask


def _own(tokenizer: Tokenizer, piece: Piece) -> list[Piece]:
  """The piece; or, of the begin and the end of a text, the tokenizer's own tokens for it."""
  if not piece.control or piece.text in tokenizer.specials:
    return [piece]
  ids = {BOS: tokenizer.begin, EOS: tokenizer.stop_ids[:1]}.get(piece.text)
  if ids is None:
    raise BadInput(
      f'chat: this tokenizer has no control token {piece.text}; use template llm_jax, train a '
      'tokenizer with specials for this one, or add what it lacks with config.init.add'
    )
  names = {i: name for name, i in tokenizer.specials.items()}
  return [piece._replace(text=names[i]) for i in ids if i in names]


def check(ids: Sequence[int], mask: Sequence[int], tokenizer: Tokenizer) -> None:
  """Raises BadInput if no token or every token is trained on, or the text begins twice."""
  if not any(mask):
    raise BadInput('chat: no token is trainable; the conversation needs an answer of the assistant')
  if all(mask):
    raise BadInput('chat: every token is trainable; something has to come before the answer')
  bos = tokenizer.bos_id
  # GPT-2 has one token for the begin and the end of a text, so several of them say nothing.
  begun = 0 if bos is None or bos in tokenizer.stop_ids[:1] else list(ids).count(bos)
  if begun > 1:
    raise BadInput(f'chat: {begun} begin-of-text tokens; the template writes one, so add none')


def stop_ids(tokenizer: Tokenizer, template: ChatTemplate = 'llm_jax') -> list[int]:
  """Ids that end an answer: the stop token of the template first, then those of the tokenizer."""
  template = find_template(template, tokenizer)
  if isinstance(template, JinjaTemplate):
    stop = [Piece(template.stop, control=True)] if template.stop else []
  else:
    stop = _own(tokenizer, Piece(_template(template).stop, control=True))
  return list(dict.fromkeys([*(tokenizer.special(p.text) for p in stop), *tokenizer.stop_ids]))


def find_template(name: ChatTemplate, tokenizer: Tokenizer, date: str = '') -> ChatTemplate:
  """What `pieces` takes as a template, for a name in a config.

  Args:
    name: one of TEMPLATES; FOLDER for the template that came with the tokenizer, and llm_jax where
      none did; or a file in Jinja, 'mine.jinja'.
    tokenizer: of the model.
    date: what a template in Jinja takes for today, such as 2026-01-31; by default the date that was
      set when a model was trained with it.

  Raises:
    BadInput: there is no such template, or it needs a date.
  """
  if name == FOLDER:
    ours = {text: its for its, text in JINJA.items()} | {None: 'llm_jax'}
    name = ours.get(tokenizer.chat_template, name)
    if tokenizer.chat_template is None:
      _check_speaks(tokenizer)
  if isinstance(name, JinjaTemplate) or name in TEMPLATES:
    if date:
      raise BadInput(f'data.date {date} is for templates in Jinja; {name} writes no date')
    return name
  if name == FOLDER and tokenizer.chat_template is not None:
    return JinjaTemplate(tokenizer.chat_template, tokenizer, date=date)
  try:
    text = Path(name).read_text(encoding='utf-8') if name.endswith('.jinja') else None
  except (OSError, ValueError) as error:
    raise BadInput(f'chat: template {name!r} cannot be read: {error}') from None
  return _template(name) and name if text is None else JinjaTemplate(text, tokenizer, name, date)


def _check_speaks(tokenizer: Tokenizer) -> None:
  """Raises BadInput where a model has no template, and its tokenizer no tokens for ours."""
  marks = [name for names in MARKS.values() for name in names]
  needed = [name for name in specials('llm_jax') if name not in (*marks, BOS, EOS)]
  if missing := tuple(name for name in needed if name not in tokenizer.specials):
    raise BadInput(
      f'chat: this model came with no chat template, and its tokenizer lacks {", ".join(missing)} '
      'for ours; set config.data.template=plain or to a file in Jinja, or add the tokens with '
      f'--config.init.add="{missing}"'
    )


def specials(template: str) -> list[str]:
  """The control tokens of a template, as `Tokenizer.train(specials=...)` takes them.

  >>> specials('chatml')
  ['<|im_start|>', '<|im_end|>']
  """
  form = _template(template)
  turn = Turn(form.assistant, [], True)
  written = [*form.opening, *form.header(turn.role), *form.end(turn)]
  names = [piece.text for piece in written if piece.control]
  return names + [mark for marks in MARKS.values() for mark in marks] * (template == 'llm_jax')


def jinja(template: str) -> str:
  """The template for `apply_chat_template` of transformers, answers marked {% generation %}."""
  _template(template)
  return JINJA[template]


def _template(name: str) -> Template:
  if name not in TEMPLATES:
    raise BadInput(f'chat: no template {name!r}; {suggest(name, [*TEMPLATES, FOLDER])}')
  return TEMPLATES[name]


def _untrained(found: Iterable[Piece]) -> list[Piece]:
  return [piece._replace(trainable=False) for piece in found]


def _merged(found: Iterable[Piece]) -> list[Piece]:
  """Joins neighbouring texts that are trained alike, and leaves out empty ones."""
  merged: list[Piece] = []
  for piece in found:
    if merged and not piece.control and merged[-1][1:] == piece[1:]:
      merged[-1] = merged[-1]._replace(text=merged[-1].text + piece.text)
    elif piece.text:
      merged.append(piece)
  return merged


# --- messages ----------------------------------------------------------------------------------


def _turn(message: Message, i: int) -> Turn:
  where = f'chat: message {i}'
  role = message.get('role') if isinstance(message, Mapping) else None
  if role not in ROLES:
    raise BadInput(f'{where}: no role {role!r}; {suggest(str(role), list(ROLES))}')
  try:
    trained = is_trained(message)
  except BadInput as error:
    raise BadInput(f'{where}: {error}') from error
  thoughts = [message[key] for key in THINKING if message.get(key)]
  if any(not isinstance(thought, str) or thought != thoughts[0] for thought in thoughts):
    raise BadInput(f'{where}: {" and ".join(THINKING)} must be one text; write thinking only')
  found = [Part('thinking', thought) for thought in thoughts[:1]]
  calls = message.get('tool_calls') or []
  content = message.get('content')
  if isinstance(content, str):
    found.append(Part('text', content))
  elif content is not None or not calls:
    found += parts(content, where)
  found += [_call(call, where) for call in calls]
  for part in found:
    if role != 'assistant' and part.kind != 'text':
      raise BadInput(f'{where}: {role} has a {part.kind}; only the assistant can')
  return Turn(role, found, answers=role == 'assistant', trained=trained)


def parts(content: Any, where: str = 'chat') -> list[Part]:
  """The parts of a content that is a list of them; BadInput for others, such as pictures."""
  if not isinstance(content, Sequence):
    raise BadInput(f'{where}: content is {type(content).__name__}; use a string or a list of parts')
  found = []
  for part in content:
    kind = part.get('type') if isinstance(part, Mapping) else None
    if kind not in ('text', *MARKS) or not isinstance(part.get('text'), str):
      raise BadInput(
        f"{where}: a part must be {{'type': ..., 'text': a string}} of type text, "
        f'{", ".join(MARKS)}; this one is {str(part)[:60]!r}'
      )
    found.append(Part(kind, part['text']))
  return found


def _call(call: Mapping[str, Any], where: str) -> Part:
  function = call.get('function') or call
  if not isinstance(function.get('name'), str) or 'arguments' not in function:
    raise BadInput(
      f'{where}: a tool call needs a name and arguments; this one is {str(call)[:60]!r}'
    )
  arguments = function['arguments']
  if not isinstance(arguments, str):
    arguments = json.dumps(arguments, ensure_ascii=False)
  return Part('call', arguments, function['name'])

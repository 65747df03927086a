"""Conversations as ids, by a chat template; what users type is never a control token."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from llm_jax.data.messages import led
from llm_jax.sampling.calls import Caller, Tools
from llm_jax.sampling.complete import encoded
from llm_jax.serving.constraint import Constraints
from llm_jax.serving.errors import ApiError, invalid
from llm_jax.serving.listener import TAGS, Form, Listener
from llm_jax.serving.openai import About, Asked, check_prompt
from llm_jax.text import calls, chat
from llm_jax.text.jinja_template import JinjaTemplate
from llm_jax.text.templates import MARKS
from llm_jax.types import BadInput, Tokenizer

_MESSAGE = re.compile(r'chat: message (\d+)')


class Conversation:
  """How a model is asked, and how its answers are heard.

  A prompt is made of pieces, and only those that the template writes can become control tokens.
  Tools are written where the template has a form for them, and otherwise into the system message,
  as in training.

  Args:
    tokenizer: of the model.
    template: of the model.
    about: of the model.
    size: V of the model; by default that of the tokenizer.
    tools: that the server runs, where a request brings none of its own.

  Raises:
    BadInput: tools, for a template that has no marks for calls.
  """

  def __init__(
    self,
    tokenizer: Tokenizer,
    template: chat.ChatTemplate,
    about: About,
    size: int | None = None,
    tools: Tools | None = None,
  ) -> None:
    if tools and template != 'llm_jax':
      raise BadInput(
        'serve: config.tools are for models that were taught template llm_jax; take them out, and '
        'let clients send tools with their requests'
      )
    self.caller = tools and Caller(tokenizer, tools, size)
    self.tokenizer, self.template, self.about = tokenizer, template, about
    self._form: Form = 'marks' if template == 'llm_jax' else 'tags'
    if template in ('plain', 'gemma'):
      self._form = 'text'
    self._stops = chat.stop_ids(tokenizer, template)
    # A model writes its calls between marks, and is given the result before it goes on.
    self._after_call = [
      tokenizer.specials[name] for name in MARKS['search'][1:] if name in tokenizer.specials
    ]
    self._constraints = Constraints(tokenizer, self._form, size or tokenizer.vocab_size)
    longest = int(max(tokenizer.token_bytes, default=1))
    self._most = None if tokenizer.normalizes else about.positions * max(longest, 1)

  def prompts(self, asked: Asked) -> list[list[int]]:
    """The ids of all prompts of a body.

    Raises:
      ApiError: the template has no form for the messages, or a text is too long by far.
    """
    if not asked.chat:
      return [self._continued(prompt) for prompt in asked.prompts]
    self._constraints.check(asked)
    texts = (message['content'] or '' for message in asked.messages)
    self._check_size('messages', sum(map(len, texts)))
    try:
      pieces = self._pieces(asked)
      return [chat.encode(self.tokenizer, pieces)[0]]
    except BadInput as error:
      found = _MESSAGE.match(str(error))
      param = f'messages[{found[1]}]' if found else 'messages'
      raise invalid(param, str(error).removeprefix('chat: ')) from None

  def _continued(self, prompt: str | Sequence[int]) -> list[int]:
    if not isinstance(prompt, str):
      return list(prompt)
    self._check_size('prompt', len(prompt))
    try:
      return encoded(self.tokenizer, prompt, None)
    except BadInput as error:
      raise invalid('prompt', str(error)) from None

  def _check_size(self, name: str, characters: int) -> None:
    """Refuses what cannot fit before it is tokenized."""
    if self._most is not None and characters > self._most:
      check_prompt(characters // (self._most // self.about.positions), self.about, name)

  def _pieces(self, asked: Asked) -> list[chat.Piece]:
    messages, tools = asked.messages, asked.tools
    how: Any = dict(template=self.template, answer=True)
    if tools and isinstance(self.template, JinjaTemplate):
      try:
        return chat.pieces(messages, tools=tools, **how)
      except BadInput:  # it writes nothing of tools; whatever else is wrong is said below
        pass
    if tools:
      messages = led({'tools': [*tools]}, [dict(message) for message in messages])
    if self.caller and self.runs(asked):
      messages = calls.led(messages, self.caller.tools.by_name)
    return chat.pieces(messages, **how)

  def stop_ids(self, asked: Asked) -> list[int]:
    """Ids that end an answer."""
    if not asked.chat:
      return list(self.tokenizer.stop_ids)
    calls = self._form == 'marks' and asked.tools
    return [*self._stops, *(self._after_call if calls or self.runs(asked) else [])]

  def runs(self, asked: Asked) -> bool:
    """Whether the server answers the calls of this request; not of one that is held to a form."""
    return bool(self.caller and asked.chat and not asked.tools and asked.format is None)

  def hold(
    self, asked: Asked, prompts: Sequence[Sequence[int]], stop: Sequence[int]
  ) -> Callable[[], Any] | None:
    """What makes `Request.allow` of each answer; None where an answer may be anything.

    Raises:
      ApiError: naming the field that answers cannot be held to.
    """
    if not asked.chat:
      return None
    thinking = self._form == 'tags' and self._opens_thought(prompts[0])
    return self._constraints.hold(asked, stop, thinking=thinking)

  def listener(self, asked: Asked, prompt: Sequence[int], stop: Sequence[int]) -> Listener:
    """Whoever hears an answer to a prompt.

    Args:
      asked: the body.
      prompt: ids.
      stop: ids that end the answer.
    """
    form = self._form if asked.chat else 'text'
    return Listener(
      self.tokenizer,
      form=form,
      after=prompt[-1],
      stop_strings=asked.how['stop_strings'],
      stop_ids=[i for i in stop if not (self.runs(asked) and i in self._after_call)],
      ours=self.runs(asked),
      tools=asked.tools,
      one_call=asked.one_call,
      thinking=form == 'tags' and self._opens_thought(prompt),
    )

  def _opens_thought(self, prompt: Sequence[int]) -> bool:
    """Whether the template has written the begin of a thought before the answer."""
    end = self.tokenizer.decode(prompt[-8:], specials=True)
    return end.rstrip().endswith(TAGS['think'][0])

  def text(self, ids: Sequence[int]) -> str:
    """A prompt as it is echoed."""
    return self.tokenizer.decode(ids)


def refused(error: BadInput) -> ApiError:
  """What the engine says of a request that passed all checks here."""
  return invalid(None, str(error).removeprefix('request.').removeprefix('request: '))

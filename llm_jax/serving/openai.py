"""What a body of OpenAI's API asks for: chat completions, and completions of texts.

Fields that are known and cannot be honoured are refused. Fields that change nothing, and fields
that nobody knows, are accepted, since new clients send them. Besides OpenAI's fields there are some
of vLLM's: `top_k`, `min_p`, `repetition_penalty`, `ignore_eos`, `min_tokens`, `stop_token_ids`,
`return_token_ids` and `cache_salt`.
"""

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm_jax.sampling.request import STOPS, Request
from llm_jax.serving import messages
from llm_jax.serving.errors import invalid, too_long, unsupported
from llm_jax.serving.fields import Fields, is_ids, strings

MOST_STOPS = 4
LONGEST_STOP = 500  # characters
MOST_PROMPTS = 128
COLDEST = 1e-5  # numbers below it could not be told from 0 in 32 bits
# Fields that would change the answer, beside what they may be without being asked for anything.
REFUSED: Mapping[str, tuple[Any, ...]] = {
  'functions': ([],),
  'function_call': ('none',),
  'modalities': (['text'],),
  'audio': (),
  'web_search_options': (),
  'use_beam_search': (False,),
  'length_penalty': (1, 1.0),
  'continue_final_message': (False,),
  'add_generation_prompt': (True,),
  'chat_template': (),
  'chat_template_kwargs': ({},),
  'structured_outputs': (),
  'guided_json': (),
  'guided_regex': (),
  'guided_choice': (),
  'guided_grammar': (),
  'prompt_logprobs': (0,),
  'bad_words': ([],),
  'suffix': ('',),
}


@dataclasses.dataclass(frozen=True)
class About:
  """What requests are held against.

  Attributes:
    vocab_size: V of the tokenizer.
    positions: most tokens of a prompt with its answer.
    prompt: most tokens of a prompt.
    choices: most answers to one prompt.
    temperature, top_p: where a body says nothing of them.
  """

  vocab_size: int
  positions: int
  prompt: int
  choices: int = 16
  temperature: float = 1.0
  top_p: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """What a body asks for.

  Attributes:
    chat: whether an answer in a conversation, or the continuation of texts.
    model: the name that was given, or None.
    messages, tools: of a conversation.
    prompts: texts, or lists of ids, which are continued.
    n: answers to each prompt.
    stream: whether the answer is sent as it grows.
    include_usage: whether a stream ends by counting tokens.
    echo: whether the prompt is part of the text.
    logprobs: how many likeliest tokens are told beside each; None: no log-probabilities.
    return_ids: whether ids are told beside the text.
    one_call: whether at most one tool is called.
    must_call: 'required', or the name of the tool that has to be called; '' if none has to be.
    strict: whether calls have to be valid, where there are any.
    format: what an answer has to be: 'json_object', or a JSON schema; None for any text.
    max_new: most tokens of an answer, or None; 0 where only the prompt is wanted.
    ends: whether the end of a turn or document ends the answer.
    stop_ids: more ids that end it.
    how: the other fields of `Request`.
  """

  chat: bool
  model: str | None
  messages: Sequence[Mapping[str, Any]] = ()
  tools: Sequence[Mapping[str, Any]] = ()
  prompts: Sequence[str | Sequence[int]] = ()
  n: int
  stream: bool
  include_usage: bool
  echo: bool = False
  logprobs: int | None
  return_ids: bool
  one_call: bool = False
  must_call: str = ''
  strict: bool = False
  format: Any = None
  max_new: int | None
  ends: bool
  stop_ids: tuple[int, ...]
  how: Mapping[str, Any]


def model_of(found: Mapping[str, Any]) -> str | None:
  """The model that a body names."""
  return Fields(found).text('model')


def asked(found: Mapping[str, Any], about: About, *, chat: bool) -> Asked:
  """Reads a body.

  Args:
    found: the body.
    about: of the model that it names.
    chat: whether it was sent to chat/completions.

  Raises:
    ApiError: naming the field.
  """
  body = Fields(found)
  _refuse(body)
  stream, options = body.flag('stream'), body.group('stream_options')
  if options is not None and not stream:
    raise invalid('stream_options', 'stream_options is for streams; set stream to true')
  shared: dict[str, Any] = dict(
    chat=chat,
    model=body.text('model'),
    n=body.integer('n', 1, about.choices, default=1),
    stream=stream,
    include_usage=options is not None and options.flag('include_usage'),
    return_ids=body.flag('return_token_ids'),
    ends=not body.flag('ignore_eos'),
    stop_ids=body.ids('stop_token_ids', about.vocab_size),
    how=_how(body, about),
  )
  return _chat(body, about, shared) if chat else _completion(body, about, shared)


def _chat(body: Fields, about: About, shared: dict[str, Any]) -> Asked:
  wanted, top = body.flag('logprobs'), body.integer('top_logprobs', 0, 20)
  if top is not None and not wanted:
    raise invalid('top_logprobs', 'top_logprobs needs logprobs to be true')
  named = {name: body.integer(name, 1, 2**31) for name in ('max_completion_tokens', 'max_tokens')}
  given = {value for value in named.values() if value is not None}
  if len(given) > 1:
    raise invalid('max_tokens', 'max_tokens and max_completion_tokens differ; give one of them')
  tools = messages.tools(body)
  return Asked(
    **shared,
    messages=messages.messages(body),
    tools=tools,
    one_call=body.get('parallel_tool_calls') is False,
    must_call=messages.must_call(body, tools),
    strict=messages.strict(body),
    format=_format(body),
    logprobs=(top or 0) if wanted else None,
    max_new=given.pop() if given else None,
  )


def _format(body: Fields) -> Any:
  """What an answer has to be: 'json_object', a JSON schema, or None."""
  format = body.group('response_format')
  kind = 'text' if format is None else format.get('type')
  if format is None or kind == 'text':
    return None
  if kind == 'json_object':
    return kind
  if kind != 'json_schema':
    raise format.wrong('type', 'choose text, json_object or json_schema')
  inner = format.group('json_schema')
  if inner is None:
    raise format.wrong('json_schema', 'give an object with name and schema')
  inner.text('name')
  inner.flag('strict')
  if inner.group('schema') is None:
    raise inner.wrong('schema', 'give an object')
  return inner.get('schema')


def _completion(body: Fields, about: About, shared: dict[str, Any]) -> Asked:
  if _format(body) is not None:
    raise unsupported('response_format', 'only answers in a chat are held to a form')
  best = body.integer('best_of', 1, about.choices)
  if best is not None and best != shared['n']:
    raise unsupported('best_of', 'best_of has to equal n; all answers are returned')
  echo, logprobs = body.flag('echo'), body.integer('logprobs', 0, 5)
  return Asked(
    **shared,
    prompts=_prompts(body, about),
    echo=echo,
    logprobs=logprobs,
    max_new=body.integer('max_tokens', 0 if echo else 1, 2**31),
  )


def _prompts(body: Fields, about: About) -> list[str | list[int]]:
  prompt, vocab_size = body.get('prompt'), about.vocab_size
  if isinstance(prompt, str):
    return [prompt]
  if isinstance(prompt, list) and prompt:
    if is_ids(prompt, vocab_size):
      return [prompt]
    if len(prompt) > MOST_PROMPTS:
      raise invalid('prompt', f'prompt has {len(prompt)} items; give at most {MOST_PROMPTS}')
    if strings(prompt) or all(item and is_ids(item, vocab_size) for item in prompt):
      return prompt
  raise body.wrong(
    'prompt',
    f'give a string, an array of strings, or arrays of ids from 0 to {vocab_size - 1}, none empty',
  )


def _refuse(body: Fields) -> None:
  """Raises ApiError for fields that would change the answer and cannot."""
  for name, neutral in REFUSED.items():
    value = body.get(name)
    if value is not None and not any(value == one and type(value) is type(one) for one in neutral):
      raise unsupported(name, f'{name} is not supported; leave it out')


def _how(body: Fields, about: About) -> dict[str, Any]:
  """How tokens are picked, and what ends an answer: fields of `Request`."""
  seed = body.integer('seed', -(2**63), 2**63 - 1)
  temperature = body.number('temperature', 0, 2, default=about.temperature)
  top_p = body.number('top_p', 0, 1, default=about.top_p, above=True)
  top_k = body.integer('top_k', -1, 2**31 - 1, default=0)
  return dict(
    temperature=temperature if temperature >= COLDEST else 0.0,
    top_p=_unless(max(top_p, COLDEST), 1),
    top_k=top_k if top_k > 0 else None,
    min_p=_unless(body.number('min_p', 0, 0.999, default=0), 0),
    repetition_penalty=body.number('repetition_penalty', 0.01, 100, default=1),
    frequency_penalty=body.number('frequency_penalty', -2, 2, default=0),
    presence_penalty=body.number('presence_penalty', -2, 2, default=0),
    logit_bias=_bias(body, about.vocab_size),
    # The keys of JAX have 32 bits of a seed.
    seed=secrets.randbits(32) if seed is None else seed % 2**32,
    min_new=body.integer('min_tokens', 0, about.positions, default=0),
    stop_strings=_stop(body),
    salt=body.text('cache_salt', '', longest=LONGEST_STOP),
  )


def _unless(value: float, neutral: float) -> float | None:
  return None if value == neutral else value


def _stop(body: Fields) -> tuple[str, ...]:
  given = body.get('stop')
  found = [given] if isinstance(given, str) else [] if given is None else given
  if not isinstance(found, list) or len(found) > MOST_STOPS or not strings(found):
    raise body.wrong('stop', f'give a string, or an array of up to {MOST_STOPS} strings')
  if any(not 0 < len(text) <= LONGEST_STOP for text in found):
    raise body.wrong('stop', f'give strings of 1 to {LONGEST_STOP} characters')
  return tuple(dict.fromkeys(found))


def _bias(body: Fields, vocab_size: int) -> dict[int, float]:
  given = body.get('logit_bias')
  if given is None:
    return {}
  if not isinstance(given, dict):
    raise body.wrong('logit_bias', 'give an object from ids to numbers')
  bias = Fields(given, 'logit_bias.')
  known = lambda name: name.isascii() and name.isdigit() and len(name) < 12
  for name in given:
    if not known(name) or int(name) >= vocab_size:
      raise invalid('logit_bias', f'logit_bias has keys that are no ids from 0 to {vocab_size - 1}')
  return {int(name): bias.number(name, -100, 100, default=0) for name in given}


def ends(asked: Asked, stop: Sequence[int]) -> tuple[int, ...]:
  """Ids that end an answer.

  Args:
    asked: the body.
    stop: ids that end an answer of the model.

  Raises:
    ApiError: there are too many.
  """
  found = tuple(dict.fromkeys((*(stop if asked.ends else ()), *asked.stop_ids)))
  if len(found) > STOPS:
    raise invalid('stop_token_ids', f'{len(found)} ids would end an answer; at most {STOPS} can')
  return found


def requests(
  asked: Asked,
  prompts: Sequence[Sequence[int]],
  about: About,
  *,
  stop: Sequence[int],
  salt: str,
  hold: Callable[[], Any] | None = None,
) -> list[Request]:
  """The requests of all choices, those to one prompt together.

  Args:
    asked: the body.
    prompts: as ids.
    about: the model.
    stop: ids that end an answer.
    salt: whoever has another one shares no cache of prefixes.
    hold: makes what holds one answer, `Request.allow`.

  Raises:
    ApiError: a prompt is too long, or leaves too little room for the answer.
  """
  name = 'messages' if asked.chat else 'prompt'
  found = []
  how = {**asked.how, 'salt': f'{salt}/{asked.how["salt"]}' if asked.how['salt'] else salt}
  for prompt in prompts:
    check_prompt(len(prompt), about, name)
    room = about.positions - len(prompt)
    most = asked.max_new
    if most is None:
      most = room if asked.chat else min(16, room)
    elif most > room:
      raise too_long(
        name,
        f'this model has {about.positions} positions; {len(prompt)} tokens of {name} and '
        f'{most} of the answer are more',
      )
    if how['min_new'] > most:
      raise invalid('min_tokens', f'min_tokens is {how["min_new"]}, and the most is {most}')
    for choice in range(asked.n):
      found.append(
        Request(
          prompt=prompt,
          max_new=max(most, 1),
          choice=choice,
          stop=stop,
          top_logprobs=asked.logprobs,
          scores_prompt=asked.echo and asked.logprobs is not None,
          allow=hold and hold(),
          **how,
        )
      )
  return found


def check_prompt(tokens: int, about: About, name: str) -> None:
  """Raises ApiError where a prompt of so many tokens, or more, leaves no room for an answer."""
  if tokens >= about.positions:
    raise too_long(
      name,
      f'this model has {about.positions} positions, of which the answer takes at least one; '
      f'{name} has {tokens} tokens or more',
    )
  if tokens > about.prompt:
    raise too_long(name, f'{name} has {tokens} tokens or more; this server takes {about.prompt}')

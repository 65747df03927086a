"""What an answer is held to: the JSON of `response_format`, the calls of `tool_choice`."""

import collections
import functools
import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from llm_jax.serving.errors import ApiError, invalid, unsupported
from llm_jax.serving.listener import MARKED, TAGS, Form
from llm_jax.serving.openai import Asked
from llm_jax.text.grammar import CONTROL, Either, Grammar, Record, Until
from llm_jax.text.json_schema import CHOICES, SchemaError, value_of
from llm_jax.text.token_mask import Held, Table, Vocabulary
from llm_jax.types import BadInput, Tokenizer

MOST_TABLES = 32  # that are kept, those of the last schemas
SCHEMA = 'response_format.json_schema.schema'


class Constraints:
  """Makes what holds the answers of one model.

  Args:
    tokenizer: of the model.
    form: how the model writes calls and thoughts.
    size: V of the model.
  """

  def __init__(self, tokenizer: Tokenizer, form: Form, size: int) -> None:
    self._tokenizer, self._form = tokenizer, form
    self._signs = MARKED if form == 'marks' else TAGS
    self._tables: collections.OrderedDict[str, Table] = collections.OrderedDict()
    self._lock = threading.Lock()
    try:
      self._vocabulary, self._why = Vocabulary(tokenizer, size), ''
    except BadInput as error:
      self._vocabulary, self._why = None, str(error)

  def hold(
    self, asked: Asked, stop: Collection[int], *, thinking: bool
  ) -> Callable[[], Held] | None:
    """A function that makes what holds one answer; None where any answer will do. See `check`.

    Args:
      asked: the body.
      stop: ids that end the answer.
      thinking: whether the prompt has opened a thought.

    Raises:
      ApiError: naming what of a schema cannot be held to.
    """
    if not self._holds(asked):
      return None
    assert self._vocabulary is not None  # else `check` has refused it
    table = self._table(asked, thinking)
    return functools.partial(Held, table, self._vocabulary, tuple(stop))

  def check(self, asked: Asked) -> None:
    """Whether the model can be held to what is asked for.

    Raises:
      ApiError: naming the field.
    """
    if asked.must_call and not self._has_calls():
      raise unsupported('tool_choice', 'the template of this model has no form for calls of tools')
    if not self._holds(asked):
      return
    field = (
      'tool_choice'
      if asked.must_call
      else 'response_format'
      if asked.format is not None
      else 'strict'
    )
    if self._vocabulary is None:
      raise unsupported(field, f'answers cannot be held to a form: {self._why}')
    # What would end an answer in another place than where it is whole.
    wrong = {
      'stop': bool(asked.how['stop_strings']) and field != 'strict',
      'stop_token_ids': bool(asked.stop_ids),
      'min_tokens': asked.how['min_new'] > 0,
      'ignore_eos': not asked.ends,
    }
    for name, is_given in wrong.items():
      if is_given:
        raise unsupported(name, f'with {field} an answer ends where it is whole; leave out {name}')

  def _holds(self, asked: Asked) -> bool:
    """Whether an answer is held to anything."""
    may_call = asked.strict and asked.tools and self._has_calls()
    return bool(asked.must_call or asked.format is not None or may_call)

  def _has_calls(self) -> bool:
    known = self._tokenizer.specials
    return self._form == 'tags' or (
      self._form == 'marks' and all(mark in known for mark in MARKED['call'])
    )

  def _table(self, asked: Asked, thinking: bool) -> Table:
    tools = [tool['function'] for tool in asked.tools]
    key = json.dumps([asked.format, asked.must_call, asked.one_call, asked.strict, thinking, tools])
    with self._lock:
      found = self._tables.get(key)
      if found is not None:
        self._tables.move_to_end(key)
        return found
    assert self._vocabulary is not None
    made = Table(self._grammar(asked, thinking), self._vocabulary.longest)
    with self._lock:
      self._tables[key] = made
      if len(self._tables) > MOST_TABLES:
        self._tables.popitem(last=False)
    return made

  # --- grammars ----------------------------------------------------------------------------------

  def _grammar(self, asked: Asked, thinking: bool) -> Grammar:
    grammar = Grammar(guarded=self._form == 'tags' and bool(asked.tools))
    options = []
    if asked.format is not None and not asked.must_call:
      options.append(self._value(asked.format, grammar))
    if asked.tools and self._has_calls():
      options.append(self._calls(asked, grammar))
    # Some tokenizers put a blank before what follows a control token, which belongs to no text.
    blank = [grammar.optional(grammar.literal(b' '))] if self._tokenizer.prefix_after else []
    grammar.start = grammar.chain(
      *self._thought(grammar, thinking), *blank, grammar.either(*options)
    )
    return grammar

  def _value(self, schema: Any, grammar: Grammar) -> int:
    if schema == 'json_object':
      return grammar.add(Record(extra=grammar.anything()))
    return _read(schema, SCHEMA, grammar)

  def _calls(self, asked: Asked, grammar: Grammar) -> int:
    named = None if asked.must_call in ('', 'required') else asked.must_call
    options = [
      self._function(tool['function'], f'tools[{i}].function.parameters', grammar)
      for i, tool in enumerate(asked.tools)
      if named in (None, tool['function']['name'])
    ]
    line = b'\n' if self._form == 'tags' else b''
    begin, end = map(self._symbols, self._signs['call'])
    call = grammar.chain(
      grammar.literal(line), grammar.either(*options), grammar.literal((*line, *end))
    )
    one = grammar.chain(grammar.literal(begin), call)
    if not asked.must_call and asked.format is None:  # a text, in which there may be a call
      text = grammar.add(Until(begin, may_end=True))
      return self._several(grammar.chain(text, call), one, asked, grammar)
    return self._several(one, one, asked, grammar)

  def _several(self, first: int, one: int, asked: Asked, grammar: Grammar) -> int:
    """A call, and perhaps others."""
    if asked.one_call or self._form == 'marks':  # the mark behind a call ends the answer
      return first
    more = grammar.either()
    again = grammar.chain(grammar.literal(b'\n'), one, more)
    grammar.nodes[more] = Either((grammar.chain(), again))
    return grammar.chain(first, more)

  def _function(self, function: Mapping[str, Any], path: str, grammar: Grammar) -> int:
    schema = function.get('parameters')
    if not schema:
      values = grammar.add(Record())
    else:
      says = any(name in schema for name in ('type', *CHOICES))
      values = _read(schema if says else {'type': 'object', **schema}, path, grammar)
    name = json.dumps(function['name'], ensure_ascii=False)
    begin = f'{{"name": {name}, "arguments": '
    return grammar.chain(grammar.literal(begin.encode()), values, grammar.literal(b'}'))

  def _thought(self, grammar: Grammar, thinking: bool) -> Sequence[int]:
    """Nodes for a thought before the answer, which may be left out unless it is open."""
    begin, end = self._signs['think']
    known = self._tokenizer.specials
    if self._form == 'text' or not (thinking or (begin in known and end in known)):
      return ()
    lines = [grammar.literal(b'\n' * count) for count in range(3 if self._form == 'tags' else 1)]
    rest = (grammar.add(Until(self._symbols(end))), grammar.either(*lines))
    if thinking:
      return rest
    return (grammar.optional(grammar.literal(self._symbols(begin)), *rest),)

  def _symbols(self, name: str) -> tuple[int, ...]:
    """A mark or tag: as a control token where it is one."""
    known = self._tokenizer.specials
    return (CONTROL + known[name],) if name in known else tuple(name.encode())


def _read(schema: Any, where: str, grammar: Grammar) -> int:
  try:
    return value_of(schema, grammar)
  except SchemaError as error:
    raise _refused(error, where) from None


def _refused(error: SchemaError, where: str) -> ApiError:
  path = ascii(f'{where}{error.path}')[1:-1]
  param = path if len(path) <= 160 else f'{path[:80]}...{path[-77:]}'
  return (unsupported if error.is_known else invalid)(param, f'{param}: {error}')

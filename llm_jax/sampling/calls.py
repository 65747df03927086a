"""Calls of tools: what a model writes between two control tokens, and the ids of the result."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from llm_jax.options import suggest
from llm_jax.sampling.request import Event, Request
from llm_jax.text import calls
from llm_jax.text.quotes import HeldQuotes, Passage, Quotes, Verbatim
from llm_jax.text.templates import MARKS
from llm_jax.types import BadInput, Tokenizer

Tool = Callable[[str], str]
CHOICES = 2**16  # more than anybody asks for at a time


class Tools(NamedTuple):
  """What a model may call.

  Attributes:
    by_name: functions from the text of a call to the text of its result. A ValueError means that
      the call was malformed; its message becomes the result, so the model can try again.
    max_calls: of an answer; one more call ends it.
    max_result: tokens of a result with its two control tokens; longer ones are cut.
  """

  by_name: Mapping[str, Tool]
  max_calls: int = 2
  max_result: int = 64

  @property
  def slots(self) -> int:
    """Most tokens of the results in one answer."""
    return self.max_calls * self.max_result


class Result(NamedTuple):
  """What a tool said.

  Attributes:
    ids: with the two control tokens around it.
    failed: whether it is an error.
    quotable: what quotes have to stand in, an error too; None where anything may be quoted.
  """

  ids: list[int]
  failed: bool
  quotable: Passage | None


class Caller:
  """Runs the calls in answers; whoever samples stops an answer at the token `end`.

  Args:
    tokenizer: of the model.
    tools: what may be called.
    size: V of the model; by default that of the tokenizer.

  Attributes:
    end: the id that ends a call.
    tools: as given.

  Raises:
    BadInput: the tokenizer has no control tokens for calls, or the numbers leave no room for one.
  """

  def __init__(self, tokenizer: Tokenizer, tools: Tools, size: int | None = None) -> None:
    if tools.max_calls < 1 or tools.max_result < 3:
      raise BadInput('sampling: tools need max_calls of at least 1 and max_result of at least 3')
    both = (MARKS['search'], MARKS['result'])
    self._call, self._result = ([tokenizer.special(name) for name in names] for names in both)
    self._tokenizer, self.tools, self.end = tokenizer, tools, self._call[1]
    verbatim = any(isinstance(tool, Verbatim) for tool in tools.by_name.values())
    self._quotes = Quotes(tokenizer, size, self._call) if verbatim else None

  def due(self, ids: Sequence[int], made: int, max_new: int) -> bool:
    """Whether an answer has stopped at a call whose result it could still read.

    Args:
      ids: that were sampled, without results.
      made: calls of this answer that have been run.
      max_new: most ids that are sampled.
    """
    ends = bool(ids) and ids[-1] == self.end
    return ends and len(ids) < max_new and made < self.tools.max_calls

  def result(self, ids: Sequence[int]) -> Result:
    """The result of the call at the end of an answer."""
    name, said, failed = self.run(ids[:-1])
    before, after = ((name, True) for name in MARKS['result'])
    text = (said.encode('utf-8', 'replace').decode(), False)
    _, body, _ = self._tokenizer.encode_pieces([(before, text, after)])[0]
    start, end = self._result
    kept = body[: self.tools.max_result - 2]
    tool, quotable = self.tools.by_name.get(name), None
    if isinstance(tool, Verbatim):
      text = self._tokenizer.decode(kept, after=start)
      quotable = Passage(text, tool.unit, cut=len(kept) < len(body))
    return Result([start, *kept, end], failed, quotable)

  def run(self, ids: Sequence[int]) -> tuple[str, str, bool]:
    """The tool of the call at the end of `ids`, what it said, and whether that is an error."""
    by_name, (start_id, end_id) = self.tools.by_name, self._call
    last = lambda mark: max((i for i, token in enumerate(ids) if token == mark), default=-1)
    begin = last(start_id)
    if begin <= last(end_id):  # the mark belongs to an earlier call
      return '', f'error: a call begins with {MARKS["search"][0]}', True
    said = self._tokenizer.decode(ids[begin + 1 :], after=start_id)
    name, text = calls.read(said, by_name)
    if name not in by_name:
      return name, f'error: no tool {name!r}; {suggest(name, list(by_name))}', True
    try:
      return name, by_name[name](text), False
    except (ValueError, OSError) as error:  # a malformed call, or a service that does not answer
      return name, f'error: {error}', True

  @property
  def holds(self) -> bool:
    """Whether there are tools whose results are to be quoted in their own words."""
    return self._quotes is not None

  def hold(self, quotable: Sequence[Passage]) -> HeldQuotes | None:
    """What holds the quotes of an answer to these results; None where there are none."""
    return self._quotes.hold(quotable) if self._quotes and quotable else None


class Going:
  """One answer that goes on behind the results of its calls, each time as another request.

  What was sampled is never decoded and encoded again, so these are the ids of training.

  Args:
    caller: runs the calls.
    request: that was asked; `caller.end` is among its `stop`.
    length: positions of the engine.
  """

  def __init__(self, caller: Caller, request: Request, length: int) -> None:
    self._caller, self._request, self._length = caller, request, length
    self._said: list[int] = []  # of what was sampled
    self._ids, self._made = [*request.prompt], 0  # of all, and how many calls were run
    self._quotable: list[Passage] = []

  def hear(self, event: Event) -> bool:
    """Takes what is new of the answer; whether it stands at a call that is to be run."""
    self._said += event.tokens
    self._ids += event.tokens
    ends = event.finish == 'stop'
    return ends and self._caller.due(self._said, self._made, self._request.max_new)

  def run(self) -> tuple[list[int], Request] | None:
    """Runs the call: the ids of its result, and what is asked next.

    None where there is no room for what would be said of the result; then the answer has ended.
    """
    result = self._caller.result(self._said)
    prompt = [*self._ids, *result.ids]
    left = min(self._request.max_new - len(self._said), self._length - len(prompt))
    if left < 1:
      return None
    self._ids, self._made = [*prompt], self._made + 1
    # Another choice, as the same random numbers must not be drawn twice.
    choice = self._request.choice + self._made * CHOICES
    if result.quotable is not None:
      self._quotable.append(result.quotable)
    how: Any = dict(prompt=prompt, max_new=left, choice=choice)
    if held := self._caller.hold(self._quotable):
      how['allow'] = held  # a new one: what was quoted before, was
    return result.ids, dataclasses.replace(self._request, **how)

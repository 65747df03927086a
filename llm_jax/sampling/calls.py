"""Calls of tools: what a model writes between two control tokens, and the ids of the result."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from llm_jax.options import suggest
from llm_jax.text import calls
from llm_jax.text.templates import MARKS
from llm_jax.types import BadInput, Tokenizer

Tool = Callable[[str], str]


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


class Caller:
  """Runs the calls in answers; whoever samples stops an answer at the token `end`.

  Args:
    tokenizer: of the model.
    tools: what may be called.

  Attributes:
    end: the id that ends a call.
    tools: as given.

  Raises:
    BadInput: the tokenizer has no control tokens for calls, or the numbers leave no room for one.
  """

  def __init__(self, tokenizer: Tokenizer, tools: Tools) -> None:
    if tools.max_calls < 1 or tools.max_result < 3:
      raise BadInput('sampling: tools need max_calls of at least 1 and max_result of at least 3')
    both = (MARKS['search'], MARKS['result'])
    self._call, self._result = ([tokenizer.special(name) for name in names] for names in both)
    self._tokenizer, self.tools, self.end = tokenizer, tools, self._call[1]

  def due(self, ids: Sequence[int], made: int, max_new: int) -> bool:
    """Whether an answer has stopped at a call whose result it could still read.

    Args:
      ids: that were sampled, without results.
      made: calls of this answer that have been run.
      max_new: most ids that are sampled.
    """
    ends = bool(ids) and ids[-1] == self.end
    return ends and len(ids) < max_new and made < self.tools.max_calls

  def result(self, ids: Sequence[int]) -> tuple[list[int], bool]:
    """The ids of the result of the call at the end of an answer, and whether it is an error."""
    said, failed = self.run(ids[:-1])
    before, after = ((name, True) for name in MARKS['result'])
    text = (said.encode('utf-8', 'replace').decode(), False)
    _, body, _ = self._tokenizer.encode_pieces([(before, text, after)])[0]
    return [self._result[0], *body[: self.tools.max_result - 2], self._result[1]], failed

  def run(self, ids: Sequence[int]) -> tuple[str, bool]:
    """What the tool said to the call at the end of `ids`, and whether that is an error."""
    by_name, (start_id, end_id) = self.tools.by_name, self._call
    last = lambda mark: max((i for i, token in enumerate(ids) if token == mark), default=-1)
    begin = last(start_id)
    if begin <= last(end_id):  # the mark belongs to an earlier call
      return f'error: a call begins with {MARKS["search"][0]}', True
    said = self._tokenizer.decode(ids[begin + 1 :], after=start_id)
    name, text = calls.read(said, by_name)
    if name not in by_name:
      return f'error: no tool {name!r}; {suggest(name, list(by_name))}', True
    try:
      return by_name[name](text), False
    except (ValueError, OSError) as error:  # a malformed call, or a service that does not answer
      return f'error: {error}', True

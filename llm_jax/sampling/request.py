"""What the engine is asked, and what it answers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from llm_jax import options
from llm_jax.options import Count, MinP, NotNegative, Positive, TopP, at_least, within
from llm_jax.types import BadInput

TOP = 20  # most log-probabilities of other tokens that are reported of a token
STOPS = 16  # most ids that may end an answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """A prompt to be continued.

  Its answer depends on these fields and on nothing else: neither on when it comes, nor on others.

  Attributes:
    prompt: ids, at least one.
    max_new: most tokens of the answer.
    temperature, top_k, top_p, min_p, repetition_penalty: see `pick.make`.
    frequency_penalty: is subtracted from the logit of a token for each time it was said.
    presence_penalty: is subtracted once from the logits of tokens that were said.
    logit_bias: is added to the logits of these ids.
    seed: from -2^63 to 2^64 - 1, of the random key. Answer `choice` is what `generate` with
      `jax.random.key(seed)` gives to its first prompt as that number of the group.
    choice: the number of an answer, of several to one prompt.
    key: two words of 32 bits in the place of the key that `seed` gives to the prompt.
    stop: ids that end an answer and belong to it.
    stop_strings: texts that end it; it keeps the token that completes one.
    min_new: tokens before which no id of `stop` can be picked.
    top_logprobs: of how many of the likeliest tokens log-probabilities are reported too; None: of
      none.
    scores_prompt: whether log-probabilities of the prompt are reported; no known beginning of it is
      used then.
    salt: beginnings of prompts are shared among requests of one salt.
    allow: constrains what may be said: `mask()` gives bool [V] or None, which ids may come next,
      and `advance(id)` tells it which came.
  """

  prompt: Sequence[int]
  max_new: Count
  temperature: NotNegative = 1.0
  top_k: Count | None = None
  top_p: TopP | None = None
  min_p: MinP | None = None
  repetition_penalty: Positive = 1.0
  frequency_penalty: Annotated[float, within(-2, 2)] = 0.0
  presence_penalty: Annotated[float, within(-2, 2)] = 0.0
  logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
  seed: int = 0
  choice: Annotated[int, at_least(0)] = 0
  key: Sequence[int] | None = None
  stop: Sequence[int] = ()
  stop_strings: Sequence[str] = ()
  min_new: Annotated[int, at_least(0)] = 0
  top_logprobs: Annotated[int, within(0, TOP)] | None = None
  scores_prompt: bool = False
  salt: str = ''
  allow: Any = None

  def check(self, vocab_size: int, length: int) -> None:
    """Whether a model can answer this at all.

    Args:
      vocab_size: of the model.
      length: its positions.

    Raises:
      BadInput: naming the field.
    """
    numbers = {name: getattr(self, name) for name in _NUMBERS}
    options.check(Request, numbers, where='request', supplied=_OTHERS)
    if not len(self.prompt):
      raise BadInput('request.prompt: is empty; give at least one token, such as the begin of text')
    for name in ('prompt', 'stop', 'logit_bias'):
      ids = getattr(self, name)
      if any(not 0 <= i < vocab_size for i in ids):
        wrong = next(i for i in ids if not 0 <= i < vocab_size)
        raise BadInput(f'request.{name}: id {wrong} is outside the vocabulary 0..{vocab_size - 1}')
    if len(self.prompt) + self.max_new > length:
      raise BadInput(
        f'request: a prompt of {len(self.prompt)} tokens and max_new {self.max_new} exceed the '
        f'{length} positions of the model; lower max_new or shorten the prompt'
      )
    if not isinstance(self.seed, int) or not -(2**63) <= self.seed < 2**64:
      raise BadInput(f'request.seed: {self.seed!r}; choose a whole number of 64 bits')
    if len(set(self.stop)) > STOPS:
      raise BadInput(f'request.stop: {len(set(self.stop))} ids; at most {STOPS} can end an answer')
    if not all(self.stop_strings):
      raise BadInput('request.stop_strings: an empty one would stop every answer')
    if any(not -100 <= bias <= 100 for bias in self.logit_bias.values()):
      raise BadInput('request.logit_bias: has a value that is not from -100 to 100')


_OTHERS = ('prompt', 'logit_bias', 'seed', 'key', 'stop', 'stop_strings', 'allow')
_NUMBERS = tuple(f.name for f in dataclasses.fields(Request) if f.name not in _OTHERS)


class Event(NamedTuple):
  """What is new of an answer.

  Attributes:
    id: of the request.
    tokens: new ids.
    logprobs: of each, under the model at temperature 1 before penalties and truncation.
    sampled: of each, under what it was drawn from; 0 where that was no choice.
    top: of each, the likeliest tokens and their log-probabilities under the model, if asked for.
    finish: 'stop', 'length', 'abort' or 'error' at its end, and None before.
    cached: tokens of the prompt that did not have to be read.
    error: what went wrong.
    prompt: in the first event, if asked for: of each token of the prompt but its first, its
      log-probability under the model, and the likeliest tokens with theirs.
  """

  id: int
  tokens: tuple[int, ...] = ()
  logprobs: tuple[float, ...] = ()
  sampled: tuple[float, ...] = ()
  top: tuple[tuple[tuple[int, float], ...], ...] = ()
  finish: str | None = None
  cached: int = 0
  error: str = ''
  prompt: tuple[tuple[float, tuple[tuple[int, float], ...]], ...] | None = None

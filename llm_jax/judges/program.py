"""Prefers the answer to which a program gives more: any file of rewards/, or one of yours."""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.find import explained, find, last
from llm_jax.judges.pair import Judge, Pair, Verdict, by_score
from llm_jax.options import NotNegative
from llm_jax.options import check as check_options
from llm_jax.rewards import columns
from llm_jax.rewards.thoughts import said

ORDERED = False


def check(*, reward: str, options: Mapping[str, Any] | None, **others: Any) -> None:
  """Whether there is such a reward, with such options."""
  del others
  _function(reward, dict(options or {}))


def depends(*, reward: str, options: Mapping[str, Any] | None, margin: float) -> Any:
  """The text of the reward's file, and its options."""
  text = Path(str(find('rewards', reward).__file__)).read_bytes()
  return ['program', hashlib.sha256(text).hexdigest(), dict(options or {}), margin]


def make(
  *,
  reward: str = 'exact_answer',
  options: Mapping[str, Any] | None = None,
  margin: NotNegative = 0.0,
) -> Judge:
  """`reward(answer, gold, **columns)` of both answers, as `annotate.verify` calls it.

  Args:
    reward: a file of rewards/, or a module or file of yours.
    options: keyword arguments of its function.
    margin: rewards that differ by this or less are a tie.
  """
  score = _function(reward, dict(options or {}))

  def judge(pairs: Sequence[Pair]) -> Iterator[Verdict]:
    for pair in pairs:
      try:
        first, second = score(pair)
      except Exception as error:  # of the gold answer, or of somebody's own program
        yield Verdict(None, explained(error, reward), again=True)
        continue
      yield by_score(first, second, margin)

  return judge


def _function(name: str, given: Mapping[str, Any]) -> Callable[[Pair], Sequence[float | None]]:
  """From a pair to the rewards of both answers; what is no finite number is None."""
  module = find('rewards', name)
  many = hasattr(module, 'rewards')
  function = module.rewards if many else module.reward
  asked = columns.asked(function, given)
  check_options(function, given, where=f'judge.options of {last(name)}', offered=asked)
  bound = functools.partial(function, **given)

  def score(pair: Pair) -> Sequence[float | None]:
    messages, gold = pair.question['prompt'], pair.question.get('answer', '')
    packed = columns.pack(pair.question, messages, columns.of_record(asked))
    before = messages[-1]['content'] if isinstance(messages[-1]['content'], str) else ''
    texts = [said(completion, before) for completion in pair.completions]
    rows = [
      {**columns.unpack(packed), 'thinking': text.thinking, 'completion': text.completion}
      for text in texts
    ]
    beside = [{name: row[name] for name in asked} for row in rows]
    answers = [text.answer for text in texts]
    if many:
      lists = {name: [row[name] for row in beside] for name in asked}
      return [_finite(value) for value in bound(answers, [gold] * 2, **lists)]
    both = zip(answers, beside, strict=True)
    return [_finite(bound(answer, gold, **more)) for answer, more in both]

  return score


def _finite(value: Any) -> float | None:
  number = math.nan if value is None else float(value)
  return number if math.isfinite(number) else None

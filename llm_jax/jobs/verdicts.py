"""A judge is asked about pairs of answers: in both orders, once, and whatever it does."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from llm_jax import options
from llm_jax.evals.kept import Kept, Progress, key_of
from llm_jax.files import sha256
from llm_jax.find import call, explained, find, named
from llm_jax.judges.pair import Pair, Verdict
from llm_jax.rewards.thoughts import said
from llm_jax.text.terminal import say
from llm_jax.types import BadInput

OFFERED = ('load',)  # to a judge that asks for it: gives the model in a folder


def judge_of(group: Mapping[str, Any]) -> tuple[ModuleType, dict[str, Any]]:
  """The file of a judge, and its options.

  Raises:
    BadInput: there is no such file, or an option that it does not have.
  """
  name, given = named(group, 'judge')
  module = find('judges', name)
  options.check(module.make, given, where='judge', offered=OFFERED)
  return module, given


def pair(question: Mapping[str, Any], first: str, second: str) -> Pair:
  """Two completions as a judge sees them, without what was thought."""
  last = question['prompt'][-1].get('content')
  answer = lambda text: said(text, last if isinstance(last, str) else '').answer
  return Pair(question, answer(first), answer(second), (first, second))


def turned(one: Pair) -> Pair:
  """The same pair in the other order."""
  return Pair(one.question, one.second, one.first, (one.completions[1], one.completions[0]))


def verdicts(
  group: Mapping[str, Any],
  pairs: Sequence[Pair],
  kept: Kept,
  load: Callable[[str], Any],
  progress: Callable[[str], Progress],
) -> list[list[Verdict]]:
  """Of each pair what the judge says: of itself and, if the order means something, of the other.

  Of two answers with the same text it is not asked, and the list is empty.

  Args:
    group: `config.judge`.
    pairs: in one of their orders.
    kept: verdicts from before, which are not asked for again.
    load: see OFFERED.
    progress: from a title to what is called with new verdicts and their number.
  """
  module, given = judge_of(group)
  ordered, identity = getattr(module, 'ORDERED', True), _identity(module, given)
  shown = [
    [] if one.first.strip() == one.second.strip() else [one, turned(one)] if ordered else [one]
    for one in pairs
  ]
  key = lambda one: key_of([identity, one.question, one.completions])
  named_: dict[str, Pair] = {key(one): one for orders in shown for one in orders}
  new = {name: one for name, one in named_.items() if name not in kept}
  failed: dict[str, Verdict] = {}
  if new:
    judge = call(module.make, given, where='judge', offered={'load': load})
    watch = progress(f'judge {group["name"]}: {len(named_)} verdicts')
    found = watch(enumerate(judged(judge, [*new.values()])), len(new))
    for name, (_, verdict) in zip(new, found, strict=True):
      if verdict.again:
        failed[name] = verdict
      else:
        kept.put({name: [verdict.points, verdict.said]})
  known = lambda name: failed[name] if name in failed else Verdict(*kept[name])
  return [[known(key(one)) for one in orders] for orders in shown]


def _identity(module: ModuleType, given: Mapping[str, Any]) -> Any:
  """What the verdicts of a judge depend on."""
  resolved = options.resolve(module.make, given)
  if hasattr(module, 'depends'):
    return module.depends(**resolved)
  return [sorted(resolved.items()), sha256(Path(str(module.__file__)))]


def judged(judge: Callable[..., Iterable[Any]], pairs: Sequence[Pair]) -> Iterator[Verdict]:
  """A verdict for each pair, in their order, whatever the judge does.

  Once it raises, the pairs that are left are put to it one by one; one on which it raises again has
  no verdict. A BadInput is raised.
  """
  done = 0
  try:
    for value in itertools.islice(judge(pairs), len(pairs)):
      verdict = _verdict(value)
      done += 1
      yield verdict
  except (BadInput, GeneratorExit):
    raise
  except Exception as error:
    say(f'judge: {explained(error, "judge")}; the pairs are judged one by one', file=sys.stderr)
  for one in pairs[done:]:
    try:
      verdict = _verdict(next(iter(judge([one])), None))
    except BadInput:
      raise
    except Exception as error:
      verdict = Verdict(None, explained(error, 'judge'), again=True)
    yield verdict


def _verdict(value: Any) -> Verdict:
  found = value if isinstance(value, Verdict) else Verdict(value)
  if found.points not in (1, 0.5, 0, None):
    raise ValueError(f'a judge said {found.points!r}; give 1, 0.5, 0 or None')
  return found._replace(points=None if found.points is None else float(found.points))

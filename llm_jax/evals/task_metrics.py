"""What the answers to a task are worth: scores of each answer, and numbers of all of them.

Scores of an answer are means when they are added up (`acc`). Others, such as Matthews' correlation,
are no means and come from all answers at once; AGGREGATES has these.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_jax.data.tasks.task import Item, Task
from llm_jax.evals import counts, reading
from llm_jax.evals.estimates import PerQuestion
from llm_jax.evals.likelihood import Scored
from llm_jax.evals.pass_at_k import pass_at_k
from llm_jax.options import suggest
from llm_jax.types import BadInput, Counts, Mean, Metrics


class Answered(NamedTuple):
  """A question and what a model made of it.

  Attributes:
    item: the question.
    said: number of the likeliest choice, or the text that was written; None if it failed.
    scores: by name; empty if it failed.
    logp: of each choice, in nats.
    cut: tokens of the context that were left out.
    shots: examples before it.
    failed: why there is no answer; '' if there is one.
  """

  item: Item
  said: Any
  scores: Mapping[str, float]
  logp: tuple[float, ...] = ()
  cut: int = 0
  shots: int = 0
  failed: str = ''


def of_choices(
  item: Item,
  task: Task,
  scored: Sequence[Scored],
  tokens: Sequence[int],
  alone: Sequence[Scored] | None = None,
) -> tuple[int, dict[str, float]]:
  """The choice that a model prefers, and the scores of its preferences.

  Five ways to compare texts of different lengths are scored at once: log-probabilities as they are
  (`acc`), by character (`acc_norm`, as lm-eval), by byte (`acc_bytes`), by token (`acc_tokens`, as
  GPT-3), and less those without the context (`acc_mutual_info`). Of equal ones the first counts.

  Args:
    item: the question.
    task: its task.
    scored: each choice behind the context.
    tokens: how many each choice has.
    alone: each choice behind the begin of a document alone, if that was asked.
  """
  logp = np.array([one.logp for one in scored])
  texts = item.choices if len(item.choices) == len(scored) else item.choices * len(scored)
  sizes = {
    'acc': np.ones(len(logp)),
    'acc_norm': np.array([len(text) for text in texts], float),
    'acc_bytes': np.array([len(text.encode()) for text in texts], float),
    'acc_tokens': np.array(tokens, float),
  }
  if task.kind == 'text':
    return 0, {'acc': float(scored[0].greedy), 'logp': float(logp[0])}
  said = int(logp.argmax())
  if task.kind == 'several':
    share = np.exp(logp - logp.max())
    right = np.isin(np.arange(len(logp)), item.gold)
    scores = {'share': float(share[right].sum() / share.sum()), 'acc': float(right[said])}
  else:
    scores = {name: float((logp / size).argmax() == item.gold) for name, size in sizes.items()}
    if alone is not None:
      less = logp - np.array([one.logp for one in alone])
      scores['acc_mutual_info'] = float(less.argmax() == item.gold)
  if golds := item.about.get('answers'):
    name = item.options[said]
    scores['em'] = reading.best(reading.exact, name, golds)
    scores['word_f1'] = reading.best(reading.token_f1, name, golds)
  return said, scores


def of_samples(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Of several answers to a question: means, and of `pass@1` the other `pass@k`.

  >>> of_samples([{'pass@1': 1.0}, {'pass@1': 0.0}])
  {'pass@1': 0.5}
  """
  found = {name: sum(one[name] for one in scores) / len(scores) for name in scores[0]}
  right = round(sum(one.get('pass@1', 0.0) for one in scores))
  for k in (10, 100) if 'pass@1' in found else ():
    if k <= len(scores):
      found[f'pass@{k}'] = pass_at_k(len(scores), right, k)
  return found


def of_document(item: Item, nats: float, tokens: int) -> dict[str, float]:
  """Of a document scored from its begin on: its log-probability, and its words and bytes.

  These are counted in `item.about['counted']`, where a text was changed before it was scored.
  """
  text = item.about.get('counted', item.choices[0])
  return {
    'logp': nats,
    'words': float(len(re.split(r'\s+', text))),
    'bytes': float(len(text.encode())),
    'tokens': float(tokens),
  }


def metrics(task: Task, answered: Sequence[Answered]) -> Metrics:
  """The metrics of a task; questions that failed count in none but `failed`.

  They are those that it names; with `acc_norm` what other divisors of log-probabilities give, and
  with `pass@1` those of more samples.

  Raises:
    BadInput: neither a score of its questions nor one of AGGREGATES has the name of a metric.
  """
  there = [one for one in answered if not one.failed]
  found: Metrics = {}
  for name, of_all in _named(task, there):
    some = [one.scores[name] for one in there if name in one.scores]
    found[name] = of_all(there) if of_all else Mean.of(some)
  found['questions'] = Mean.of([float(len(there))])
  for what in ('cut', 'failed'):
    share = [float(bool(getattr(one, what))) for one in answered]
    if any(share):
      found[what] = Mean.of(share)
  return found


def per_question(task: Task, answered: Sequence[Answered]) -> dict[str, PerQuestion]:
  """The metrics of a task on each question that did not fail.

  What stands for the task in means over tasks is the one that has a chance: the first metric, or
  the mean of those that the task names, which is added as `mean`.
  """
  there = [one for one in answered if not one.failed]
  some = any(one.item.cluster for one in there)
  clusters = tuple(one.item.cluster or one.item.key for one in there) if some else ()
  found = {}
  for name, of_all in _named(task, there):
    stands = name == task.metrics[0] and not task.mean_of
    kind = {'chance': task.chance if stands else None, 'fewer': name in FEWER}
    if of_all is not None:
      compute = functools.partial(_of_some, there, of_all)
      keys = tuple(one.item.key for one in there)
      found[name] = PerQuestion(keys=keys, compute=compute, clusters=clusters, **kind)
      continue
    places = [i for i, one in enumerate(there) if name in one.scores]
    found[name] = PerQuestion(
      keys=tuple(there[i].item.key for i in places),
      scores=np.array([there[i].scores[name] for i in places], np.float64),
      clusters=tuple(clusters[i] for i in places) if some else (),
      subjects=tuple(there[i].item.subject for i in places),
      **kind,
    )
  if task.mean_of and there:
    parts = [(name, dict(_named(task, there))[name]) for name in task.mean_of]
    found['mean'] = PerQuestion(
      keys=tuple(one.item.key for one in there),
      compute=functools.partial(_mean_of_some, there, parts),
      clusters=clusters,
      chance=task.chance,
    )
  return found


def _mean_of_some(
  there: Sequence[Answered], parts: Sequence[tuple[str, Any]], index: np.ndarray
) -> float:
  some = [there[i] for i in index]
  scores = lambda name: [one.scores[name] for one in some if name in one.scores]
  return float(np.mean([f(some).value if f else np.mean(scores(name)) for name, f in parts]))


def _of_some(
  there: Sequence[Answered], of_all: Callable[..., Counts | Mean], index: np.ndarray
) -> float:
  return float(of_all([there[i] for i in index]).value)


def _named(
  task: Task, there: Sequence[Answered]
) -> Iterator[tuple[str, Callable[[Sequence[Answered]], Counts | Mean] | None]]:
  """Names of metrics, each with what computes it from all answers, where it is no mean."""
  scores = there[0].scores if there else {}
  more = [name for name in scores if name.startswith(('acc', 'pass@'))]
  varied = {'acc_norm', 'pass@1'} & {*task.metrics}
  for name in dict.fromkeys([*task.metrics, *(more if varied else ())]):
    if name in scores or not there:
      yield name, None
    elif name in AGGREGATES:
      yield name, AGGREGATES[name]
    else:
      raise BadInput(f'no metric {name!r}; {suggest(name, sorted({*AGGREGATES, *scores}))}')


def _said_and_gold(answered: Sequence[Answered]) -> tuple[list[Any], list[Any]]:
  return [one.said for one in answered], [one.item.gold for one in answered]


def _f1(answered: Sequence[Answered]) -> Counts:
  return Counts(counts.confusion(*_said_and_gold(answered)), counts.f1)


def _matthews(answered: Sequence[Answered]) -> Counts:
  return Counts(counts.confusion(*_said_and_gold(answered)), counts.matthews)


def _table(answered: Sequence[Answered]) -> Counts:
  classes = max((len(one.item.choices) for one in answered), default=1)
  return Counts(counts.table(*_said_and_gold(answered), classes=classes), counts.macro_f1)


def _numbers(answered: Sequence[Answered]) -> tuple[list[float], list[float]]:
  """Of answers that are numbers, as those of STS-B."""
  about = [one.item.about for one in answered]
  said = [one['said'][answer.said] for one, answer in zip(about, answered, strict=True)]
  return said, [one['score'] for one in about]


def _multirc(answered: Sequence[Answered], compute: Callable[[Any], float]) -> Counts:
  return Counts(reading.multirc(*_said_and_gold(answered), _groups(answered)), compute)


def _groups(answered: Sequence[Answered]) -> list[str]:
  return [one.item.about['group'] for one in answered]


def _parity(answered: Sequence[Answered]) -> Mean:
  """The share of groups whose questions all have the same answer."""
  said: dict[str, set[int]] = {}
  for group, one in zip(_groups(answered), answered, strict=True):
    said.setdefault(group, set()).add(one.said)
  return Mean.of([float(len(some) == 1) for some in said.values()])


def _sums(answered: Sequence[Answered], per: str, compute: Callable[[Any], float]) -> Counts:
  total = sum(one.scores['logp'] for one in answered)
  size = sum(one.scores.get(per, 1.0) for one in answered)
  return Counts({'logp': total, 'size': size}, compute)


def _perplexity(sums: Mapping[str, float]) -> float:
  return math.exp(min(-sums['logp'] / (sums['size'] or 1), 700.0))


def _bits(sums: Mapping[str, float]) -> float:
  return -sums['logp'] / (sums['size'] or 1) / math.log(2)


# Metrics of which less is better.
FEWER = ('perplexity', 'word_perplexity', 'byte_perplexity', 'bits_per_byte')
# Metrics that are no means of scores: from all answers.
AGGREGATES: dict[str, Callable[[Sequence[Answered]], Counts | Mean]] = {
  'f1': _f1,
  'mcc': _matthews,
  'macro_f1': _table,
  'pearson': lambda answered: Counts(counts.moments(*_numbers(answered)), counts.pearson),
  'spearman': lambda answered: Counts(counts.listed(*_numbers(answered)), counts.spearman),
  'f1a': lambda answered: _multirc(answered, counts.f1),
  'f1m': lambda answered: _multirc(answered, reading.f1m),
  'em': lambda answered: _multirc(answered, reading.exact_match),
  'parity': _parity,
  'perplexity': lambda answered: _sums(answered, 'one', _perplexity),
  'word_perplexity': lambda answered: _sums(answered, 'words', _perplexity),
  'byte_perplexity': lambda answered: _sums(answered, 'bytes', _perplexity),
  'bits_per_byte': lambda answered: _sums(answered, 'bytes', _bits),
}

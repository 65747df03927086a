"""What the runs of a comparison left: metrics, their curves, and what they cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm_jax import artifact
from llm_jax.evals import task_metrics
from llm_jax.find import call
from llm_jax.jobs import chain, design, evaluations
from llm_jax.options import options_of, suggest
from llm_jax.parallel.mesh import make_mesh
from llm_jax.training import metrics
from llm_jax.types import BadInput

# The last words of metrics of which less is better; `config.fewer` adds others.
FEWER = (*task_metrics.FEWER, 'loss', 'cross_entropy', 'kl', 'answer_kl', 'invention', 'brier')
FEWER += ('ece', 'over_refusal', 'cut', 'failed')
UNITS = {'loss': 'nats', 'cross_entropy': 'nats', 'kl': 'nats', 'bits_per_byte': 'bits per byte'}


class Result(NamedTuple):
  """What a run left.

  Attributes:
    values: metric -> its value for the published parameters.
    curves: metric -> (step, value), of those that are measured in training.
    cost: `steps`, `tokens` and `flops`.
    seconds: of all devices together, in steps; compiling and evaluating are not in it.
    failed: why the run left no model; '' if it did.
  """

  values: Mapping[str, float]
  curves: Mapping[str, Sequence[tuple[int, float]]]
  cost: Mapping[str, float]
  seconds: float
  failed: str = ''


def fewer(metric: str, more: Sequence[str] = ()) -> bool:
  """Whether less of a metric is better.

  >>> fewer('validation/loss'), fewer('questions/word_problems/exact_answer')
  (True, False)
  """
  return metric.rpartition('/')[2] in FEWER or metric in more


def unit(metric: str) -> str:
  """The unit of a metric, with a blank before it; '' where it is a share, or nobody knows."""
  known = UNITS.get(metric.rpartition('/')[2])
  return f' {known}' if known else ''


def check_metrics(read: Sequence[str], config: Any) -> None:
  """Whether a stage measures what is compared, as far as this can be known before it has run.

  Args:
    read: metrics, each '<key of an evaluation>/<metric>'.
    config: of the stage.

  Raises:
    BadInput: no evaluation of that name, or it measures no such thing.
  """
  groups = {group.key: group for group in evaluations.chosen(config.evals)}
  for metric in read:
    key, _, name = metric.partition('/')
    if key not in groups:
      of = lambda group: sorted(_metrics(group, config) or ('...',))
      known = [f'{key}/{one}' for key, group in groups.items() for one in of(group)]
      raise BadInput(f'read: {metric!r} is measured by nobody; {suggest(metric, known)}')
    known = _metrics(groups[key], config)
    if known is not None and name not in known:
      whole = [f'{key}/{one}' for one in sorted(known)]
      raise BadInput(f'read: {metric!r} is measured by nobody; {suggest(metric, whole)}')


def own_losses(read: Sequence[str], config: Any) -> list[str]:
  """Metrics that are the loss of the run itself, which other losses cannot be compared with."""
  found = []
  for group in evaluations.chosen(config.evals):
    takes = 'loss_fn' in options_of(group.module.make) and not group.own('losses')
    found += [f'{group.key}/loss'] if takes else []
  return [metric for metric in read if metric in found]


def _metrics(group: evaluations.Group, config: Any) -> set[str] | None:
  """What an evaluation measures; None where its file does not say."""
  said = getattr(group.module, 'METRICS', None)
  if said is None:
    return None
  takes, known = options_of(group.module.make), {*said}
  if 'loss_fn' in takes:
    if group.own('losses'):
      return None
    measured = design.loss_metrics(design.design(config), config)
    if measured is None:
      return None
    known |= measured
  if 'annotate' in takes:
    known |= design.logged(group.parts if group.own('annotate') else chain.chain(config))
  return known


def read(config: Any, wanted: Sequence[str]) -> Result:
  """What a finished run left.

  Args:
    config: of the run.
    wanted: metrics.

  Raises:
    BadInput: it has not measured one of them.
  """
  folder = Path(config.workdir)
  records, step = metrics.read(folder), artifact.describe(folder)['step']
  curves = {
    name: [(r['step'], r[name]) for r in records if r.get(name) is not None] for name in wanted
  }
  values = {}
  for name in wanted:
    there = [record[name] for record in records if name in record and record['step'] <= step]
    if not there:
      known = sorted({name for record in records for name in record if '/' in name})
      raise BadInput(f'read: {folder} has measured no {name!r}; {suggest(name, known)}')
    values[name] = float('nan') if there[-1] is None else there[-1]
  return Result(values, curves, _cost(records), _seconds(records, config))


def _cost(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  last = next((r for r in reversed(records) if 'total_tokens' in r), {})
  names = {'steps': 'step', 'tokens': 'total_tokens', 'flops': 'total_flops'}
  return {name: last.get(field, 0) for name, field in names.items()}


def _seconds(records: Sequence[Mapping[str, Any]], config: Any) -> float:
  """Of the steps of a run, whose first one is taken to be as long as the others."""
  known = [r for r in records if 'total_tokens' in r]
  size = known[0]['total_tokens'] / known[0]['step'] if known else 0
  timed, rated, before = 0.0, 0.0, 0
  for record in known:
    tokens, before = size * (record['step'] - before), record['step']
    if record.get('tokens_per_second'):
      timed, rated = timed + tokens / record['tokens_per_second'], rated + tokens
  whole = timed * known[-1]['total_tokens'] / rated if rated else 0.0
  return whole * call(make_mesh, config.mesh, where='mesh').size

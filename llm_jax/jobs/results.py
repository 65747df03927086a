"""What the runs of a comparison left: metrics, their curves, and what they cost."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from llm_jax import artifact, run_folder, storage
from llm_jax.evals import task_metrics
from llm_jax.files import read_json, write_json
from llm_jax.find import call
from llm_jax.jobs import chain, design, evaluations
from llm_jax.jobs.measure import measure, watched
from llm_jax.jobs.variants import Run
from llm_jax.options import options_of, resolve, suggest
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text.terminal import say
from llm_jax.training import metrics
from llm_jax.types import BadInput

COST = {'steps': 'step', 'tokens': 'total_tokens', 'flops': 'total_flops'}  # -> field of a record
# The last words of metrics of which less is better; `config.fewer` adds others.
FEWER = (*task_metrics.FEWER, 'loss', 'cross_entropy', 'kl', 'answer_kl', 'invention', 'brier')
FEWER += ('ece', 'over_refusal', 'cut', 'failed', 'repetition', 'truncated', 'missing_eos', 'nll')
FEWER += ('overlong', 'verify_failed', 'tool_errors', 'value_loss', 'answer_kl_k3')
_BY_TOKEN = ('loss', 'cross_entropy')  # last words of metrics that are nats a token
# What decides the meaning of a metric -> what the metric is, and what can be read in its place.
_MEANS = {
  'loss': ('the loss that a run is trained with, and that', 'an accuracy or a task'),
  'tokenizer': ('counted by token, and the tokenizer', 'bits_per_byte or a task'),
  'reward': (
    'the reward that a run is trained for, and that',
    "'asked/word_problems/exact_answer' of --config.evals.asked.name=answers",
  ),
}
UNITS = {'loss': 'nats', 'cross_entropy': 'nats', 'kl': 'nats', 'bits_per_byte': 'bits per byte'}


class Result(NamedTuple):
  """What a run left.

  Attributes:
    values: metric -> its value for the published parameters.
    curves: metric -> (step, value), of those that are measured in training.
    cost: `steps`, `tokens` and `flops`.
    seconds: of all devices together, in steps; compiling and evaluating are not in it.
    failed: why the run left no model; '' if it did.
    step: updates of the model that is compared, fewer than the run made if it is an earlier one.
  """

  values: Mapping[str, float]
  curves: Mapping[str, Sequence[tuple[int, float]]]
  cost: Mapping[str, float]
  seconds: float
  failed: str = ''
  step: int = 0


def fewer(metric: str, more: Sequence[str] = ()) -> bool:
  """Whether less of a metric is better.

  >>> fewer('validation/loss'), fewer('questions/word_problems/exact_answer')
  (True, False)
  """
  last = metric.rpartition('/')[2]
  return last in (*FEWER, *more) or metric in more


def unit(metric: str) -> str:
  """The unit of a metric, with a blank before it; '' where it is a share, or nobody knows."""
  known = UNITS.get(metric.rpartition('/')[2])
  return f' {known}' if known else ''


def check_fewer(more: Sequence[str], read: Sequence[str]) -> None:
  """Whether each of the metrics of which less is better is compared.

  Args:
    more: whole names, or last words of some.
    read: what is compared.

  Raises:
    BadInput: naming the one that is not.
  """
  known = [*read, *(metric.rpartition('/')[2] for metric in read)]
  for name in more:
    if name not in known:
      raise BadInput(f'fewer: {name!r} is not compared; {suggest(name, known)}')


def check_metrics(read: Sequence[str], run: Run, asked: Mapping[str, Any]) -> None:
  """Whether a run measures what is compared, as far as this can be known before it has run.

  Args:
    read: metrics, as '<key of an evaluation>/<metric>'; of the stages of a pipeline
      '<stage>/<key>/<metric>'.
    run: any of a variant.
    asked: key -> evaluation that finished models are put to.

  Raises:
    BadInput: no evaluation of that name, or it measures no such thing.
  """
  last = [*run.stages.values()][-1]
  groups = {f'{group.key}/': (group, last) for group in evaluations.chosen(asked)}
  for stage, config in run.stages.items():
    for group in evaluations.chosen(config.get('evals') or {}):
      key = f'{stage}/{group.key}/'.lstrip('/')
      if key in groups:
        raise BadInput(f'evals: {group.key!r} is an evaluation of config.base too; rename one')
      groups[key] = (group, config)
  known = {key: _metrics(*one) for key, one in groups.items()}
  listed = [f'{key}{name}' for key, names in known.items() for name in sorted(names or ('...',))]
  for metric in read:
    key = next((key for key in known if metric.startswith(key)), None)
    names = known[key] if key else ()
    if names is not None and metric.removeprefix(key or '') not in names:
      what = f'{metric!r} is measured by nobody' if metric else 'nothing is compared'
      raise BadInput(f'read: {what}; {suggest(metric, listed)}')


def check_comparable(read: Sequence[str], run: Run, first: Run) -> None:
  """Whether metrics mean the same for two runs: a loss, what is counted by token, a reward.

  Args:
    read: the metrics.
    run: of a variant.
    first: of what it is compared with.

  Raises:
    BadInput: naming the metric and what differs.
  """
  own, theirs = _means(read, run), _means(read, first)
  for (metric, what), value in own.items():
    if (metric, what) in theirs and theirs[metric, what] != value:
      says, instead = _MEANS[what]
      raise BadInput(
        f'read: {metric!r} is {says} of {run.variant!r} is another than that of '
        f'{first.variant!r}; read what means the same for both, such as {instead}'
      )


def _means(read: Sequence[str], run: Run) -> dict[tuple[str, str], Any]:
  """(metric, word of _MEANS) -> what of the config decides what the metric means."""
  found: dict[tuple[str, str], Any] = {}
  for stage, config in run.stages.items():
    for group in evaluations.chosen(config.get('evals') or {}):
      takes, before = options_of(group.module.make), f'{stage}/{group.key}/'.lstrip('/')
      for metric in (name for name in read if name.startswith(before)):
        word = metric.removeprefix(before)
        if word == 'loss' and 'loss_fn' in takes and not group.own('losses'):
          found[metric, 'loss'] = config.get('loss')
        if word in _BY_TOKEN:
          found[metric, 'tokenizer'] = _tokenizer(run, config)
        if word == 'reward' and 'annotate' in takes:
          parts = group.parts if group.own('annotate') else chain.chain(config)
          found[metric, 'reward'] = [
            (part.name, part.options) for part in parts if part.room == 'annotate' and _scores(part)
          ]
  return found


def _scores(part: chain.Part) -> bool:
  return 'reward' in (chain.said(part.module, 'WRITES', part.options) or ())


def _tokenizer(run: Run, stage: Any) -> Any:
  """What tells the tokenizer of a stage from others, as far as it can be known before it runs."""
  made_here = [*run.stages.values(), *(stage.get(name) for name in stage.get('requires', ()))]
  for one in made_here:
    if one is not None and one.get('job') == 'tokenize':
      return {name: one.get(name) for name in ('tokenizer', 'sources')}
  start = (stage.get('init') or {}).get('params')
  if start and (Path(start) / artifact.FILE).is_file():
    return artifact.describe(start)['tokenizer']
  return None


def _metrics(group: evaluations.Group, config: Any) -> set[str] | None:
  """What an evaluation measures; None where its file does not say."""
  takes = options_of(group.module.make)
  said = chain.said(group.module, 'METRICS', resolve(group.module.make, group.options))
  if said is None:
    return None
  known = {*said}
  if 'loss_fn' in takes:
    if group.own('losses') or config.job != 'train':
      return None
    measured = design.loss_metrics(design.design(config), config)
    if measured is None:
      return None
    known |= measured
  if 'annotate' in takes:
    known |= design.logged(group.parts if group.own('annotate') else chain.chain(config))
  return known


def kept_at(
  run: Run, groups: Mapping[str, Any], *, seed: int, compute: Mapping[str, Any] | None
) -> Path:
  """The file of what `measured` finds, of a run that has finished."""
  depends = [groups, run_folder.digests([run.model, groups]), seed, compute]
  plain = storage.named(json.dumps(depends, sort_keys=True, default=str))
  digest = hashlib.sha256(plain.encode()).hexdigest()
  return Path(run.model) / 'compared' / f'{digest[:16]}.json'


def measured(
  run: Run,
  groups: Mapping[str, Any],
  *,
  seed: int,
  compute: Mapping[str, Any] | None,
  trust: Sequence[str] = (),
) -> dict[str, float]:
  """What the model of a run comes to in evaluations; it is kept beside the model's files.

  Args:
    run: that has finished.
    groups: key -> evaluation.
    seed: of sampling.
    compute: how the model is run.
    trust: modules of yours that artifacts may name as their models.
  """
  if not groups:
    return {}
  kept = kept_at(run, groups, seed=seed, compute=compute)
  if kept.is_file():
    return read_json(kept, 'delete it, and it is measured again')['metrics']
  say(f'asking {run.model}')
  mesh = call(make_mesh, run.stages[[*run.stages][-1]].mesh, where='mesh')
  with jax.set_mesh(mesh):
    made = artifact.load(run.model, mesh, compute, trust=trust)
    progress = watched(run.model)
    found = measure(groups, made, mesh=mesh, trust=trust, seed=seed, progress=progress).metrics
  if jax.process_index() == 0:
    kept.parent.mkdir(exist_ok=True)
    write_json(kept, {'metrics': {k: None if math.isnan(x) else x for k, x in found.items()}})
  return found


def read(run: Run, wanted: Sequence[str], asked: Mapping[str, float]) -> Result:
  """What a finished run left.

  Args:
    run: of the comparison.
    wanted: metrics.
    asked: what was measured of its model.

  Raises:
    BadInput: it has not measured one of them.
  """
  values: dict[str, float] = {}
  known, curves, cost, seconds = dict(asked), {}, dict.fromkeys(COST, 0.0), 0.0
  published = artifact.describe(run.model)['step'] if run_folder.finished(run.model) else 0
  for stage, config in run.stages.items():
    if config.job != 'train':
      continue
    folder, before = Path(config.workdir), f'{stage}/' if stage else ''
    records, step = metrics.read(folder), artifact.describe(folder)['step']
    for record in records:
      for name in record:
        if '/' in name and record['step'] <= step:
          known[f'{before}{name}'] = record[name]
    for name in (name for name in wanted if name.startswith(before)):
      own = name.removeprefix(before)
      curves[name] = sorted((r['step'], r[own]) for r in records if r.get(own) is not None)
    cost = {name: total + _last(records, COST[name]) for name, total in cost.items()}
    seconds += _seconds(records, config)
  for name in wanted:
    if name not in known:
      found = suggest(name, sorted(known))
      raise BadInput(f'read: {run.model} has measured no {name!r}; {found}')
    values[name] = math.nan if known[name] is None else known[name]
  curves = {name: points for name, points in curves.items() if len(points) > 1}
  return Result(values, curves, cost, seconds, step=published)


def seconds_of_update(config: Any) -> float:
  """Of all devices together, by what a run has logged; nan if it was too short to tell."""
  records = [r for r in metrics.read(config.workdir) if 'total_tokens' in r]
  return _seconds(records, config) / records[-1]['step'] if records else math.nan


def _last(records: Sequence[Mapping[str, Any]], field: str) -> float:
  return next((r[field] for r in reversed(records) if 'total_tokens' in r), 0.0)


def _seconds(records: Sequence[Mapping[str, Any]], config: Any) -> float:
  """Of the updates of a run, on all devices; the first one is taken to be as long as the others."""
  known = [r for r in records if 'total_tokens' in r]
  size = known[0]['total_tokens'] / known[0]['step'] if known else 0
  timed, rated, before = 0.0, 0.0, 0
  for record in known:
    tokens, before = size * (record['step'] - before), record['step']
    if record.get('tokens_per_second'):
      timed, rated = timed + tokens / record['tokens_per_second'], rated + tokens
  whole = timed * known[-1]['total_tokens'] / rated if rated else 0.0
  return whole * call(make_mesh, config.mesh, where='mesh').size

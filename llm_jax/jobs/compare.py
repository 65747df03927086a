"""Job `compare`: variants of a config over several seeds, and one table that says which is better.

Runs go one after the other, each in a folder of its own below the workdir, and one that is finished
is never repeated: the same command goes on after a kill, and with more seeds, variants or factors
it runs what is missing. What is tuned is tuned for each variant with a seed that is not compared.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax import artifact, options, storage
from llm_jax.evals import task
from llm_jax.find import call
from llm_jax.jobs import (
  budget,
  compare_report,
  design,
  device_groups,
  evaluations,
  results,
  running,
  tasks,
  variants,
)
from llm_jax.jobs.bench import TUNING, Bench, asked_of, inside
from llm_jax.jobs.budget import Budget
from llm_jax.jobs.compare_report import Compared
from llm_jax.jobs.shards import shard_of
from llm_jax.jobs.variants import Changes, Run
from llm_jax.lock import locked
from llm_jax.models.compute import Compute
from llm_jax.options import Count, Place
from llm_jax.parallel.mesh import batch_shards, make_mesh
from llm_jax.text.terminal import say
from llm_jax.types import BadInput


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'compare'.
    workdir: its folder, below which every run has its own.
    base: the config of a stage or of a pipeline, which each variant changes.
    variants: name -> changes, written like the fields of the base.
    grid: field -> the values it takes; each combination is a variant beside the others.
    against: the variant that the others are compared with; by default the unchanged base.
    seeds: runs of each variant; their seeds are that of the base and those that follow it.
    read: what is compared, as '<key of an evaluation>/<metric>', or '<stage>/<key>/<metric>' of a
      stage of a pipeline; the first one decides what is tuned.
    fewer: metrics of which less is better, beside those that are known to be.
    tune: field -> factors by which its value is multiplied, for each variant; the best is compared.
      None compares all variants as they are.
    budget: what each run may use, the same for all.
    evals: what the models are put to when they are finished: key -> evaluation.
    tasks: benchmarks that they are put to; see jobs/evaluate.py.
    path: the folder of all benchmarks.
    ask: how all tasks are put, such as `shots`; those of one are in `evals.<task>`.
    compute: how the models are run for this.
    groups: of this host's devices; each makes runs of its own, at the same time as the others.
    shard: '3/16' for the third of sixteen processes that divide the runs and share the workdir.
    trust: modules of yours that the artifacts may name as their model, such as 'mine.model'; other
      code than llm_jax's own is not imported because an artifact names it.
  """

  job: str
  workdir: Place
  base: Mapping[str, Any]
  variants: Mapping[str, Any] | None = None
  grid: Mapping[str, Any] | None = None
  against: str = ''
  seeds: Count = 3
  read: Sequence[str]
  fewer: Sequence[str] = ()
  tune: Mapping[str, Any] | None = None
  budget: Mapping[str, Any] | None = None
  evals: Mapping[str, Any] | None = None
  tasks: Sequence[str] = ()
  path: str = ''
  ask: Mapping[str, Any] | None = None
  compute: Mapping[str, Any] | None = None
  groups: Count = 1
  shard: str = ''
  trust: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], tuple[str, ...]]]:
  """(group of the config, the function that its options are for, what the job fills in)."""
  yield 'budget', Budget, ()
  yield from evaluations.functions(config.get('evals') or {})
  yield 'ask', task.make, (*evaluations.FILLED_IN, *tasks.OF_ONE)
  yield 'compute', Compute, ()


def check(config: Any) -> None:
  """Everything that can be known of all runs before the first one.

  Raises:
    BadInput: naming the variant, the field and what would work.
  """
  options.check(Fields, dict(config.items()), where='config')
  if config.seeds < 2:
    raise BadInput(
      'seeds: one run of each is an anecdote, since it cannot say how far seeds differ; choose 2 '
      'or more, such as --config.seeds=5'
    )
  if config.seeds > TUNING:
    raise BadInput(f'seeds: {config.seeds} are too many; choose {TUNING} or fewer')
  shard_of(config.get('shard'))
  budget.of(config)
  found = variants.variants(config)
  if config.get('groups', 1) > 1:
    device_groups.check()  # their processes check all else, with the devices that they have
    return
  seed = config.base.seed
  made = {name: variants.run_of(config, name, changes, seed) for name, changes in found.items()}
  paid = int(budget.of(config) != Budget())  # then the budget decides how many updates are made
  alike = {
    name: variants.run_of(config, name, one, seed, steps=paid) for name, one in found.items()
  }
  variants.check_different({name: run.config for name, run in alike.items()})
  results.check_fewer(config.get('fewer', ()), config.read)
  with design.shared():
    asked = asked_of(config)
    for name, run in made.items():
      with inside(name):
        results.check_metrics(config.read or [''], run, asked)
        _check_evals(config, run, asked)
    first = next(iter(made.values()))
    for run in made.values():
      results.check_comparable(config.read, run, first)
    for name, changes in found.items():
      with inside(name):
        for run in _runs_to_check(config, name, changes):
          running.check(run.config)


def _runs_to_check(config: Any, name: str, changes: Changes) -> Iterator[Run]:
  """Runs of a variant, as far as they are known; those of later phases are checked as they come."""
  paid, settings = budget.of(config), variants.settings(config, changes)
  # How many updates other budgets pay for is not known yet, so their folders are not looked at.
  place = '' if paid == Budget(steps=paid.steps) else 'checked'
  how: Any = {'steps': paid.steps or 0, 'place': place}
  seeds = [TUNING] if len(settings) > 1 else range(config.seeds)
  for setting in settings:
    for seed in seeds:
      yield variants.run_of(config, name, changes, config.base.seed + seed, setting, **how)


def _check_evals(config: Any, run: Run, asked: Mapping[str, Any]) -> None:
  stage = next(one for one in run.stages.values() if one.workdir == run.model)
  if not asked:
    return
  if 'model' not in stage:
    raise BadInput('evals: config.base leaves no model')
  model = artifact.build(artifact.published(stage.model.to_dict()), source=run.variant)
  shards = batch_shards(call(make_mesh, stage.mesh, where='mesh'))
  coming = [one.workdir for one in run.stages.values()]
  evaluations.check(asked, offered=('record',), model=model, coming=coming, shards=shards)


def main(config: Any) -> None:
  """Runs what has not run, then writes the answer."""
  if config.get('groups', 1) > 1:
    return device_groups.run(config)
  shard = shard_of(config.get('shard'))
  alone = jax.process_index() == 0 and shard.count == 1
  with locked(config.workdir, take=alone), design.shared():
    bench = Bench(config, shard)
    made = variants.variants(config)
    steps = bench.steps(made)
    tuned = bench.tuned(made, steps)
    runs = [
      variants.run_of(config, name, changes, config.base.seed + i, setting, steps=steps[name])
      for i in range(config.seeds)
      for name, changes in made.items()
      for setting in [
        tuned[name].setting if name in tuned else variants.settings(config, changes)[0]
      ]
    ]
    bench.run(runs)
    if left := bench.left(runs):
      say(f'\n{len(left)} runs of other shards are left; the last one to finish has the answer.')
      return

    def answer() -> None:
      storage.refresh(Path(config.workdir))
      with locked(config.workdir, take=jax.process_index() == 0):
        found = {(run.variant, run.seed): bench.result(run) for run in runs}
        if jax.process_index() == 0:
          whole = Compared(runs=runs, results=found, changes=made, tuned=tuned)
          compare_report.write(config, whole)

    shard.patient(answer)

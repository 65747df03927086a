"""Job `compare`: variants of a config over several seeds, and one table that says which is better.

Runs go one after the other, each in a folder of its own below the workdir, and one that is finished
is never repeated: the same command goes on after a kill, and with more seeds, variants or factors
it runs what is missing. What is tuned is tuned for each variant with a seed that is not compared.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax import options, run_folder
from llm_jax.files import read_json, write_json
from llm_jax.jobs import compare_report, design, results, running, variants
from llm_jax.jobs.compare_report import Compared, Tuned
from llm_jax.jobs.results import Result
from llm_jax.jobs.variants import Run
from llm_jax.lock import locked
from llm_jax.options import Count, Place
from llm_jax.text.terminal import say
from llm_jax.training.metrics import Diverged
from llm_jax.types import BadInput

FAILED = 'failed.json'  # why a run left no model
TUNING = 1000  # from the first seed to that of tuning, which no comparison gets to


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'compare'.
    workdir: its folder, below which every run has its own.
    base: the config of a stage, which each variant changes.
    variants: name -> changes, written like the fields of the base.
    grid: field -> the values it takes; each combination is a variant beside the others.
    against: the variant that the others are compared with; by default the unchanged base.
    seeds: runs of each variant; their seeds are that of the base and those that follow it.
    read: what is compared, as '<key of an evaluation>/<metric>'; the first decides what is tuned.
    fewer: metrics of which less is better, beside those that are known to be.
    tune: field -> factors by which its value is multiplied, for each variant; the best is compared.
      None compares all variants as they are.
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


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], tuple[str, ...]]]:
  """(group of the config, the function that its options are for, what the job fills in)."""
  del config
  yield from ()


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
  if not config.read:
    raise BadInput('read: nothing is compared; give --config.read="(\'validation/loss\',)"')
  found = variants.variants(config)
  seed = config.base.seed
  made = {name: variants.run_of(config, name, changes, seed, {}) for name, changes in found.items()}
  variants.check_different({name: run.config for name, run in made.items()})
  for name, run in made.items():
    with _inside(name):
      results.check_metrics(config.read, run.config)
  groups = {name: run.config.get('loss', {}) for name, run in made.items()}
  first = next(iter(made))
  for name, run in made.items():
    own = results.own_losses(config.read, run.config)
    if own and groups[name] != groups[first]:
      raise BadInput(
        f'read: {own[0]!r} is the loss that a run is trained with, and {name!r} has another than '
        f'{first!r}; read what means the same for both, such as an accuracy or a task'
      )
  for name, changes in found.items():
    for setting in variants.settings(config, changes):
      with _inside(name):
        running.check(variants.run_of(config, name, changes, seed, setting).config)


def main(config: Any) -> None:
  """Runs what has not run, then writes the answer."""
  with locked(config.workdir, take=jax.process_index() == 0), design.shared():
    made = variants.variants(config)
    tuned = _tuned(config, made)
    runs = _compared(config, made, {name: one.setting for name, one in tuned.items()})
    for number, run in enumerate(runs, 1):
      _run(run, f'{number} of {len(runs)}')
    found = {(run.variant, run.seed): _result(run, config) for run in runs}
    if jax.process_index() == 0:
      compare_report.write(config, Compared(runs=runs, results=found, changes=made, tuned=tuned))


def _tuned(config: Any, made: Mapping[str, variants.Changes]) -> dict[str, Tuned]:
  """What is best for each variant that is tuned, by the first metric, with a seed of its own."""
  tried = {}
  for name, changes in made.items():
    choices = variants.settings(config, changes)
    if len(choices) > 1:
      seed = config.base.seed + TUNING
      tried[name] = [variants.run_of(config, name, changes, seed, one) for one in choices]
  count, number, found = sum(map(len, tried.values())), 0, {}
  for name, runs in tried.items():
    for run in runs:
      number += 1
      _run(run, f'tuning, {number} of {count}')
    metric = config.read[0]
    results_of = [_result(run, config) for run in runs]
    values = [one.values.get(metric, math.nan) for one in results_of]
    sign = 1 if results.fewer(metric, config.get('fewer', ())) else -1
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    if not known:
      raise BadInput(f'{name}: no run of its tuning has a {metric!r}; tune by smaller factors')
    best = min(known, key=lambda i: sign * values[i])
    found[name] = Tuned(runs[best].setting, [run.setting for run in runs], values)
  return found


def _compared(
  config: Any, made: Mapping[str, variants.Changes], settings: Mapping[str, variants.Changes]
) -> list[Run]:
  """The runs that are compared, seed by seed."""
  return [
    variants.run_of(config, name, changes, config.base.seed + i, settings.get(name, {}))
    for i in range(config.seeds)
    for name, changes in made.items()
  ]


def _run(run: Run, place: str) -> None:
  """Runs what is not finished; a run that diverges leaves a note, and is not repeated either."""
  folder = Path(run.config.workdir)
  if run_folder.finished(str(folder)) or (folder / FAILED).is_file():
    return
  say(f'\n== {run.label} ({place}), in {folder}')
  try:
    running.run(run.config)
  except Diverged as error:
    say(error)
    write_json(folder / FAILED, {'said': str(error)})


def _result(run: Run, config: Any) -> Result:
  failed = Path(run.config.workdir) / FAILED
  if failed.is_file():
    said = read_json(failed, 'delete its folder, and the run is repeated')['said']
    return Result(values={}, curves={}, cost={}, seconds=0.0, failed=said)
  return results.read(run.config, config.read)


@contextlib.contextmanager
def _inside(name: str) -> Iterator[None]:
  """Says which variant a bad input is in."""
  try:
    yield
  except BadInput as error:
    raise BadInput(f'{name}: {error}') from None

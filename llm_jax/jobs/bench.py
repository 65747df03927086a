"""Where the runs of a comparison are made: what has ended is known by its folder alone."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax import run_folder, storage
from llm_jax.files import read_json, write_json
from llm_jax.jobs import budget, lengthened, results, running, tasks, variants
from llm_jax.jobs.compare_report import Tuned
from llm_jax.jobs.results import Result
from llm_jax.jobs.shards import Shard
from llm_jax.jobs.trust import trusted
from llm_jax.jobs.variants import Changes, Run
from llm_jax.text.terminal import say
from llm_jax.training import boards, metrics
from llm_jax.training.metrics import Diverged
from llm_jax.types import BadInput

FAILED = 'failed.json'  # why a run left no model
TUNING = 1000  # from the first seed to that of tuning, which no comparison gets to


class Bench:
  """The runs of this process.

  Args:
    config: of the job.
    shard: this process, of all that share the folder.
  """

  def __init__(self, config: Any, shard: Shard) -> None:
    self.config, self.shard = config, shard
    self.asked, self.budget = asked_of(config), budget.of(config)
    self._how = {'compute': config.get('compute'), 'seed': config.base.seed}

  def run(self, runs: Sequence[Run], what: str = '') -> None:
    """Runs those of this shard that have not ended."""
    mine = self.shard.mine(runs)
    for number, run in enumerate(mine, 1):
      if not self._made(run):
        say(f'\n== {run.label} ({what}{number} of {len(mine)}), in {run.folder}')
        self._run(run)
      self._measured(run)
      self._show(run)

  def left(self, runs: Sequence[Run]) -> list[str]:
    """Those that have not ended, or whose models have not been put to the evaluations."""
    if self.shard.count > 1:
      storage.refresh(Path(self.config.workdir), without=storage.MAKING)
    return [run.label for run in runs if not self._ended(run)]

  def result(self, run: Run) -> Result:
    """What a run that has ended left."""
    if said := _failed(run):
      return Result(values={}, curves={}, cost={}, seconds=0.0, failed=said)
    wanted = self.config.read[:1] if self._tunes(run) else self.config.read
    return results.read(run, wanted, self._measured(run))

  def steps(self, made: Mapping[str, Changes]) -> dict[str, int]:
    """Variant -> updates that the budget pays for; 0 for those of its config."""
    seed, found = self.config.base.seed + TUNING, {}
    timed: list[Run] = []
    if self.budget.seconds:
      short = {'steps': budget.TIMED, 'place': 'timing'}
      timed = [variants.run_of(self.config, *one, seed, **short) for one in made.items()]
      for run in timed:
        with run.config.unlocked():
          run.config.log_every, run.config.optimizer.warmup_steps = 1, 1
      self.run(timed, 'timing, ')
      self.shard.wait(lambda: self.left(timed))
    speed = {run.variant: results.seconds_of_update(run.config) for run in timed}
    for name, changes in made.items():
      run = variants.run_of(self.config, name, changes, seed)
      if self.budget.tokens or self.budget.flops:
        self.shard.patient(lambda run=run: running.prepare(run.config))
      with inside(name):
        found[name] = budget.steps(self.budget, run.config, speed.get(name, math.nan))
    return found

  def tuned(self, made: Mapping[str, Changes], steps: Mapping[str, int]) -> dict[str, Tuned]:
    """What is best for each variant that is tuned, by the first metric, with a seed of its own."""
    config, metric = self.config, self.config.read[0]
    seed, tried = config.base.seed + TUNING, {}
    for name, changes in made.items():
      settings = variants.settings(config, changes)
      if len(settings) > 1:
        of = lambda one, name=name, changes=changes: variants.run_of(
          config, name, changes, seed, one, steps=steps[name]
        )
        tried[name] = [*map(of, settings)]
    runs = [run for some in tried.values() for run in some]
    self.run(runs, 'tuning, ')
    self.shard.wait(lambda: self.left(runs))
    sign = 1 if results.fewer(metric, config.get('fewer', ())) else -1
    found = {}
    for name, some in tried.items():
      values = [self.result(run).values.get(metric, math.nan) for run in some]
      known = [i for i, value in enumerate(values) if not math.isnan(value)]
      if not known:
        raise BadInput(f'{name}: no run of its tuning has a {metric!r}; tune by smaller factors')
      best = min(known, key=lambda i, values=values: sign * values[i])
      found[name] = Tuned(some[best].setting, [run.setting for run in some], values)
    return found

  def _run(self, run: Run) -> None:
    """A run that diverges leaves a note, and is not repeated either."""
    try:
      for stage in run.stages.values():
        if not _finished(stage):
          self.shard.patient(lambda stage=stage: self._run_stage(stage))
    except Diverged as error:
      say(error)
      if jax.process_index() == 0:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / FAILED, {'said': str(error), 'of': _digests(run)})

  def _show(self, run: Run) -> None:
    """The stages of a pipeline in one folder of TensorBoard; a single stage has shown itself."""
    trained = {name: one for name, one in run.stages.items() if name and one.job == 'train'}
    if trained and jax.process_index() == 0 and not _failed(run):
      boards.replay(run.folder, {f'{k}/': metrics.read(v.workdir) for k, v in trained.items()})

  def _run_stage(self, stage: Any) -> None:
    if self.shard.count > 1:
      storage.refresh(Path(stage.workdir))  # another process may have been at work there
    running.run(stage)

  def _made(self, run: Run) -> bool:
    return bool(_failed(run)) or all(map(_finished, run.stages.values()))

  def _ended(self, run: Run) -> bool:
    if not self._made(run):
      return False
    asked = self._asked(run)
    return bool(_failed(run)) or not asked or results.kept_at(run, asked, **self._how).is_file()

  def _measured(self, run: Run) -> dict[str, float]:
    if _failed(run):
      return {}
    with inside(run.label):
      running.check(run.config)  # refuses a folder that another config has filled
    return results.measured(run, self._asked(run), trust=trusted(self.config), **self._how)

  def _asked(self, run: Run) -> dict[str, Any]:
    """The evaluations that the model of a run is put to."""
    if not self._tunes(run):
      return self.asked
    # By the first metric alone.
    return {k: v for k, v in self.asked.items() if self.config.read[0].startswith(f'{k}/')}

  def _tunes(self, run: Run) -> bool:
    return run.seed == self.config.base.seed + TUNING


def _failed(run: Run) -> str:
  """Why a run left no model; '' if it did, has not ended, or would be another run today."""
  path = run.folder / FAILED
  if not path.is_file():
    return ''
  note = read_json(path, 'delete its folder, and the run is repeated')
  return note['said'] if note.get('of') == _digests(run) else ''


def _digests(run: Run) -> dict[str, str]:
  return {name: variants.digest(stage) for name, stage in run.stages.items()}


def _finished(stage: Any) -> bool:
  """Whether a stage has ended, with as many updates as it is to have."""
  ended = run_folder.finished(stage.workdir) is not None
  return ended and (stage.job != 'train' or lengthened.is_finished(stage))


def asked_of(config: Any) -> dict[str, Any]:
  """The evaluations that finished models are put to, by key."""
  evals = config.get('evals')
  return tasks.asked(config, evals.to_dict() if evals else {}).groups


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
  """Says which variant a bad input is in."""
  try:
    yield
  except BadInput as error:
    raise BadInput(f'{name}: {error}') from None

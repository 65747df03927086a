"""Job `pipeline`: stages one after the other, each in its own folder, and a report of all of them.

The artifact is all that a stage hands to the next. A stage that is finished is left alone, one that
was killed goes on, and the same command does both. A stage is stale once something that it was made
from has been made again; `config.stale` says what happens then.
"""

import dataclasses
import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from ml_collections import ConfigDict

from llm_jax import artifact, run_folder
from llm_jax.files import read_json, write_json
from llm_jax.find import call, find
from llm_jax.jobs import progress, report
from llm_jax.jobs.design import check_length
from llm_jax.jobs.option_list import fields
from llm_jax.jobs.trust import trusted
from llm_jax.lock import locked
from llm_jax.models.shape import Shape
from llm_jax.options import Count, Place, Seed, suggest
from llm_jax.options import check as check_options
from llm_jax.parallel.hosts import on_one_host
from llm_jax.parallel.mesh import make_mesh
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, NothingNew

TIMES = 'seconds.json'
REPORT = 'report'  # what `only` may also say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job; each stage is a group beside them, a config of its own.

  Attributes:
    job: 'pipeline'.
    workdir: its folder, below which stages have theirs, and the report is written.
    stages: groups of the config, in the order in which they run.
    rounds: how often the model is improved: from the second round on, the stages of `again` run in
      a folder of their own, `round2` and so on, on what users have said in between.
    again: the stages of a round, each with its config; `stages` has their order.
    only: the stages that run, separated by commas, or 'report'; '' for all of them.
    start: the stage to start with, so that those before it are not looked at; '' for the first.
    stale: what happens to a stage that was made from something that has been made again since:
      the command is refused, the stage is moved aside and runs again, or it is kept as it is.
    seed: of every stage that is not given its own.
    mesh: sizes of the axes of the device mesh, of every stage that is not given its own.
    report: what every model is asked.
    tasks: benchmarks that every model is put to, for the report; see jobs/evaluate.py.
    path: the folder of all benchmarks.
    ask: how all tasks are put, such as `shots`; those of one are in `report.evals.<task>`.
    expected: stage, or 'report' -> the seconds that it took where the recipe was measured, from
      which the time that is left is told; the speed of this machine follows from finished stages.
    trust: modules of yours that the artifacts may name as their model, beside those that are the
      model of a stage; other code than llm_jax's own is not imported because an artifact names it.
  """

  job: str
  workdir: Place
  stages: Sequence[str]
  rounds: Count = 1
  again: Mapping[str, Any] | None = None
  only: str
  start: str
  stale: Literal['refuse', 'retrain', 'keep']
  seed: Seed
  mesh: Mapping[str, int | None]
  report: Mapping[str, Any]
  tasks: Sequence[str] = ()
  path: str = ''
  ask: Mapping[str, Any] | None = None
  expected: Mapping[str, float] | None = None
  trust: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Any, Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  yield 'mesh', make_mesh, ('devices',)
  yield from report.groups(config)


def check(config: Any) -> None:
  """Everything that can be known of all stages before the first one runs.

  Raises:
    BadInput: naming the stage, the field and what would work.
  """
  is_stage = lambda value: isinstance(value, ConfigDict) and 'job' in value
  fields = {field: value for field, value in config.items() if not is_stage(value)}
  check_options(Fields, fields, where='config')
  names = _selected(config)
  seconds(config.workdir)  # refuses what is damaged
  stale = stale_stages(config, names)
  if stale and config.stale == 'refuse':
    told = '; '.join(f'{name} was made from {path}' for name, path in stale.items())
    raise BadInput(
      f'pipeline: {told}, which is not the same any more; add --config.stale=retrain to move '
      'such a stage aside and run it again, or --config.stale=keep to use it as it is'
    )
  coming: dict[str, Any] = {}
  lengths: dict[str, int] = {}
  for name in names:
    _check(config, name, coming)
    if config[name].get('data', {}).get('path') in lengths:  # of a stage that may not have run
      most = config[name].model.get('max_length', Shape.max_length)
      check_length(config[name], most, lengths)
    if isinstance(config[name].get('length'), int):
      lengths[config[name].workdir] = config[name].length
    if _runs(config, name, stale):
      model = config[name].get('model')
      coming[config[name].workdir] = model and artifact.published(model.to_dict())
  report.check(config)


def stale_stages(config: Any, names: Sequence[str]) -> dict[str, str]:
  """Stage -> something it was made from that has been made again since, or is about to be.

  Args:
    config: of the pipeline.
    names: of the stages that are looked at, in order; those of them that have yet to run, or to run
      again, change what is made from them.
  """
  anew: list[str] = []
  stale: dict[str, str] = {}
  for name in names:
    for path, was in run_folder.made_from(config[name].workdir).items():
      changes = path in anew or str(Path(path).parent) in anew
      if changes or run_folder.digest(path) not in (was, None):
        stale[name] = path
        break
    if _runs(config, name, stale):
      anew.append(config[name].workdir)
  return stale


def _runs(config: Any, name: str, stale: Collection[str]) -> bool:
  """Whether a stage has something to do."""
  again = name in stale and config.stale != 'keep'
  return again or _outdated(config[name]) or not run_folder.finished(config[name].workdir)


def _outdated(stage: Any) -> bool:
  """Whether a job says of a finished stage that it has to run again."""
  job = find('jobs', stage.job)
  return hasattr(job, 'outdated') and job.outdated(stage)


def main(config: Any) -> None:
  """Runs the stages that are not finished, then writes the report."""
  with locked(config.workdir, take=jax.process_index() == 0):
    _run(config)


def _run(config: Any) -> None:
  names, began_all = _selected(config), time.perf_counter()
  _announce(config, names)
  for number, name in enumerate(names, 1):
    stage = config[name]
    what, told = progress.purpose(stage), _told(config, names[number - 1 :], began_all)
    if run_folder.finished(stage.workdir):
      told = ''
    say(
      f'\n== {number} of {len(names)}: {name}{f" {what}" * bool(what)}, in {stage.workdir}{told}',
      style='bold',
    )
    on_one_host(lambda name=name: _make_room(config, name))
    _check(config, name)
    began = time.perf_counter()
    try:
      find('jobs', stage.job).main(_stage(config, name))
    except NothingNew as error:  # what comes after would have nothing to learn from
      say(f'{error}. This ends here; give the command again once there is some')
      break
    finally:
      if Path(stage.workdir).exists():  # a stage that was refused leaves nothing behind
        _count(Path(config.workdir), name, time.perf_counter() - began)
  told = _told(config, (), began_all)
  say(f'\n== {REPORT}: every model answers the same questions{told}', style='bold')
  began = time.perf_counter()
  report.write(config, seconds(config.workdir))
  _count(Path(config.workdir), REPORT, time.perf_counter() - began)


def _announce(config: Any, names: Sequence[str]) -> None:
  """Says what is about to happen, and how long that may take."""
  coming = [name for name in names if not run_folder.finished(config[name].workdir)]
  if not coming:
    return
  there = len(names) - len(coming)
  known = _taken(config)
  needs = progress.left(config.get('expected') or {}, known, [*coming, REPORT])
  place = '' if known else ' on 2 cores of a server'  # nothing is known of this machine
  time_left = f', {progress.about(needs)} in all{place}' if needs else ''
  say(
    f'{Path(config.workdir).name}: {len(coming)} stages and a report{time_left}'
    f'{f"; {there} stages are finished already" * bool(there)}. Stop it whenever you like '
    '(Ctrl-C); the same command goes on from there.'
  )


def _told(config: Any, coming: Sequence[str], began: float) -> str:
  """The time since a command began, and what stages and the report may still take."""
  waiting = [name for name in coming if not run_folder.finished(config[name].workdir)]
  needs = progress.left(config.get('expected') or {}, _taken(config), [*waiting, REPORT])
  passed = progress.clock(time.perf_counter() - began)
  return f'; {passed} passed, {progress.about(needs)} left for all' if needs else ''


def _taken(config: Any) -> dict[str, float]:
  """Stage -> seconds, of those that have finished."""
  known = seconds(config.workdir)
  there = (name for name in config.stages if run_folder.finished(config[name].workdir))
  return {name: known[name] for name in there if name in known}


def _make_room(config: Any, name: str) -> None:
  """Says whether a stage is stale, and moves what is there aside if it is to run again."""
  folder = Path(config[name].workdir)
  path = stale_stages(config, [name]).get(name)
  if path is None:
    if not folder.is_dir() or not any(folder.iterdir()):  # made again, perhaps
      _forget(config, name)
    return
  if config.stale != 'retrain':
    say(f'{folder} was made from another {path}; it is used as it is')
    return
  numbered = (folder.with_name(f'{folder.name}.stale{n}') for n in itertools.count(1))
  aside = next(place for place in numbered if not place.exists())
  folder.rename(aside)
  folder.mkdir()  # what is gone from a copy goes from its store, but not with the whole folder
  _forget(config, name)
  say(f'{folder} was made from another {path}; it is moved to {aside}, which you may delete')


def _forget(config: Any, name: str) -> None:
  """Leaves out the time of a stage, of which nothing is there any more."""
  known = seconds(config.workdir)
  if known.pop(name, None) is not None:
    write_json(Path(config.workdir) / TIMES, known)


def seconds(folder: str | Path) -> dict[str, float]:
  """Stage -> wall time of all its runs; of one that was killed what it took until then is lost."""
  path = Path(folder) / TIMES
  return read_json(path, 'delete it, and these times are not known') if path.is_file() else {}


def _count(folder: Path, name: str, passed: float) -> None:
  known = seconds(folder)
  before = 0 if name == REPORT else known.get(name, 0)  # a report is written anew
  # A stage that was finished before returns at once; that is none of its time.
  if jax.process_index() == 0 and (passed > 1 or name not in known):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TIMES, {**known, name: round(before + passed, 1)})


def _selected(config: Any) -> tuple[str, ...]:
  """The stages that `only` and `start` leave."""
  stages = tuple(config.stages)
  for name in stages:
    if name not in config:
      raise BadInput(f'pipeline: stage {name!r} has no config; set config.{name}')
  only = [name.strip() for name in config.only.split(',')] if config.only else []
  starts = [config.start] if config.start else []
  for field, names, known in (('only', only, [*stages, REPORT]), ('start', starts, [*stages])):
    for name in names:
      if name not in known:
        raise BadInput(f'pipeline: {field} {name!r}; {suggest(name, known)}')
  if only and starts:
    raise BadInput('pipeline: only and start exclude each other; give one of them')
  if only:
    return tuple(name for name in stages if name in only)
  return stages[stages.index(config.start) :] if config.start else stages


def _stage(config: Any, name: str) -> Any:
  """The config of a stage, which trusts the models that any stage of the pipeline names."""
  stage, own = config[name], trusted(config)
  lends = own and 'trust' in fields(stage)
  return ConfigDict(stage.to_dict() | {'trust': own}) if lends else stage


def _check(config: Any, name: str, coming: Mapping[str, Any] = {}) -> None:
  """What a stage's job says of its config; `coming` are folders still to be filled, and by what."""
  stage = _stage(config, name)
  job = find('jobs', stage.job)
  if not hasattr(job, 'check'):
    return
  try:
    call(job.check, {}, stage, where=name, offered={'coming': coming})
  except BadInput as error:
    raise BadInput(f'{name}: {error}') from None

"""Job `pipeline`: stages one after the other, each in its own folder, and a report of all of them.

The artifact is all that a stage hands to the next. A stage that is finished is left alone, one that
was killed goes on, and the same command does both.
"""

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from llm_jax import artifact
from llm_jax.find import call, find, suggest
from llm_jax.jobs import report
from llm_jax.training.checkpoint import write_json
from llm_jax.types import BadInput

FIELDS = ('job', 'workdir', 'stages', 'only', 'start', 'seed', 'mesh', 'report')
TIMES = 'seconds.json'
REPORT = 'report'  # what `only` may also say


def check(config: Any) -> None:
  """Everything that can be known of all stages before the first one runs.

  Raises:
    BadInput: naming the stage, the field and what would work.
  """
  names = [*FIELDS, *config.stages]
  for field, value in config.items():
    unused = isinstance(value, ConfigDict) and 'job' in value  # `stages` was made shorter
    if field not in names and not unused:
      raise BadInput(f'config: unknown field {field!r}; {suggest(field, names)}')
  coming: list[str] = []
  for name in _selected(config):
    _check(config, name, coming)
    coming.append(config[name].workdir)
  report.check(config)


def main(config: Any) -> None:
  """Runs the stages that are not finished, then writes the report."""
  names = _selected(config)
  for number, name in enumerate(names, 1):
    stage = config[name]
    print(f'\n== {name} ({number} of {len(names)}), in {stage.workdir}', flush=True)
    _check(config, name)
    began = time.perf_counter()
    try:
      find('jobs', stage.job).main(stage)
    finally:
      _count(Path(config.workdir), name, time.perf_counter() - began)
  print(f'\n== {REPORT}', flush=True)
  began = time.perf_counter()
  report.write(config, seconds(config.workdir))
  _count(Path(config.workdir), REPORT, time.perf_counter() - began)


def seconds(folder: str | Path) -> dict[str, float]:
  """Stage -> wall time of all its runs; of one that was killed what it took until then is lost."""
  path = Path(folder) / TIMES
  return json.loads(path.read_text()) if path.is_file() else {}


def _count(folder: Path, name: str, passed: float) -> None:
  known = seconds(folder)
  # A stage that was finished before returns at once; that is none of its time.
  if jax.process_index() == 0 and (passed > 1 or name not in known):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TIMES, {**known, name: round(known.get(name, 0) + passed, 1)})


def _selected(config: Any) -> tuple[str, ...]:
  """The stages that `only` and `start` leave."""
  stages = tuple(config.stages)
  for name in stages:
    if name not in config:
      raise BadInput(f'pipeline: stage {name!r} has no config; set config.{name}')
  for field, known in (('only', [*stages, REPORT]), ('start', [*stages])):
    if config[field] and config[field] not in known:
      raise BadInput(f'pipeline: {field} {config[field]!r}; {suggest(config[field], known)}')
  if config.only and config.start:
    raise BadInput('pipeline: only and start exclude each other; give one of them')
  if config.only:
    return tuple(name for name in stages if name == config.only)
  return stages[stages.index(config.start) :] if config.start else stages


def _check(config: Any, name: str, coming: Collection[str] = ()) -> None:
  """What a stage's job says of its config; artifacts in `coming` are still to be made."""
  stage = config[name]
  job = find('jobs', stage.job)
  if not hasattr(job, 'check'):
    return
  coming = [path for path in coming if not (Path(path) / artifact.FILE).is_file()]
  try:
    call(job.check, {}, stage, where=name, offered={'coming': coming})
  except BadInput as error:
    raise BadInput(f'{name}: {error}') from None

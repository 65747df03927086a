"""Job `evaluate`: trained models side by side, question by question; a table and a page of them.

What a model answers to benchmarks is kept, under its parameters, so a killed evaluation goes on
where it was, and the same command again asks nothing.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from llm_jax import artifact, options
from llm_jax.evals import harness, task
from llm_jax.evals.kept import Kept
from llm_jax.files import check_writable
from llm_jax.find import call
from llm_jax.jobs import comparison, donors, evaluate_files, evaluations, tasks
from llm_jax.jobs.measure import Measured, identity, measure, watched
from llm_jax.jobs.trust import trusted
from llm_jax.lock import locked
from llm_jax.models.compute import Compute
from llm_jax.options import Count, Place, Seed, suggest
from llm_jax.parallel.mesh import batch_shards, make_mesh
from llm_jax.text.terminal import say
from llm_jax.types import BadInput

OFFERED = ('seed', 'record')
QUESTIONS = 'questions'  # the evaluation that tasks take the place of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'evaluate'.
    artifacts: folders of the models, ours or those of Hugging Face.
    tasks: benchmarks that they are put to: files of data/tasks, suites of them, or files of yours.
      They take the place of `evals.questions`.
    path: the folder of all benchmarks; see data/tasks/files.py for what it may be besides.
    ask: how all tasks are put, such as `shots`; those of one are in `evals.<task>`.
    backend: who asks: this package, or lm-evaluation-harness, of which `tasks` are names then and
      `path` is a folder of YAML files.
    against: the artifact that the others are compared with; by default the first.
    evals: what they are put to: key -> evaluation, see jobs/evaluations.py. One that reads rows has
      its own `data`.
    families: short for `evals.questions.families`.
    split: short for `evals.questions.split`.
    max_questions: short for `evals.questions.max_questions`.
    compute: how the models are run; see `models.compute.Compute`.
    output: folder for all that is written, or the file of the numbers in it.
    mesh: sizes of the axes of the device mesh.
    seed: of sampling.
    trust: modules of yours that the artifacts may name as their model, such as 'mine.model'; other
      code than llm_jax's own is not imported because an artifact names it.
    requires: groups of the config that are jobs of their own, which run before.
  """

  job: str
  artifacts: Sequence[Place]
  tasks: Sequence[str] = ()
  path: str = ''
  ask: Mapping[str, Any] | None = None
  backend: Literal['llm_jax', 'lm_eval'] = 'llm_jax'
  against: str = ''
  evals: Mapping[str, Any]
  families: Sequence[str] = ()
  split: str = 'test'
  max_questions: Count | None = None
  compute: Mapping[str, Any] | None = None
  output: Place
  mesh: Mapping[str, Any]
  seed: Seed = 0
  trust: Sequence[str] = ()
  requires: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], tuple[str, ...]]]:
  """(group of the config, the function that its options are for, what the job fills in)."""
  yield from evaluations.functions(_own(config))
  asker = harness if config.get('backend') == 'lm_eval' else task
  yield 'ask', asker.make, (*evaluations.FILLED_IN, *tasks.OF_ONE)
  yield 'mesh', make_mesh, ('devices',)
  yield 'compute', Compute, ()


def check(config: Any, *, coming: Collection[str] = ()) -> None:
  """Whether there are models, and all of them can be put to every evaluation.

  Args:
    config: of the job.
    coming: folders of artifacts that are made before it starts.

  Raises:
    BadInput: naming the folder, the evaluation and the option.
  """
  made_before = donors.coming(config)
  fields = {k: v for k, v in config.to_dict().items() if k not in config.get('requires', ())}
  options.check(Fields, fields, where='config')
  if not config.artifacts:
    raise BadInput('evaluate: no artifacts; give --config.artifacts=runs/tiny/sft')
  against = config.get('against')
  if against and against not in config.artifacts:
    raise BadInput(f'evaluate: against {against!r}; {suggest(against, config.artifacts)}')
  asked = asked_of(config)
  if not any(evaluations.chosen(asked.groups)):
    raise BadInput('evaluate: no evaluations; give --config.tasks and --config.path')
  check_writable(evaluate_files.folder(config.output), 'output')
  shards = batch_shards(call(make_mesh, config.mesh, where='mesh'))
  own = trusted(config)
  for path in config.artifacts:
    group = made_before.get(path)
    if group is None and path not in coming:
      group = artifact.describe(path)['model']
    model = artifact.build(group, source=path, trust=own) if group else None
    try:
      evaluations.check(asked.groups, offered=OFFERED, model=model, coming=coming, shards=shards)
    except BadInput as error:
      raise BadInput(f'{path}: {error}') from None


def asked_of(config: Any) -> tasks.Asked:
  """What the models are put to."""
  return tasks.asked(config, _own(config))


def _own(config: Any) -> dict[str, Any]:
  """`config.evals`, without the questions that tasks take the place of."""
  own = config.evals.to_dict()
  if config.get('tasks'):
    own.pop(QUESTIONS, None)
  return own


def main(config: Any) -> None:
  """Evaluates every artifact, prints a table, and writes what `evaluate_files` says."""
  asked = asked_of(config)
  folder = evaluate_files.folder(config.output)
  mesh = call(make_mesh, config.mesh, where='mesh')
  measured: dict[str, Measured] = {}
  with locked(folder, take=jax.process_index() == 0), jax.set_mesh(mesh):
    for path in config.artifacts:
      began = time.perf_counter()
      measured[path] = _measured(config, asked, path, mesh, folder)
      seconds = time.perf_counter() - began
      count = sum(map(len, measured[path].said.values()))
      say(f'{path}: {f"{count} questions in " if count else ""}{seconds:.1f} s')
    if jax.process_index() == 0:
      _tell(config, asked, measured)


def _tell(config: Any, asked: tasks.Asked, measured: Mapping[str, Measured]) -> None:
  against = config.get('against') or config.artifacts[0]
  lines = comparison.lines(measured, against, asked.tasks, asked.suites)
  evaluate_files.write(config.output, asked, measured, lines, against)
  names = [*measured]
  for table in (comparison.scores(lines, names), comparison.apart(lines, names, against)):
    if table is not None:
      say(f'\n{comparison.text(table)}')
  said = any(one.said for one in measured.values())
  file = evaluate_files.numbers(config.output)
  say(f'\nThe page is {evaluate_files.folder(config.output)}/report.html.')
  say(f'{"The answers are" if said else "All of it is"} in {file}.')


def _measured(
  config: Any, asked: tasks.Asked, path: str, mesh: jax.sharding.Mesh, folder: Path
) -> Measured:
  """What is measured of an artifact."""
  made = artifact.load(path, mesh, config.get('compute'), trust=trusted(config))
  kept = None
  if asked.tasks and jax.process_count() == 1:  # hosts that know different answers ask in vain
    kept = Kept(folder / 'kept' / f'{identity(path, config.get("compute"))}.jsonl')
  return measure(
    asked.groups,
    made,
    mesh=mesh,
    trust=trusted(config),
    seed=config.seed,
    kept=kept,
    progress=watched(path),
  )

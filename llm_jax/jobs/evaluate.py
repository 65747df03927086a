"""Job `evaluate`: trained models side by side; one table of their metrics, one file of answers."""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax import artifact, options
from llm_jax.files import check_writable, write_json
from llm_jax.find import call
from llm_jax.jobs import evaluations
from llm_jax.jobs.trust import trusted
from llm_jax.models.compute import Compute
from llm_jax.options import Count, Place, Seed
from llm_jax.parallel.mesh import batch_shards, make_mesh
from llm_jax.text.terminal import say
from llm_jax.types import BadInput

OFFERED = ('seed', 'record')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'evaluate'.
    artifacts: folders of the models.
    evals: what they are put to: key -> evaluation, see jobs/evaluations.py. One that reads rows has
      its own `data`.
    families: short for `evals.questions.families`.
    split: short for `evals.questions.split`.
    max_questions: short for `evals.questions.max_questions`.
    compute: how the models are run; see `models.compute.Compute`.
    output: file for the numbers and what was answered.
    mesh: sizes of the axes of the device mesh.
    seed: of sampling.
    trust: modules of yours that the artifacts may name as their model, such as 'mine.model'; other
      code than llm_jax's own is not imported because an artifact names it.
  """

  job: str
  artifacts: Sequence[Place]
  evals: Mapping[str, Any]
  families: Sequence[str] = ()
  split: str = 'test'
  max_questions: Count | None = None
  compute: Mapping[str, Any] | None = None
  output: Place
  mesh: Mapping[str, Any]
  seed: Seed = 0
  trust: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], tuple[str, ...]]]:
  """(group of the config, the function that its options are for, what the job fills in)."""
  yield from evaluations.functions(config.evals)
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
  options.check(Fields, config.to_dict(), where='config')
  if not config.artifacts:
    raise BadInput('evaluate: no artifacts; give --config.artifacts="(\'runs/tiny/sft\',)"')
  if not any(evaluations.chosen(config.evals)):
    raise BadInput('evaluate: no evaluations; give --config.evals.questions.name=answers')
  check_writable(Path(config.output).parent, 'output')
  shards = batch_shards(call(make_mesh, config.mesh, where='mesh'))
  own = trusted(config)
  for path in config.artifacts:
    here = path not in coming
    group = artifact.describe(path)['model'] if here else None
    model = artifact.build(group, source=path, trust=own) if group else None
    try:
      evaluations.check(config.evals, offered=OFFERED, model=model, coming=coming, shards=shards)
    except BadInput as error:
      raise BadInput(f'{path}: {error}') from None


def main(config: Any) -> None:
  """Evaluates every artifact, writes metrics and answers to `config.output`, prints a table."""
  mesh = call(make_mesh, config.mesh, where='mesh')
  metrics, answers = {}, {}
  with jax.set_mesh(mesh):
    for path in config.artifacts:
      began = time.perf_counter()
      metrics[path], answers[path] = _evaluated(config, path, mesh)
      seconds = time.perf_counter() - began
      asked = f'{len(answers[path])} questions in ' if answers[path] else ''
      say(f'{path}: {asked}{seconds:.1f} s')
  output = Path(config.output)
  output.parent.mkdir(parents=True, exist_ok=True)
  questions = [question for question, _ in answers[config.artifacts[0]]]
  rows = [
    {**question, 'answers': {path: said[i][1] for path, said in answers.items()}}
    for i, question in enumerate(questions)
  ]
  write_json(output, {'evals': config.evals.to_dict(), 'metrics': metrics, 'rows': rows})
  say(f'\n{_markdown(metrics)}\n\n{"The answers are" if rows else "All of it is"} in {output}.')


def _evaluated(
  config: Any, path: str, mesh: jax.sharding.Mesh
) -> tuple[dict[str, float], list[tuple[Mapping[str, Any], str]]]:
  """The metrics of an artifact, and each question with its answer."""
  made = artifact.load(path, mesh, config.get('compute'), trust=trusted(config))
  answers: list[tuple[Mapping[str, Any], str]] = []
  built = evaluations.build(
    config.evals,
    made.model,
    made.tokenizer,
    mesh=mesh,
    template=made.template,
    trust=trusted(config),
    seed=config.seed,
    record=lambda question, answer: answers.append((question, answer)),
  )
  found = evaluations.run(built, made.params)
  return {name: round(float(metric.value), 4) for name, metric in found.items()}, answers


def _markdown(table: Mapping[str, Mapping[str, float]]) -> str:
  """A row for each artifact, a column for each metric; of one evaluation alone without its key."""
  names = list(next(iter(table.values())))
  alone = len({name.partition('/')[0] for name in names}) == 1
  shown = [name.partition('/')[2] if alone else name for name in names]
  lines = [['artifact', *shown], ['---', *['---:' for _ in names]]]
  lines += [[path, *[f'{found[name]:.3f}' for name in names]] for path, found in table.items()]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)

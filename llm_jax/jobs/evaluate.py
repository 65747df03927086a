"""Job `evaluate`: asks trained models held-out questions and prints one table of their scores."""

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from llm_jax import artifact
from llm_jax.data import families
from llm_jax.evals import answers
from llm_jax.find import call
from llm_jax.parallel.mesh import make_mesh
from llm_jax.sampling import complete
from llm_jax.training.checkpoint import write_json
from llm_jax.types import BadInput


def check(config: Any, *, coming: Collection[str] = ()) -> None:
  """Whether there are models to ask, and all of them can answer.

  Args:
    config: of the job.
    coming: folders of artifacts that are made before it starts.

  Raises:
    BadInput: naming the folder.
  """
  if not config.artifacts:
    raise BadInput('evaluate: no artifacts; give --config.artifacts="(\'runs/tiny/sft\',)"')
  if not config.families:
    raise BadInput('evaluate: no families; give --config.families="(\'word_problems\',)"')
  for path in config.artifacts:
    model = {} if path in coming else artifact.describe(path)['model']
    if not model.get('causal', True):
      raise BadInput(f'evaluate: {path!r} is a masked language model, it cannot answer')
    if model.get('head') == 'scalar':
      raise BadInput(f'evaluate: {path!r} is a reward model; it scores answers and gives none')


def main(config: Any) -> None:
  """Asks every artifact, writes scores and answers to `config.output`, prints a table."""
  questions = [
    question
    for family in config.families
    for question in families.records('questions', config.split, family)[: config.max_questions]
  ]
  mesh = make_mesh(**config.mesh)
  table, said = {}, {}
  with jax.set_mesh(mesh):
    for path in config.artifacts:
      began = time.perf_counter()
      said[path] = _ask(config, path, questions, mesh)
      scores = answers.score(questions, said[path])
      table[path] = {name: round(float(mean.value), 4) for name, mean in scores.items()}
      seconds = time.perf_counter() - began
      print(f'{path}: {len(questions)} questions in {seconds:.1f} s', flush=True)
  output = Path(config.output)
  output.parent.mkdir(parents=True, exist_ok=True)
  rows = [
    {**question, 'answers': {path: said[path][i] for path in config.artifacts}}
    for i, question in enumerate(questions)
  ]
  write_json(output, {'split': config.split, 'scores': table, 'rows': rows})
  print(f'\n{_markdown(table)}\n\nThe answers are in {output}.')


def _ask(
  config: Any, path: str, questions: Sequence[Mapping[str, Any]], mesh: jax.sharding.Mesh
) -> list[str]:
  made = artifact.load(path, mesh, config.get('compute'))
  ask = call(
    complete.make,
    config.ask,
    made.model,
    made.tokenizer,
    where='ask',
    prompts=[question['prompt'] for question in questions],
    # A model that never saw a conversation is asked in the way of the text it knows.
    template=made.template or 'plain',
    seed=config.seed,
  )
  return ask(made.params)


def _markdown(table: Mapping[str, Mapping[str, float]]) -> str:
  """A row for each artifact, a column for each score."""
  names = list(next(iter(table.values())))
  lines = [['artifact', *names], ['---', *['---:' for _ in names]]]
  lines += [[path, *[f'{scores[name]:.3f}' for name in names]] for path, scores in table.items()]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)

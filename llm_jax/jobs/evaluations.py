"""The evaluations of a config: a mapping from a key to a group, built in one way for every job.

A group has the `name` of a file of `evals/` or of a module of the user's, and the keyword arguments
of its `make`. Whoever runs an evaluation offers what it has (held-out rows, a mesh, its loss), and
an evaluation names what it wants. Its group may say otherwise by these fields:

  every      steps between two times that it is run in training
  data       a group of its own for `rows`, as config.data; of the validation split unless it says
  annotate   a group of its own for `annotate`, as config.annotate
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from llm_jax.find import call, find, named
from llm_jax.jobs import annotators, chain
from llm_jax.options import check as check_options
from llm_jax.types import BadInput, Evaluate, Metrics, Params

OWN = ('every', 'data', 'annotate')
OFFERED = ('rows', 'mesh', 'annotate', 'batch_size', 'loss_fn', 'template', 'seed')


class Evaluation(NamedTuple):
  """What is run, and the steps between two times that it is run in training."""

  evaluate: Evaluate
  every: int


def named_groups(groups: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
  """(key, name, options) of every evaluation; one whose name is '' is turned off."""
  for key, group in groups.items():
    name, options = named(group, f'evals.{key}')
    if name:
      yield key, name, options


def check(groups: Mapping[str, Any]) -> None:
  """Whether every evaluation exists and takes the options of its group.

  Raises:
    BadInput: naming the evaluation, the option and what would work.
  """
  for key, name, options in named_groups(groups):
    where = f'evals.{key}'
    if (every := options.get('every', 1)) < 1:
      raise BadInput(f'{where}: every {every} must be at least 1')
    rest = {k: v for k, v in options.items() if k not in OWN}
    check_options(find('evals', name).make, rest, where=where, offered=OFFERED)


def build(
  groups: Mapping[str, Any],
  model: Any,
  tokenizer: Any,
  *,
  mesh: Any,
  template: str | None,
  rows: Callable[[], Any] | None = None,
  every: int = 1,
  **offered: Any,
) -> dict[str, Evaluation]:
  """The evaluations of `groups`, by key.

  Args:
    groups: key -> group, as above.
    model: that is evaluated.
    tokenizer: of the model.
    mesh: where batches go.
    template: the chat template that the model was taught, if any.
    rows: gives the held-out rows of whoever runs this; called only where they are wanted.
    every: of the groups that do not say.
    **offered: what else an evaluation may ask for by name.

  Raises:
    BadInput: an unknown evaluation or option, or one that lacks what it reads.
  """
  offered |= {'mesh': mesh, 'template': template}
  built = {}
  for key, name, options in named_groups(groups):
    make, where, given = find('evals', name).make, f'evals.{key}', dict(offered)
    own = {field: options.pop(field) for field in OWN if field in options}
    if 'data' in own:
      given['rows'] = rows_of(own['data'], tokenizer, template, where=f'{where}.data')
    elif rows is not None and 'rows' in inspect.signature(make).parameters:
      given['rows'] = rows()
    if 'annotate' in own:
      parts = chain.steps(own['annotate'], f'{where}.annotate')
      given['annotate'] = annotators.build(parts, model, tokenizer, mesh, template)
    evaluate = call(make, options, model, tokenizer, where=where, offered=given)
    built[key] = Evaluation(evaluate, own.get('every', every))
  return built


def rows_of(group: Mapping[str, Any], tokenizer: Any, template: str | None, *, where: str) -> Any:
  """The held-out rows of a data group.

  Raises:
    BadInput: the data cannot be read, or have no held-out rows.
  """
  name, options = named(group, where)
  offered = {'split': 'validation', 'template': template}
  rows = call(find('data', name).make, options, tokenizer, where=where, offered=offered)
  if not len(rows):
    raise BadInput(f'{where}: {options} has no held-out rows; give it more text')
  return rows


def run(evaluations: Mapping[str, Evaluation], params: Params) -> Metrics:
  """All of them, one after the other, as `<key>/<metric>`."""
  return {
    f'{key}/{name}': metric
    for key, (evaluate, _) in evaluations.items()
    for name, metric in evaluate(params).items()
  }

"""The evaluations of a config: a mapping from a key to a group, built in one way for every job.

A group has the `name` of a file of `evals/` or of yours, and the keyword arguments of its `make`.
Whoever runs an evaluation offers what it has (held-out rows, a mesh, its loss), and an evaluation
names what it wants. A group may bring its own instead, see `Own`.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from llm_jax import artifact, options, run_folder
from llm_jax.find import bind, call, find, last, named
from llm_jax.jobs import annotators, chain
from llm_jax.options import Count
from llm_jax.sampling.calls import Tools
from llm_jax.text import calls, chat
from llm_jax.text.templates import MARKS
from llm_jax.tools import make_tools
from llm_jax.types import BadInput, Evaluate, Metrics, Model, Params, Tokenizer

# No options of a config.
FILLED_IN = (
  *('rows', 'mesh', 'annotate', 'loss_fn', 'record', 'trust'),
  *('per_question', 'kept', 'progress', 'tools'),
)
OFFERED = (*FILLED_IN, 'batch_size', 'template', 'seed')
_FIRST = ({'role': 'user', 'content': 'What?'},)
_SECOND = (*_FIRST, {'role': 'assistant', 'content': 'That.'}, *_FIRST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
  """What a group may say beside the options of its evaluation.

  Attributes:
    name: a file of evals/, a module of yours, or a path; '' turns the evaluation off.
    every: steps between two times that it is run in training; by default `config.eval_every`.
    data: what `rows` are, like `config.data`; of its validation split, or of its `split`.
    annotate: what `annotate` is, like `config.annotate`.
    loss: what `loss_fn` is, like `config.loss`.
    tools: what the model may call: a file of tools/ -> its options.
  """

  name: str = ''
  every: Count | None = None
  data: Mapping[str, Any] | None = None
  annotate: Mapping[str, Any] | None = None
  loss: Mapping[str, Any] | None = None
  tools: Mapping[str, Any] | None = None


class Group(NamedTuple):
  """A group of the config, taken apart.

  Attributes:
    key: what its metrics begin with.
    module: the file of evals/.
    options: of its `make`.
    every: steps; None where it says nothing.
    split: of its own data.
    parts: its own data, annotators and loss.
    tools: what the model may call.
  """

  key: str
  module: ModuleType
  options: dict[str, Any]
  every: int | None
  split: str
  parts: list[chain.Part]
  tools: Mapping[str, Any]

  def own(self, room: str) -> list[chain.Part]:
    """Its parts of a room."""
    return [part for part in self.parts if part.room == room]


class Evaluation(NamedTuple):
  """What is run, and the steps between two times that it is run in training."""

  evaluate: Evaluate
  every: int


def chosen(groups: Mapping[str, Any], where: str = 'evals') -> Iterator[Group]:
  """The evaluations of a config; one whose name is '' is turned off.

  Raises:
    BadInput: a name or an option that cannot be.
  """
  for key, group in groups.items():
    name, rest = named(group, f'{where}.{key}')
    if not name:
      continue
    own = {f.name: rest.pop(f.name) for f in dataclasses.fields(Own) if f.name in rest}
    options.check(Own, own, where=f'{where}.{key}')
    module = find('evals', name)
    options.check(module.make, rest, where=f'{where}.{key}', offered=OFFERED)
    every, data = own.pop('every', None), dict(own.get('data', {}))
    tools = own.pop('tools', None) or {}
    if tools and 'tools' not in options.options_of(module.make):
      raise BadInput(f'{where}.{key}: {name!r} lets the model call no tools; take `tools` out')
    for one, group in tools.items():
      options.check(find('tools', one).make, group, where=f'{where}.{key}.tools.{one}')
    with _inside(f'{where}.{key}'):
      split = data.pop('split', 'validation')
      parts = chain.chain(ConfigDict(own | ({'data': data} if data else {})))
    yield Group(key, module, rest, every, split, parts, tools)


@contextmanager
def _inside(where: str) -> Iterator[None]:
  """Says which group a bad input is in."""
  try:
    yield
  except BadInput as error:
    raise BadInput(f'{where}: {error}') from error


def check(
  groups: Mapping[str, Any],
  *,
  offered: Collection[str],
  model: Model | None = None,
  coming: Collection[str] = (),
  shards: int = 1,
  where: str = 'evals',
) -> None:
  """Whether every evaluation can be, before there is any data.

  Args:
    groups: key -> group.
    offered: what an evaluation will be offered; `mesh` and `template` are.
    model: that is evaluated; None where it is not known yet.
    coming: folders of artifacts that are made before.
    shards: devices that share a batch.
    where: of the groups in the config.

  Raises:
    BadInput: naming the evaluation, the option and what would work.
  """
  for group in chosen(groups, where):
    takes, given = options.options_of(group.module.make), group.options
    with _inside(f'{where}.{group.key}'):
      for name, option in takes.items():
        room = {'rows': 'data', 'annotate': 'annotate', 'loss_fn': 'losses'}.get(name, '')
        if option.required and name not in (*given, *offered, 'mesh') and not group.own(room):
          field = {'rows': 'data', 'loss_fn': 'loss'}.get(name, name)
          raise BadInput(f'{field!r} is missing; set config.{where}.{group.key}.{field}')
      if group.own('data'):
        reads = getattr(group.module, 'READS', ())
        chain.check_fields(group.parts, wanted=reads, by=last(group.module.__name__))
      for path in (path for part in group.parts for _, path in part.artifacts()):
        if path not in coming:
          artifact.describe(path)  # refuses what is missing or unfinished
      if model is not None and hasattr(group.module, 'check'):
        group.module.check(model, **given)
      size = given.get('batch_size') or shards
      if 'rows' in takes and size % shards:
        raise BadInput(
          f'batch_size {size} is not a multiple of the {shards} devices that share a batch; use '
          f'{max(shards, size // shards * shards)}'
        )


def build(
  groups: Mapping[str, Any],
  model: Model,
  tokenizer: Tokenizer,
  *,
  mesh: Any,
  template: str | None,
  trust: Sequence[str] = (),
  rows: Callable[[], Any] | None = None,
  every: int = 1,
  where: str = 'evals',
  **offered: Any,
) -> dict[str, Evaluation]:
  """The evaluations of `groups`, by key.

  Args:
    groups: key -> group.
    model: that is evaluated.
    tokenizer: of the model.
    mesh: where batches go.
    template: the chat template that the model was taught, if any.
    trust: modules of the user's that artifacts may name as their models.
    rows: gives the held-out rows of whoever runs this; called only where they are wanted.
    every: of the groups that do not say.
    where: of the groups in the config.
    **offered: what else an evaluation may ask for by name.

  Raises:
    BadInput: an evaluation that lacks what it reads, or values that cannot work.
  """
  offered |= {'mesh': mesh, 'template': template, 'trust': trust}
  built = {}
  for group in chosen(groups, where):
    with _inside(f'{where}.{group.key}'):
      given = dict(offered)
      if group.own('data'):
        offers = {'template': template} if template else {}
        given['rows'] = chain.read_rows(group.parts, tokenizer, group.split, offers)
      elif rows is not None and 'rows' in options.options_of(group.module.make):
        given['rows'] = rows()
      if group.own('annotate'):
        given['annotate'] = annotators.build(group.parts, model, tokenizer, mesh, template, trust)
      if group.tools:
        given['tools'] = Tools(make_tools(group.tools, where='tools'))
      for loss in group.own('losses'):
        given['loss_fn'] = bind(loss.function, loss.group, where='loss', model=model)
    at, make = f'{where}.{group.key}', group.module.make
    evaluate = call(make, group.options, model, tokenizer, where=at, offered=given)
    built[group.key] = Evaluation(evaluate, group.every or every)
  return built


def run(evaluations: Mapping[str, Evaluation], params: Params) -> Metrics:
  """All of them, one after the other, as `<key>/<metric>`."""
  return {
    f'{key}/{name}': metric
    for key, (evaluate, _) in evaluations.items()
    for name, metric in evaluate(params).items()
  }


def possible(
  groups: Mapping[str, Any], template: chat.ChatTemplate | None, marks: Collection[str]
) -> dict[str, Any]:
  """What can be measured by now of a model with this template, or without one.

  Rows that are put into a template are left to models that have one, and tools and second questions
  to those whose template has a form for them; tools also need the marks of calls among `marks`, the
  control tokens of the model. Annotators that ask an artifact which is not finished are left out,
  and options that hold a file of its stage.
  """
  found = {}
  for group in chosen(groups):
    rest = dict(groups[group.key])
    takes = any('template' in options.options_of(part.function) for part in group.own('data'))
    if takes and not template and 'template' not in rest['data']:
      continue
    asked: list[Sequence[Any]] = [calls.led(_FIRST, group.tools)] if group.tools else []
    asked += [_SECOND] if rest.get('second') else []
    if asked and not (template and all(chat.has_form(template, one) for one in asked)):
      continue
    if group.tools and not {*MARKS['search'], *MARKS['result']} <= {*marks}:
      continue
    asks = lambda part: all(run_folder.finished(path) for _, path in part.artifacts())
    missing = {part.name for part in group.own('annotate') if not asks(part)}
    if missing:
      names = missing | {last(name) for name in missing}
      kept = {name: value for name, value in rest['annotate'].items() if name not in names}
      kept['steps'] = tuple(step for step in kept['steps'] if step not in missing)
      rest['annotate'] = kept
    waiting = [name for name in getattr(group.module, 'FILES', ()) if rest.get(name)]
    for name in waiting:
      if not run_folder.digest(rest[name]):
        del rest[name]
    found[group.key] = rest
  return found


def functions(
  groups: Mapping[str, Any], where: str = 'evals'
) -> Iterator[tuple[str, Callable[..., Any], tuple[str, ...]]]:
  """(group of the config, the function that its options are for, what is filled in)."""
  for group in chosen(groups, where):
    yield f'{where}.{group.key}', group.module.make, FILLED_IN
    yield f'{where}.{group.key}', Own, ()
    for name in group.tools:
      yield f'{where}.{group.key}.tools.{name}', find('tools', name).make, ()
    for part in group.parts:
      yield (
        f'{where}.{group.key}.{part.where}',
        part.function,
        ('model', 'mesh', 'trust', 'columns'),
      )

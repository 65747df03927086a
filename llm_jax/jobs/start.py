"""Where a run starts: from scratch, from the artifacts of `config.init`, or from its checkpoint."""

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import artifact
from llm_jax.jobs.chain import Part
from llm_jax.jobs.design import Design
from llm_jax.jobs.trust import trusted
from llm_jax.parallel.parameters import shardings
from llm_jax.text import folder
from llm_jax.training.checkpoint import Checkpoints
from llm_jax.training.step import TrainState, abstract_state, make_state, start_state
from llm_jax.types import JUDGES, BadInput, Model, Params, Tokenizer


class Start(NamedTuple):
  """Where the parameters of a run come from before its first step.

  Attributes:
    donors: part of the parameters ('params' for all of them) -> the artifact that gives it.
    fresh: paths of parameters that start anew all the same, such as the head of a reward model.
    source: the artifact that the trained model descends from; None from scratch.
    trust: modules of the user's that artifacts may name as their models.
    add: names of control tokens that the tokenizer of `source` gets besides its own.
  """

  donors: Mapping[str, str]
  fresh: Sequence[str]
  source: str | None
  trust: Sequence[str] = ()
  add: Sequence[str] = ()

  def check(self, design: Design, models: Mapping[str, Model]) -> None:
    """Whether parameters of the donors' models fit that of the run.

    Args:
      design: of the run.
      models: part of the parameters -> the model that gives it.

    Raises:
      BadInput: arrays of other shapes that are not in `fresh`.
    """
    shapes = {name: artifact.abstract_params(model) for name, model in models.items()}
    if self.add:
      size = design.model.shape.vocab_size
      grow = lambda params: artifact.grown(params, size, range(1, 1))
      shapes = {name: jax.eval_shape(grow, params) for name, params in shapes.items()}
    if not shapes:
      return
    wanted = artifact.abstract_params(design.model)
    try:
      artifact.graft(wanted, self._joined(design.model, shapes), fresh=self.fresh)
    except BadInput:
      for name, model in models.items():
        if said := _differing(_half(design.model, name).shape, model.shape):
          raise BadInput(
            f'init: config.model has {said} of {self.donors[name]!r}; leave such fields out, and '
            'the model is that of the artifact'
          ) from None
      raise

  def state(self, design: Design, seed: int) -> TrainState:
    """The state before the first step."""
    # The seed is an argument of what is compiled, which then serves other seeds too.
    init, drawn = functools.partial(fresh_params, design.model), np.uint32(seed)
    if not self.donors:
      return make_state(init, design.tx, design.mesh, drawn)
    load = lambda path: artifact.load(path, design.mesh, trust=self.trust)
    made = {name: load(path) for name, path in self.donors.items()}
    loaded = {name: its.params for name, its in made.items()}
    if self.add:
      size, first = design.model.shape.vocab_size, next(iter(made.values())).tokenizer.vocab_size
      new = range(first, first + len(self.add))
      loaded = {name: artifact.grown(params, size, new) for name, params in loaded.items()}
    shapes = artifact.abstract_params(design.model)
    params = jax.jit(init, out_shardings=shardings(shapes, design.mesh))(drawn)
    grafted = artifact.graft(params, self._joined(design.model, loaded), fresh=self.fresh)
    return start_state(grafted, design.tx, design.mesh)

  def _joined(self, model: Model, parts: Mapping[str, Params]) -> Params:
    """One tree of parameters from those of the artifacts; 'params' is the whole of it."""
    whole = dict(parts.get('params', {}))
    if model.frozen:  # what is trained beside a frozen base starts afresh
      whole = {'base': whole}
    return whole | {name: tree for name, tree in parts.items() if name != 'params'}


def start(config: Any, model: Model) -> Start:
  """What `config.init` says."""
  donors = {name: path for name, path in config.init.items() if name not in ('fresh', 'add')}
  fresh = config.init.get('fresh', ())
  for name, path in donors.items():
    if not isinstance(path, str):
      raise BadInput(f'init: {name} {path!r}; choose the folder of an artifact')
  if not isinstance(fresh, (list, tuple)) or not all(isinstance(path, str) for path in fresh):
    raise BadInput(f"init: fresh {fresh!r}; choose a list of parameters, such as ('head/scalar',)")
  add = config.init.get('add', ())
  if not isinstance(add, (list, tuple)) or (add and not donors):
    raise BadInput(
      f"init: add {add!r}; choose names, such as ('<think>',), for an artifact's tokens"
    )
  if add and model.frozen:
    raise BadInput('init: add with model.lora: the rows of new tokens are never trained; drop one')
  if model.frozen:
    fresh = ('lora', *(f'base/{path}' for path in fresh))
  # Of a policy and its critic the run descends from the policy: a score is nobody's ancestor.
  scores = lambda name: _half(model, name).shape.head in JUDGES
  source = donors[min(donors, key=scores)] if donors else None
  return Start(donors, tuple(fresh), source, trusted(config), tuple(add))


def _differing(ours: Any, theirs: Any) -> str:
  """The fields of two shapes that differ, but for the head, which may be new."""
  both = {field: (value, getattr(theirs, field, None)) for field, value in vars(ours).items()}
  told = [f'{k} {a!r} and not the {b!r}' for k, (a, b) in both.items() if a != b and k != 'head']
  return ', '.join(told)


def _half(model: Model, name: str) -> Any:
  """The model that has a top-level part of the parameters to itself; else the whole model."""
  return getattr(model, name, model)


def check_artifacts(
  config: Any, design: Design, begins: Start, coming: Collection[str] = ()
) -> None:
  """Whether the artifacts that a run starts from or asks are finished, and fit each other.

  Args:
    config: of the run.
    design: of the run.
    begins: its start.
    coming: folders of artifacts that are made before it starts; if a mapping, to the config group
      of the model that will be there, or None.

  Raises:
    BadInput: naming the folders.
  """
  models: dict[str, Any] = {}
  for name, path in begins.donors.items():
    if path in coming:
      group = coming[path] if isinstance(coming, Mapping) else None
      models[name] = group and artifact.build(group)
      continue
    about = artifact.describe(path)  # refuses what is missing or unfinished
    models[name] = artifact.build(about['model'], source=path, trust=begins.trust)
    kind = JUDGES.get(about['model'].get('head'))
    if kind and _half(design.model, name).shape.head not in JUDGES:
      raise BadInput(
        f'init: {path!r} is {kind}, but {config.workdir!r} trains a policy; start from a '
        f'model of language, such as the one it was made from, {about["parent"]!r}'
      )
    source = path if begins.source in (None, *coming) else begins.source
    if about['tokenizer'] != artifact.describe(source)['tokenizer']:
      raise BadInput(f'init: {path!r} has another tokenizer than {begins.source!r}')
  if all(models.values()):
    begins.check(design, models)
  for part in design.parts:
    for _, path in part.artifacts():
      if begins.add:
        raise BadInput(
          f'{part.where}: {path!r} knows none of the tokens of init.add; add them in a stage before'
        )
      if path in coming:
        continue
      theirs = artifact.describe(path)['tokenizer']
      if begins.source in (None, *coming):
        continue
      if theirs != artifact.describe(begins.source)['tokenizer']:
        raise BadInput(
          f'{part.where}: {path!r} has another tokenizer than {begins.source!r}; both models have '
          'to read the same tokens'
        )


def find_tokenizer(begins: Start, parts: Sequence[Part]) -> Tokenizer:
  """That of the artifact a run starts from; or what its corpus, or else a teacher, was written in.

  Raises:
    BadInput: there is none.
  """
  asked = [path for part in parts for _, path in part.artifacts()]
  homes = [home for home in (begins.source, parts[0].options.get('path'), *asked) if home]
  if not homes:
    raise BadInput(
      'train: no tokenizer: start from an artifact with config.init.params, or name tokenized data '
      'with config.data.path'
    )
  found = folder.load(Path(homes[0]) / 'tokenizer')
  return found.with_specials(begins.add) if begins.add else found


def fresh_params(model: Model, seed: Any) -> Params:
  """Random parameters."""
  return model.init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))


def restored(checkpoints: Checkpoints, step: int, design: Design, seed: int) -> TrainState:
  """The state of a checkpoint, on the mesh of the run."""
  init = lambda: fresh_params(design.model, seed)
  return checkpoints.restore(step, abstract_state(init, design.tx, design.mesh))

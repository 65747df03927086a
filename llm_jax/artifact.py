"""What one stage hands to the next: a folder with parameters, model, tokenizer and history."""

import dataclasses
import re
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

import llm_jax
from llm_jax import storage
from llm_jax.files import difference, manifest, read_json, write_json
from llm_jax.find import call, find, named
from llm_jax.models import compressed, lora
from llm_jax.models.compute import Compute, without_compute
from llm_jax.options import is_local
from llm_jax.parallel.hosts import level
from llm_jax.parallel.parameters import abstract_params, path_of, shardings
from llm_jax.parallel.saved import Saving
from llm_jax.text import folder as tokenizers
from llm_jax.text.chat import FOLDER
from llm_jax.text.templates import TEMPLATES
from llm_jax.types import BadInput, Model, Params, Tokenizer

FILE = 'artifact.json'
# What helps where an artifact is damaged: its run can publish it again.
AGAIN = 'copy the folder again, or delete artifact.json and give the command that made it again'


@dataclasses.dataclass(frozen=True)
class Artifact:
  """A trained model that explains itself.

  Attributes:
    model: built from `config['model']`.
    params: nested dict of arrays, layers stacked.
    tokenizer: the one it was trained with.
    config: the whole config of the run, as plain dicts; `config['model']` has `name` and shape.
      `compute` is not stored: another machine runs the model in its own way.
    step: updates made.
    stage: the run's stage, such as 'pretrain'.
    parent: folder of the artifact it started from, or None.
  """

  model: Model
  params: Params
  tokenizer: Tokenizer
  config: Mapping[str, Any]
  step: int = 0
  stage: str = ''
  parent: str | None = None

  @property
  def template(self) -> str | None:
    """The chat template that the stage trained with; None for a model of plain text.

    One of ours by its name; that of others travels with the tokenizer, whatever file it came from.
    """
    return template_of(self.config)


def template_of(config: Mapping[str, Any]) -> str | None:
  """As `Artifact.template`, from the config of the stage."""
  name = config.get('data', {}).get('template')
  return name if name in (None, *TEMPLATES) else FOLDER


def save(path: str | Path, artifact: Artifact) -> None:
  """Writes the folder; `artifact.json` comes last, so a folder that has it is whole.

  Raises:
    BadInput: a parameter is not finite; then nothing is written.
  """
  folder = Path(path).absolute()
  _check_finite(artifact.params, folder)
  main = jax.process_index() == 0
  if main:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).unlink(missing_ok=True)
    artifact.tokenizer.save(folder / 'tokenizer')
  saving = Saving(folder)
  saving.save(folder, 'params', artifact.params)
  files = saving.finish(folder, 'params')
  if main:
    publish(folder, artifact, files)
  level(folder, without=storage.MAKING)


def publish(path: str | Path, artifact: Artifact, files: Mapping[str, str] | None = None) -> None:
  """Writes `artifact.json` beside parameters and a tokenizer that are there already.

  Args:
    path: the folder.
    artifact: what is there.
    files: the sums of all files of the parameters, if some of them are on other hosts.
  """
  folder = Path(path)
  about = {
    'stage': artifact.stage,
    'step': artifact.step,
    'parent': storage.named(artifact.parent),
    'model': artifact.config['model'],
    'config': storage.named({k: v for k, v in artifact.config.items() if k != 'compute'}),
    'tokenizer': artifact.tokenizer.fingerprint,
    'versions': {
      'llm_jax': llm_jax.__version__,
      'jax': jax.__version__,
      'flax': flax.__version__,
      'optax': optax.__version__,
      'orbax': ocp.__version__,
    },
    'commit': commit(),
    'files': files or manifest(folder / 'params'),
    'tokenizer_files': manifest(folder / 'tokenizer'),
  }
  write_json(folder / FILE, about)


def _check_finite(params: Params, folder: Path) -> None:
  """Raises BadInput, naming the first array with a number that is not finite."""
  counts = jax.jit(lambda tree: jax.tree.map(lambda x: (~jnp.isfinite(x)).sum(), tree))(params)
  for path, count in jax.tree_util.tree_flatten_with_path(jax.device_get(counts))[0]:
    if count:
      raise BadInput(
        f'{folder}: {count} numbers of the parameter {path_of(path)} are not finite, so nothing is '
        'published; train in another workdir with a lower learning rate or other options'
      )


def describe(path: str | Path) -> dict[str, Any]:
  """`artifact.json` as a dict.

  Raises:
    BadInput: there is no artifact, or the run that makes it has not finished.
  """
  try:
    folder = storage.local(path, without=storage.MAKING)
  except BadInput as error:
    raise BadInput(f'artifact: {error}') from error
  if not is_local(folder):
    raise BadInput(f'artifact: {str(path)!r} is no folder of this machine; name that of a stage')
  if folder.is_file():
    raise BadInput(f'artifact: {str(folder)!r} is a file; give the folder of a stage')
  if not folder.is_dir():
    # The configs write to such folders.
    made = re.fullmatch(r'runs/(\w+)/(\w+)', str(folder))
    stage = f', which is --config={made[2]}:{made[1]},' if made else ''
    raise BadInput(
      f'artifact: no folder {str(folder)!r}; run the stage that writes it first{stage} or give '
      'that of another run; --help lists those that are there'
    )
  if not (folder / FILE).is_file() and next(folder.glob('*.safetensors'), None):
    raise BadInput(
      f'artifact: {str(folder)!r} is a Hugging Face folder; make an artifact of it: '
      f'python -m llm_jax.main --config=convert --config.source={folder} --config.workdir=runs/NAME'
    )
  if not (folder / FILE).is_file() and (
    inside := sorted(str(file.parent) for file in folder.glob(f'*/{FILE}'))
  ):
    raise BadInput(
      f'artifact: {str(folder)!r} holds the folders of several stages; give one of them: '
      f'{", ".join(inside)}'
    )
  if not (folder / FILE).is_file():
    raise BadInput(
      f'artifact: {str(folder)!r} is unfinished, it has no {FILE}; '
      'give the command that made it again, it resumes'
    )
  try:
    about = read_json(folder / FILE, AGAIN)
    model, files = without_compute(about['model']), dict(about['files'])
    return {**about, 'model': model, 'config': {**about['config'], 'model': model}, 'files': files}
  except (KeyError, TypeError, AttributeError):
    raise BadInput(f'{folder / FILE} is damaged: it does not describe a model; {AGAIN}') from None


def check_whole(folder: Path, about: Mapping[str, Any]) -> None:
  """Raises BadInput, naming the file, where parameters or tokenizer are not what was published."""
  for name, listed in (('params', 'files'), ('tokenizer', 'tokenizer_files')):
    if damage := difference(folder / name, about.get(listed, {})):
      raise BadInput(f'artifact: {str(folder / name)!r} is {damage}; {AGAIN}')


def load(
  path: str | Path,
  mesh: Mesh,
  compute: Mapping[str, Any] | Compute | None = None,
  *,
  trust: Collection[str] = (),
) -> Artifact:
  """Reads an artifact onto a mesh, whatever mesh wrote it.

  Args:
    path: the folder.
    mesh: where its parameters go.
    compute: how the model is run: fields of `Compute`, or that of another model.
    trust: modules of the user's that the artifact may name as its model.

  Raises:
    BadInput: missing, unfinished or damaged, naming the file; or a model of somebody's own code
      that is not in `trust`.
  """
  folder = storage.local(path, without=storage.MAKING).absolute()
  about = describe(folder)
  check_whole(folder, about)
  tokenizer = tokenizers.load(folder / 'tokenizer')
  if tokenizer.fingerprint != about['tokenizer']:
    raise BadInput(
      f'artifact: {str(folder / "tokenizer")!r} is not the tokenizer it was trained with; '
      'put that one back, or train it again'
    )
  model = build(about['model'], compute, source=folder, trust=trust)
  shapes = abstract_params(model)
  struct = lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place)
  with ocp.StandardCheckpointer() as orbax:
    params = orbax.restore(folder / 'params', jax.tree.map(struct, shapes, shardings(shapes, mesh)))
  return Artifact(
    model=model,
    params=params,
    tokenizer=tokenizer,
    config=about['config'],
    step=about['step'],
    stage=about['stage'],
    parent=about['parent'],
  )


def build(
  group: Mapping[str, Any],
  compute: Mapping[str, Any] | Compute | None = None,
  *,
  source: str | Path = '',
  trust: Collection[str] = (),
) -> Any:
  """The model of a config group: `name` is the file in `models/`, the rest its shape.

  With a group `lora` in it, that model is frozen and adapted; see models/lora.py. With `weights`,
  which a compressed artifact has, these are stored in few bits; see models/compressed.py.

  Args:
    group: `config.model`.
    compute: how the model is run: fields of `Compute`, or that of another model.
    source: folder of the artifact that the group was read from; '' for that of a config.
    trust: modules of the user's that such an artifact may name.
  """
  name, shape = named(group, 'model')
  adapter, forms = shape.pop('lora', None), shape.pop('weights', None)
  read_from = f'artifact {str(source)!r}' if source else ''
  make = find('models', name, source=read_from, trust=trust).make
  model = call(make, shape, where='model', offered={'compute': compute})
  if forms is not None:
    return compressed.wrap(model, forms)
  return model if adapter is None else call(lora.wrap, adapter, model, where='model.lora')


def groups(group: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
  """(group of a config, what its options are for, what is filled in), of a model and its run."""
  name, _ = named(group, 'model')
  module = find('models', name)
  yield 'model', module.make, ('compute',)
  for inner, fields in getattr(module, 'GROUPS', {}).items():
    yield f'model.{inner}'.rstrip('.'), fields, ()
  yield 'model.lora', lora.wrap, ()
  yield 'compute', Compute, ()


def published(group: Mapping[str, Any]) -> dict[str, Any]:
  """The config group of the model that a run with this one leaves behind.

  Adapters are merged, and of a policy and its critic only the policy stays.
  """
  kept = {'name': 'transformer', **group['policy']} if 'policy' in group else group
  return {k: v for k, v in kept.items() if k != 'lora'}


def graft(params: Params, donor: Params, *, fresh: Sequence[str] = ()) -> Params:
  """`params` with every array taken from `donor`, except those named in `fresh`.

  >>> import jax.numpy as jnp
  >>> params, donor = {'body': jnp.zeros(2), 'head': jnp.ones(1)}, {'body': jnp.full(2, 5.0)}
  >>> {name: x.tolist() for name, x in graft(params, donor, fresh=['head']).items()}
  {'body': [5.0, 5.0], 'head': [1.0]}

  Args:
    params: the wanted tree (arrays, or shapes where nothing is fresh).
    donor: where arrays come from; what it has beyond `params` must be named in `fresh` too.
    fresh: path prefixes, such as 'head/scalar', that keep the arrays of `params` or are dropped.

  Raises:
    BadInput: an array that is missing, superfluous or of another shape and not named in `fresh`;
      the message lists each path with what was wanted and found.
  """
  wanted = {path_of(k): v for k, v in jax.tree_util.tree_flatten_with_path(params)[0]}
  found = {path_of(k): v for k, v in jax.tree_util.tree_flatten_with_path(donor)[0]}
  is_fresh = lambda path: any(path == f or path.startswith(f + '/') for f in fresh)
  shape = lambda tree, path: tuple(tree[path].shape) if path in tree else 'nothing'
  wrong = [
    f'{path}: wanted {shape(wanted, path)}, found {shape(found, path)}'
    for path in sorted(wanted.keys() | found.keys())
    if not is_fresh(path) and shape(wanted, path) != shape(found, path)
  ]
  if wrong:
    raise BadInput(
      f'artifact: {len(wrong)} arrays do not fit: {"; ".join(wrong)}; '
      'name those that may be new in config.init.fresh'
    )
  take = lambda key_path, leaf: leaf if is_fresh(path_of(key_path)) else found[path_of(key_path)]
  return jax.tree_util.tree_map_with_path(take, params)


def grown(params: Params, size: int, new: range) -> Params:
  """Parameters for a vocabulary of `size`, in which the tokens `new` have the mean of those before.

  >>> import jax.numpy as jnp
  >>> table = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  >>> grown({'embedding': {'table': table}}, 3, range(2, 3))['embedding']['table'].tolist()
  [[1.0, 2.0], [3.0, 4.0], [2.0, 3.0]]

  Args:
    params: those of a model, or of several.
    size: rows of the embedding; there are no fewer afterwards.
    new: ids of the new tokens. Rows behind them stay as they are, or are 0 where there is none.
  """
  axes = {'embedding/table': 0, 'head/kernel': 1}

  def one(key_path: Any, x: Any) -> Any:
    name = next((name for name in axes if path_of(key_path).endswith(name)), '')
    if not name:
      return x
    rows = jnp.moveaxis(x, axes[name], 0)
    mean = rows[: new.start].mean(0, dtype=jnp.float32).astype(x.dtype)
    rows = jnp.pad(rows, [(0, max(size - len(rows), 0)), (0, 0)])
    return jnp.moveaxis(rows.at[new.start : new.stop].set(mean), 0, axes[name])

  return jax.tree_util.tree_map_with_path(one, params)


def commit() -> str | None:
  """The git commit of the code that runs, with '+' if it was changed since; None outside git."""
  git = ['git', '-C', str(Path(__file__).parent)]
  try:
    head = subprocess.run([*git, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=True)
    dirty = subprocess.run([*git, 'diff', '--quiet', 'HEAD'], capture_output=True).returncode
  except (OSError, subprocess.CalledProcessError):
    return None
  return head.stdout.strip() + ('+' if dirty else '')

"""What one stage hands to the next: a folder with parameters, model, tokenizer and history."""

import dataclasses
import json
import os
import shutil
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
from llm_jax.files import check_writable, difference, manifest, read_json, sha256, write_json
from llm_jax.find import call, find, named
from llm_jax.models import lora
from llm_jax.models.compute import Compute, without_compute
from llm_jax.options import is_local
from llm_jax.parallel.parameters import abstract_params, path_of, shardings
from llm_jax.text import folder as tokenizers
from llm_jax.text.chat import FOLDER
from llm_jax.text.templates import TEMPLATES
from llm_jax.types import BadInput, Model, Params, Tokenizer

FILE = 'artifact.json'
ENDS = (FILE, 'tokenize.json', 'summary.json')  # a stage writes one of them, when it is finished
MADE_FROM = 'made_from.json'
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
    name = self.config.get('data', {}).get('template')
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
    shutil.rmtree(folder / 'params', ignore_errors=True)
    artifact.tokenizer.save(folder / 'tokenizer')
  with ocp.StandardCheckpointer() as orbax:
    orbax.save(folder / 'params', artifact.params)
    orbax.wait_until_finished()
  if main:
    publish(folder, artifact)


def publish(path: str | Path, artifact: Artifact) -> None:
  """Writes `artifact.json` beside parameters and a tokenizer that are there already."""
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
    'files': manifest(folder / 'params'),
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
  folder = storage.local(path, without=storage.MAKING)
  if not is_local(folder):
    raise BadInput(f'artifact: {str(path)!r} is no folder of this machine; name that of a stage')
  if not folder.is_dir():
    raise BadInput(f'artifact: no folder {str(folder)!r}; run the stage that writes it first')
  if not (folder / FILE).is_file() and next(folder.glob('*.safetensors'), None):
    raise BadInput(
      f'artifact: {str(folder)!r} is a Hugging Face folder; make an artifact of it: '
      f'python -m llm_jax.main --config=convert --config.source={folder} --config.workdir=runs/NAME'
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
  folder = Path(path).absolute()
  about = describe(folder)
  for name, listed in (('params', 'files'), ('tokenizer', 'tokenizer_files')):
    if damage := difference(folder / name, about.get(listed, {})):
      raise BadInput(f'artifact: {str(folder / name)!r} is {damage}; {AGAIN}')
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

  With a group `lora` in it, that model is frozen and adapted; see models/lora.py.

  Args:
    group: `config.model`.
    compute: how the model is run: fields of `Compute`, or that of another model.
    source: folder of the artifact that the group was read from; '' for that of a config.
    trust: modules of the user's that such an artifact may name.
  """
  name, shape = named(group, 'model')
  adapter = shape.pop('lora', None)
  read_from = f'artifact {str(source)!r}' if source else ''
  make = find('models', name, source=read_from, trust=trust).make
  model = call(make, shape, where='model', offered={'compute': compute})
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


def holds(path: str | Path, config: Mapping[str, Any], *, may_change: Sequence[str] = ()) -> bool:
  """Whether the folder was begun by a run with this config; False if it is new.

  Args:
    path: the workdir.
    config: the whole config as plain dicts.
    may_change: top-level fields that a resumed run may give other values.

  Raises:
    BadInput: nothing can be written there, or the folder holds a run with another config; the
      message names the differing fields.
  """
  folder = Path(path)
  check_writable(folder, 'workdir')
  if not (folder / 'config.json').is_file():
    return False
  drop = lambda c: {k: v for k, v in c.items() if k not in may_change}
  theirs = read_json(
    folder / 'config.json', 'delete this file if your command is the one that began the run'
  )
  if 'model' in theirs and 'compute' not in theirs:  # from when both were one group
    theirs['model'] = without_compute(theirs['model'])
  differing = _differences(drop(theirs), drop(json.loads(json.dumps(storage.named(config)))))
  if differing:
    raise BadInput(
      f'workdir: {str(folder)!r} holds another run, which has {"; ".join(differing[:5])}; '
      'choose another --config.workdir, or delete the folder'
    )
  return True


def claim(path: str | Path, config: Mapping[str, Any]) -> None:
  """Writes `config.json`: from now on the folder belongs to the run with this config.

  A run that begins also writes down what other stages' folders and files, of all that its config
  names, hold at this moment.
  """
  if jax.process_index() == 0:
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / 'config.json').is_file():
      write_json(folder / MADE_FROM, storage.named(digests(config)))
    write_json(folder / 'config.json', storage.named(config))


def made_from(path: str | Path) -> dict[str, str]:
  """Folder or file -> its `digest` when the run began; empty where that was not written down."""
  record = Path(path) / MADE_FROM
  forget = 'delete this file, if what the stage was made from is still the same'
  return read_json(record, forget) if record.is_file() else {}


def finished(path: str) -> str | None:
  """The file that the stage which fills the folder wrote last; None if it has not ended."""
  return next(filter(os.path.isfile, (os.path.join(path, end) for end in ENDS)), None)


def digest(path: str) -> str | None:
  """The sha256 sum of what a finished stage left: of a file in its folder, or of its last one.

  None for whatever else the text may be.
  """
  beside = os.path.isfile(path) and finished(os.path.dirname(path))
  file = path if beside else finished(path)
  return sha256(Path(file)) if file else None


def digests(config: Any) -> dict[str, str]:
  """Folder or file -> its `digest`, of everything that a config names and a stage has left."""
  found = {text: digest(text) for text in _texts(config)}
  return {text: was for text, was in found.items() if was}


def _texts(config: Any) -> Iterator[str]:
  """Every text of a config but ''."""
  if isinstance(config, str) and config:
    yield config
  elif isinstance(config, Mapping):
    yield from (text for value in config.values() for text in _texts(value))
  elif isinstance(config, (list, tuple)):
    yield from (text for value in config for text in _texts(value))


def _differences(theirs: Any, mine: Any, path: str = '') -> list[str]:
  if isinstance(theirs, dict) and isinstance(mine, dict):
    out = []
    for key in sorted(theirs.keys() | mine.keys()):
      inner = f'{path}.{key}' if path else key
      out += _differences(theirs.get(key), mine.get(key), inner)
    return out
  return [] if theirs == mine else [f'{path} = {theirs!r}, not {mine!r}']

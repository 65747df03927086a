"""Job `compress`: an artifact becomes one of weights in few bits, with a report of what is lost.

Every other job reads it as it is, but for training. Calibration text is the training split of what
the model was trained on last, or of `config.data`; what is measured is held out from it.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
from ml_collections import ConfigDict

from llm_jax import artifact, options, run_folder
from llm_jax.artifact import Artifact
from llm_jax.compress import effect, walk
from llm_jax.evals import held_out, task
from llm_jax.find import call, find, named
from llm_jax.jobs import chain, compress_report, evaluations, page, tasks
from llm_jax.jobs.measure import measure, watched
from llm_jax.jobs.trust import trusted
from llm_jax.lock import locked
from llm_jax.models.compute import Compute
from llm_jax.models.transformer import Transformer
from llm_jax.options import Count, Pattern, Place, Seed
from llm_jax.parallel.mesh import batch_shards, make_mesh
from llm_jax.text.terminal import bar, say
from llm_jax.types import BadInput

OFFERED = ('seed', 'rows', 'record')
TEXT = ('packed', 'growing', 'conversations')  # files of data/ whose rows are plain text
ROWS = ('tokens', 'position', 'segment')
MAY_CHANGE = ('compute', 'mesh', 'trust')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'compress'.
    artifact: folder of the model.
    workdir: folder of the compressed model.
    method: a file of compress/ and its options, such as `bits` and `group`.
    weights: pattern of the paths of the matrices that are compressed.
    tables: which of 'embedding' and 'head' become int8, too.
    data: calibration text, like that of a stage; by default what the model was trained on last.
    max_rows: most rows of it that are read.
    batch_size: of these rows.
    evals: what both models are put to, see jobs/evaluations.py; one that reads rows, and has no
      `data`, is given the validation split of the calibration text.
    tasks: benchmarks that they are put to, as of job `evaluate`.
    path: folder of the benchmarks.
    ask: options of all tasks.
    compute: how both are run; see `models.compute.Compute`.
    mesh: sizes of the axes of the device mesh.
    seed: of evaluations that sample.
    trust: modules of yours that the artifact may name as its model or data.
  """

  job: str
  artifact: Place
  workdir: Place
  method: Mapping[str, Any]
  weights: Pattern = walk.WEIGHTS
  tables: Sequence[str] = ()
  data: Mapping[str, Any] | None = None
  max_rows: Count = 128
  batch_size: Count = 8
  evals: Mapping[str, Any]
  tasks: Sequence[str] = ()
  path: str = ''
  ask: Mapping[str, Any] | None = None
  compute: Mapping[str, Any] | None = None
  mesh: Mapping[str, Any]
  seed: Seed = 0
  trust: Sequence[str] = ()


def groups(config: Any) -> Iterator[tuple[str, Callable[..., Any], Sequence[str]]]:
  """(group of the config, the function that its options are for, those that the job fills in)."""
  yield '', Fields, ()
  yield 'method', find('compress', named(config.method, 'method')[0]).make, ()
  if config.get('data'):
    yield from chain.groups(ConfigDict({'data': config.data}))
  yield 'ask', task.make, (*evaluations.FILLED_IN, *tasks.OF_ONE)
  yield from evaluations.functions(config.evals)
  yield 'mesh', make_mesh, ('devices',)
  yield 'compute', Compute, ()


def check(config: Any, *, coming: Collection[str] = ()) -> None:
  """Whether there is a model, its matrices can be stored so, and there is text where it is asked.

  Args:
    config: of the job.
    coming: folders of artifacts that are made before it starts.

  Raises:
    BadInput: naming the field, the folder or the parameter.
  """
  if jax.process_count() > 1:
    raise BadInput('compress: this job runs on one host; give the command on one of them')
  options.check(Fields, config.to_dict(), where='config')
  for name in config.get('tables', ()):
    if name not in walk.TABLES:
      raise BadInput(f'compress: tables {name!r}; {options.suggest(name, [*walk.TABLES])}')
  if config.workdir == config.artifact:
    raise BadInput('compress: workdir is the artifact; name a folder for the compressed one')
  run_folder.holds(config.workdir, config.to_dict(), may_change=MAY_CHANGE)
  method, mesh = _method(config), call(make_mesh, config.mesh, where='mesh')
  if config.artifact in coming:
    return
  about, shards = artifact.describe(config.artifact), batch_shards(mesh)
  model = artifact.build(
    about['model'], config.get('compute'), source=config.artifact, trust=trusted(config)
  )
  if not isinstance(model, Transformer):
    what = 'is compressed already' if 'weights' in about['model'] else 'has a model of its own'
    raise BadInput(
      f'compress: {config.artifact!r} {what}; take one whose weights are arrays of a transformer'
    )
  walk.planned(model, method.form, config.get('weights', walk.WEIGHTS), config.get('tables', ()))
  if config.get('batch_size', 8) % shards:
    raise BadInput(f'compress: batch_size is not a multiple of the {shards} devices that share it')
  text = _text(config, about)
  asked = tasks.asked(config, config.evals.to_dict()).groups
  if text is None and method.calibrated:
    raise BadInput(
      f'compress: {config.artifact!r} does not say what rows of text it was trained on; set '
      'config.data, such as --config.data.name=packed --config.data.path=runs/tiny/tokenize'
    )
  offered = OFFERED if text else tuple(name for name in OFFERED if name != 'rows')
  evaluations.check(asked, offered=offered, model=model, shards=shards)
  if text is not None:
    _apart(config, text, asked)


def main(config: Any) -> None:
  """Compresses, measures and writes; a folder that is finished stays as it is."""
  folder = Path(config.workdir)
  if (folder / artifact.FILE).is_file():
    say(f'{folder} is finished; delete it to compress again.')
    return
  began, mesh = time.perf_counter(), call(make_mesh, config.mesh, where='mesh')
  with locked(folder) as is_there, jax.set_mesh(mesh):
    given = artifact.load(config.artifact, mesh, config.get('compute'), trust=trusted(config))
    train, held = _rows(config, given)
    made, errors = _compressed(config, given, mesh, train, held)
    asked = tasks.asked(config, config.evals.to_dict()).groups
    metrics = {
      name: measure(
        asked, one, mesh=mesh, trust=trusted(config), seed=config.get('seed', 0),
        progress=watched(name), rows=lambda: held,
      ).metrics
      for name, one in (('before', given), ('after', made))
    }  # fmt: skip
    is_there()
    run_folder.claim(folder, config.to_dict())
    facts = {
      'artifact': config.artifact,
      'method': config.method.to_dict(),
      'bytes': {'before': effect.size(given.params), 'after': effect.size(made.params)},
      'bits_per_weight': effect.bits_per_weight(made.params),
      'metrics': metrics,
      'logit_error': errors,
      'rows': len(train) if train is not None else 0,
      'seconds': time.perf_counter() - began,
      'device': jax.devices()[0].device_kind,
    }
    page.write(folder, compress_report.blocks(facts), f'{folder.name}, compressed', facts)
    artifact.save(folder, made)
  say(compress_report.text(facts))
  say(
    f'The artifact is {folder}, and every job but training reads it: python -m llm_jax.main '
    f'--config=chat --config.artifact={folder}. Its report is {folder}/report.html.'
  )


def _method(config: Any) -> walk.Method:
  name, given = named(config.method, 'method')
  return call(find('compress', name).make, given, where='method')


def _compressed(
  config: Any, given: Artifact, mesh: Any, train: Any, held: Any
) -> tuple[Artifact, Mapping[str, Any]]:
  """The compressed artifact, and how far its logits are from those of the given one."""
  method, base, plain = _method(config), cast(Transformer, given.model), given.params
  forms = walk.planned(
    base, method.form, config.get('weights', walk.WEIGHTS), config.get('tables', ())
  )
  size, most = config.get('batch_size', 8), config.get('max_rows', 128)
  batches = []
  if train is not None:
    found = held_out.batches(train, mesh, size, most)
    batches = [{name: batch[name] for name in ROWS} for batch in found]
  show = lambda layers: bar(iterable=layers, unit='layer', desc='compress', disable=None)
  model, params = walk.compress(base, plain, method, forms, batches, show)
  errors: Mapping[str, Any] = {}
  if held is not None:
    first = next(itertools.islice(held_out.batches(held, mesh, size, size), 1))
    together, layers = effect.logit_errors(model, plain, params, first)
    errors = {'all': together, 'layers': layers}
  weights = {path: dataclasses.asdict(form) for path, form in model.forms}
  whole = {**given.config, 'method': config.method.to_dict()}
  whole['model'] = {**given.config['model'], 'weights': weights}
  made = dataclasses.replace(
    given, model=model, params=params, config=whole, stage='compress', parent=config.artifact
  )
  return made, errors


def _rows(config: Any, given: Artifact) -> tuple[Any, Any]:
  """Rows of text for calibration, and rows that are held out from it; None where there are none.

  A method that asks for no inputs is given no rows of the first kind.

  Raises:
    BadInput: the data has no plain rows.
  """
  text = _text(config, artifact.describe(config.artifact))
  if text is None:
    return None, None
  group, offers = dict(text), {'template': given.template} if given.template else {}
  split = group.pop('split', 'train')
  parts = chain.chain(ConfigDict({'data': group}))
  found: list[Any] = [] if _method(config).calibrated else [None]
  for part in (split, 'validation')[len(found) :]:
    rows = chain.read_rows(parts, given.tokenizer, part, offers)
    if any(name not in rows[0] or rows[0][name].ndim != 1 for name in ROWS):
      raise BadInput(f'compress: rows of {group["name"]!r} are no plain text; set config.data')
    found.append(rows)
  return found[0], found[1]


def _text(config: Any, about: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """The group of the calibration text: that of the config, or of the last stage that read text.

  Raises:
    BadInput: that stage's data would run code of somebody else.
  """
  if config.get('data'):
    return config.data.to_dict()
  while about['config'].get('data', {}).get('name') not in TEXT:
    if not about.get('parent') or not (Path(about['parent']) / artifact.FILE).is_file():
      return None
    about = artifact.describe(about['parent'])
  group = about['config']['data']
  if group.get('map'):
    source = 'the config of the artifact'
    find('data', group['map'], source=source, trust=trusted(config), defines=('record',))
  group = {key: value for key, value in group.items() if key != 'split'}
  # What grew while a model was trained on it is whole by now.
  return group | ({'name': 'packed'} if group['name'] == 'growing' else {})


def _apart(config: Any, text: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
  """Raises BadInput where an evaluation would read the calibration text."""
  split = text.get('split', 'train')
  same = lambda group: (
    {k: v for k, v in dict(group).items() if k != 'split'}
    == {k: v for k, v in text.items() if k != 'split'}
  )
  for key, group in asked.items():
    data = group.get('data')
    reads = data.get('split', 'validation') if data else 'validation'
    if split == reads and (not data or same(data)):
      raise BadInput(
        f'compress: evals.{key} reads the {split} split, which is the calibration text; choose '
        'another split for config.data'
      )

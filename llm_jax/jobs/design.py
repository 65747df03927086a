"""What a stage is made of before there is any data: its chain, mesh, model, loss and optimizer."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from llm_jax import artifact
from llm_jax.find import bind, call
from llm_jax.jobs import chain
from llm_jax.jobs.chain import Part
from llm_jax.jobs.rollout_rules import check_rollout
from llm_jax.options import suggest
from llm_jax.parallel.mesh import batch_shards, device_memory, make_mesh
from llm_jax.training import optimizer
from llm_jax.training.step import shared as shared_programs
from llm_jax.types import FIELDS, BadInput, Field, LossFn, Model

STEP = ('loss', 'grad_norm', 'skipped', 'skipped_in_a_row')  # what the step itself measures


class Design(NamedTuple):
  """The parts of a stage that its config alone decides.

  Attributes:
    parts: its data, annotators and loss, see `chain`.
    mesh: the devices.
    model: without parameters.
    loss_fn: bound to the model and its options.
    tx: the optimizer, for the parameters that are trained.
    rate: its learning rate by step.
  """

  parts: Sequence[Part]
  mesh: jax.sharding.Mesh
  model: Model
  loss_fn: LossFn
  tx: optax.GradientTransformation
  rate: optimizer.Schedule


@contextlib.contextmanager
def shared() -> Iterator[None]:
  """While in this context, runs that differ in nothing but their seed and folder have one design.

  So they have one loss and one optimizer, and the step is traced and compiled once for all of them.
  """
  _shared.append({})
  try:
    with shared_programs():
      yield
  finally:
    _shared.pop()


_shared: list[dict[str, Design]] = []
# Fields that a design does not depend on.
OF_A_RUN = ('workdir', 'seed', 'evals', 'sample', 'next', 'wandb')


def design(config: Any) -> Design:
  """Works out what can be known of a stage from its config, and refuses what cannot work.

  Raises:
    BadInput: naming the field, and what would work.
  """
  if not _shared:
    return _designed(config)
  key = json.dumps({k: v for k, v in config.to_dict().items() if k not in OF_A_RUN}, default=str)
  known = _shared[-1]
  if key not in known:
    known[key] = _designed(config)
  return known[key]


def _designed(config: Any) -> Design:
  parts = chain.chain(config)
  chain.check_fields(parts)
  check_rollout(config, parts)
  mesh = call(make_mesh, config.mesh, where='mesh')
  _check_rows(config, batch_shards(mesh))
  _check_trainable(config)
  model = artifact.build(config.model.to_dict(), config.get('compute'))
  loss = parts[-1]
  wanted, head = getattr(loss.module, 'HEAD', None), model.shape.head
  if wanted and head != wanted:
    raise BadInput(f'{loss.reader} trains config.model.head={wanted!r}, and this one is {head!r}')
  check_length(config, model.shape.max_length)
  _check_memory(config, parts, model, mesh)
  tx, rate = call(
    optimizer.make, config.optimizer, where='optimizer', total_steps=config.total_steps
  )
  return Design(
    parts=parts,
    mesh=mesh,
    model=model,
    loss_fn=bind(loss.function, loss.group, where='loss', model=model),
    tx=optimizer.freeze(tx, model.frozen),
    rate=rate,
  )


def _check_trainable(config: Any) -> None:
  """Whether what it starts from has weights that training can move."""
  for path in (config.get('init') or {}).values():
    if isinstance(path, str) and (Path(path) / artifact.FILE).is_file():
      about = artifact.describe(path)
      if 'weights' in about['model']:
        raise BadInput(
          f'init: {path!r} is compressed; start from the artifact that it was made from, '
          f'{about["parent"]!r}'
        )


def _check_rows(config: Any, shards: int) -> None:
  """Whether microbatches and devices can share the rows of a step."""
  batch, step = config.batch_size, config.accumulate * shards
  if not batch % step:
    return
  below, above = batch // step * step, -(-batch // step) * step
  use = f'{below} or {above}' if below else f'{above}'
  raise BadInput(
    f'batch_size {batch} is not divisible by accumulate * data * fsdp * expert = '
    f'{config.accumulate} * {shards}; use {use}, or another config.accumulate'
  )


def check_length(config: Any, most: int, lengths: Mapping[str, int] | None = None) -> None:
  """Whether the rows of a stage fit into its model, as far as the options of its data tell.

  Args:
    config: of the stage.
    most: positions of the model.
    lengths: folder -> tokens of a row that a stage before it will write there; by default what the
      jobs that the config requires say.

  Raises:
    BadInput: they do not.
  """
  parts = chain.chain(config)
  data, samples = parts[0], chain.sampler(parts)
  if lengths is None:
    required = [config[name] for name in config.get('requires', ()) if 'length' in config[name]]
    lengths = {job.workdir: job.length for job in required if 'workdir' in job}
  length = data.options.get('length') or lengths.get(data.options.get('path', ''))
  more = samples.options.get('max_new', 0) if samples is not None else 0
  if isinstance(length, int) and length + more > most:
    told = f'data.length {length}' + (
      f' and {samples.where}.max_new {more}' if samples and more else ''
    )
    raise BadInput(
      f'model: {told} are more than config.model.max_length {most}; raise it, or make shorter rows'
    )


def _check_memory(config: Any, parts: Sequence[Part], model: Model, mesh: Any) -> None:
  """Whether parameters, and the rows of a batch, could be held by the devices at all."""
  there = device_memory(mesh)
  rows = config.batch_size * dict(config.get('rollout') or {}).get('minibatches', 1)
  sizes = _sizes(parts, None, None)
  row = 16 * sizes['L'] * max(sizes['G'], 1)  # four numbers of 32 bits a token
  for what, size, cure in (
    ('parameters', 4 * model.num_params(), 'choose a smaller config.model'),
    (f'{rows} rows', rows * row, 'lower config.batch_size'),
  ):
    if there is not None and size > there:
      raise BadInput(
        f'memory: {what} take {size / 2**30:,.0f} GiB, and all devices have {there / 2**30:,.0f}; '
        f'{cure}, or use more devices'
      )


def check_loss(made: Design, config: Any, row: Mapping[str, Any] | None = None) -> None:
  """Traces the loss over arrays without numbers, which compiles nothing.

  So a loss that does not say what it reads is found out, and the names of what it measures are
  known. Where a field of somebody else's has no shape, nothing can be said before the first step.

  Args:
    made: the stage.
    config: of the run; `stop` names metrics that end it.
    row: of the data, where it has been read.

  Raises:
    BadInput: a field that the loss reads and nobody writes, or a metric that is never measured.
  """
  stop = tuple(config.get('stop') or ())
  if not stop and made.parts[-1].says('READS') is not None:
    return
  names = loss_metrics(made, config, row)
  for name in stop if names is not None else ():
    if name not in (known := {*STEP, *(names or ()), *logged(made.parts)}):
      raise BadInput(f'stop: no metric {name!r} in this run; {suggest(name, sorted(known))}')


def loss_metrics(
  made: Design, config: Any, row: Mapping[str, Any] | None = None
) -> set[str] | None:
  """What the loss measures beside itself, by the trace of `check_loss`; None if nobody can say.

  Raises:
    BadInput: a field that the loss reads and nobody writes.
  """
  parts, loss = made.parts, made.parts[-1]
  batch = abstract_batch(parts, row=row, batch=config.batch_size)
  if batch is None:
    return None
  params = artifact.abstract_params(made.model)
  rng = jax.eval_shape(lambda: jax.random.key(0))
  try:
    with jax.set_mesh(made.mesh):
      _, metrics = jax.eval_shape(made.loss_fn, params, batch, rng)
  except KeyError as error:
    field = error.args[0] if error.args else ''
    if isinstance(field, str) and field not in batch and loss.says('READS') is None:
      chain.refuse(loss.reader, field, parts[-1:])
    return None
  except Exception:  # the first step will raise it again, with the user's own lines
    return None
  return {*metrics}


def logged(parts: Sequence[Part]) -> set[str]:
  """What the annotators measure: the fields `log/<name>` that they say they write."""
  return {f.removeprefix('log/') for f in chain.written(parts) if f.startswith('log/')}


def abstract_batch(
  parts: Sequence[Part],
  *,
  row: Mapping[str, Any] | None = None,
  batch: int = 2,
  length: int | None = None,
  sharding: Any = None,
) -> dict[str, jax.ShapeDtypeStruct] | None:
  """A batch of shapes alone: the fields that a chain writes; None where some cannot be known.

  Args:
    parts: the chain.
    row: of its data, if it has been read; its arrays tell all sizes.
    batch: B.
    length: L; by default that of the data, and of an answer behind a prompt.
    sharding: of every array.
  """
  declared: dict[str, Field] = dict(FIELDS)
  for part in parts:
    declared |= getattr(part.module, 'FIELDS', {})
  if any(part.says('WRITES') is None for part in parts[1:-1]):
    return None
  fields = {field for field in chain.written(parts) if not field.startswith('log/')}
  if row is not None:
    fields |= row.keys()
  elif parts[0].says('WRITES') is None:
    return None
  if any(field not in declared and field not in (row or {}) for field in fields):
    return None
  sizes = _sizes(parts, row, length) | {'B': batch}
  shapes = {}
  for field in fields:
    if row is not None and field in row and field not in _rewritten(parts):
      shapes[field] = ((batch, *jnp.shape(row[field])), row[field].dtype)
      continue
    axes = declared[field].shape.split()
    if '[G]' in axes and not sizes.get('G'):
      axes.remove('[G]')
    shape = tuple(sizes[axis.strip('[]')] for axis in axes)
    shapes[field] = (shape, declared[field].dtype)
  struct = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
  return {field: struct(*of) for field, of in shapes.items()}


def _rewritten(parts: Sequence[Part]) -> set[str]:
  return {field for part in parts[1:] for field in part.says('WRITES') or ()}


def _sizes(
  parts: Sequence[Part], row: Mapping[str, Any] | None, length: int | None
) -> dict[str, int]:
  """Sizes by shape letter, from a row of the data or from options."""
  data, samples = parts[0].options, chain.sampler(parts)
  sizes = {'P': int(data.get('length') or 1), 'A': 8, 'K': 4, 'G': int(data.get('group') or 0)}
  sizes['L'] = length or int(data.get('length') or 8)
  if row is not None and 'tokens' in row:
    *group, sizes['L'] = jnp.shape(row['tokens'])
    sizes['G'] = group[0] if group else 0
  if samples is not None:
    if row is not None and 'prompt' in row:
      sizes['P'] = jnp.shape(row['prompt'])[-1]
    sizes['G'] = int(samples.options.get('group', 1))
    sizes['L'] = length or sizes['P'] + int(samples.options.get('max_new', 8))
  if any('K' in FIELDS[f].shape.split() for f in chain.written(parts) if f in FIELDS):
    tops = [part.options['top_k'] for part in parts[1:] if part.options.get('top_k')]
    sizes['K'] = int(tops[-1]) if tops else sizes['K']
  return sizes

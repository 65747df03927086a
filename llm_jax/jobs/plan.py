"""Job `plan`: what a training run would take on hardware that is not here.

For a TPU slice the stage's own train step is compiled ahead of time, with libtpu and without a TPU:
whether it fits is the compiler's verdict. GPUs are estimated (training/roofline.py).
"""

import dataclasses
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from llm_jax import artifact
from llm_jax.find import bind, call
from llm_jax.jobs import chain
from llm_jax.jobs.design import abstract_batch
from llm_jax.jobs.plan_report import as_json, in_words, lines, numbers
from llm_jax.losses.logprobs import BLOCK_ELEMENTS, ON_ACCELERATORS
from llm_jax.models.transformer import Transformer
from llm_jax.options import Count, NotNegative, Place, Positive, suggest
from llm_jax.options import check as check_options
from llm_jax.parallel import flags
from llm_jax.parallel.chips import Chip, find_chip
from llm_jax.parallel.collectives import collectives
from llm_jax.parallel.hlo import Program
from llm_jax.parallel.mesh import AXES, BATCH_AXES, HEAD_AXES, batch_sharding, make_mesh
from llm_jax.text.terminal import say
from llm_jax.training import optimizer
from llm_jax.training.roofline import Layout, estimate, layouts
from llm_jax.training.step import abstract_state, compile_step
from llm_jax.types import BadInput

TPUS = {
  'v4': 'TPU v4', 'v5e': 'TPU v5 lite', 'v5p': 'TPU v5p', 'v6e': 'TPU v6', 'tpu7x': 'TPU7x',
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
  """The fields of a config of this job.

  Attributes:
    job: 'plan'.
    train: the whole config of the stage that is planned.
    hardware: a TPU slice that is compiled for, 'v5e:4x4', or several, 'v5e:4x4*2'; or a number of
      GPUs, 'h100:512', for which it is estimated.
    length: L, tokens of a row.
    tokens: of the whole run; 0 for total_steps * batch_size * length.
    bytes_per_token: of text, for how much of it is needed.
    price: of a device for an hour; 0 where it is not known.
    search: choose mesh, remat and accumulate; False takes those of config.train.
    compile: for TPUs; False estimates them too.
    tries: layouts that are compiled until one fits.
    output: file that all numbers go to.
  """

  job: str
  train: Mapping[str, Any]
  hardware: str
  length: Count
  tokens: NotNegative
  bytes_per_token: Positive
  price: NotNegative
  search: bool
  compile: bool
  tries: Count
  output: Place


def groups(config: Any) -> Iterator[tuple[str, Any, Sequence[str]]]:
  """None but config.train, a config of its own."""
  return iter(())


def check(config: Any) -> None:
  """Everything that can be said before anything is worked out.

  Raises:
    BadInput: naming the field and what would work.
  """
  check_options(Fields, config, where='config')
  kind, _, count, slices = _hardware(config.hardware)
  if slices > 1 and kind not in TPUS:
    raise BadInput(f'plan: only TPUs come in slices; write {kind}:{count}')
  parts = chain.chain(config.train)
  chain.check_fields(parts)
  if abstract_batch(parts) is None:
    silent = next((part for part in parts[:-1] if part.says('WRITES') is None), None)
    what = f'{silent.where} does not say' if silent else 'some file does not give the shape of'
    raise BadInput(f'plan: {what} what it writes; give it WRITES, and FIELDS for fields of its own')
  model = _model(config)
  if not isinstance(model, Transformer):
    raise BadInput('plan: config.train.model is no plain Transformer; plan a stage of one model')
  if config.length > model.shape.max_length:
    raise BadInput(
      f'plan: rows of {config.length} tokens, and config.train.model.max_length is '
      f'{model.shape.max_length}; lower config.length or raise it'
    )
  if not config.search:
    _given(config, count)
  if kind in TPUS and config.compile and not _has_libtpu():
    raise BadInput(
      "plan: compiling for TPUs needs libtpu: pip install 'llm_jax[libtpu]', on Linux and x86-64; "
      'or set --config.compile=False for an estimate'
    )


def main(config: Any) -> None:
  """Finds a layout that fits, prints what it takes, and writes the numbers as JSON."""
  kind, chip, count, slices = _hardware(config.hardware)
  model = _model(config)
  tx, _ = call(
    optimizer.make, config.train.optimizer, where='optimizer', total_steps=config.train.total_steps
  )
  batch, length = config.train.batch_size, config.length
  candidates = layouts(model, count, batch) if config.search else [_given(config, count)]
  block = BLOCK_ELEMENTS * ON_ACCELERATORS
  rows = batch * _group(config)
  options: Any = dict(batch=rows, length=length, block=block, slices=slices)
  tried = [estimate(model, tx, chip, one, **options) for one in candidates]
  if not tried:
    raise BadInput(
      f'plan: {count} devices cannot share {batch} rows of {length} tokens; use a multiple of '
      f'{count} rows'
    )
  order = lambda e: (not e.fits, e.step if e.fits else sum(e.memory.values()))
  tried.sort(key=order)
  report = numbers(config, model, chip, count, tried[0], rows=rows)
  if kind in TPUS and config.compile:
    report['compiled'] = []
    devices = _topology(config.hardware, slices)
    named = flags.wanted(TPUS[kind], several=count > 1).get('LIBTPU_INIT_ARGS', {})
    if len(devices) != count:
      raise BadInput(
        f'plan: the compiler sees {len(devices)} devices in {config.hardware}, which has {count}; '
        'set --config.compile=False for an estimate'
      )
    for one in tried[: config.tries]:
      say(f'compiling {in_words(one.layout)} for {config.hardware} ...')
      found = _compile(config, one.layout, devices, named)
      report['compiled'].append({'layout': as_json(one.layout), 'flags': named, **found})
      if found['fits']:
        report |= numbers(config, model, chip, count, one, rows=rows)
        break
    report['fits'] = report['compiled'][-1]['fits']
  path = Path(config.output)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(report, indent=2) + '\n')
  say('\n'.join(lines(report)))
  say(f'Everything is in {path}.')


def _model(config: Any, **compute: Any) -> Any:
  group = config.train.get('compute', {})
  return artifact.build(config.train.model.to_dict(), {**group, **compute})


def _hardware(text: str) -> tuple[str, Chip, int, int]:
  """Kind, chip, number of devices and of slices of 'v5e:4x4', 'v5e:4x4*2' or 'h100:512'."""
  kind, _, size = text.partition(':')
  kind = {name.lower(): name for name in TPUS}.get(kind.lower(), kind)
  chip = find_chip(TPUS.get(kind, kind))
  if chip is None or (kind not in TPUS and chip in map(find_chip, TPUS.values())):
    known = [*TPUS, 'h100', 'h200', 'a100', 'b200']
    raise BadInput(f'plan: no hardware {kind!r}; {suggest(kind, known)}, as in v5e:4x4 or h100:512')
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*(\*[1-9]\d*)?', size):
    raise BadInput(
      f'plan: hardware {text!r} has no size; write v5e:4x4, two slices as v5e:4x4*2, or h100:512'
    )
  slice_, _, slices = size.partition('*')
  devices = math.prod(int(n) for n in slice_.split('x'))
  devices *= 2 if kind == 'tpu7x' else 1  # cores of a chip, each a device
  return kind, chip, devices * int(slices or 1), int(slices or 1)


def _given(config: Any, count: int) -> Layout:
  sizes = {**dict.fromkeys(AXES, 1), **config.train.mesh}
  for axis, n in sizes.items():
    if axis not in AXES:
      raise BadInput(f'plan: config.train.mesh has no axis {axis!r}; {suggest(axis, AXES)}')
    if type(n) is not int or (n < 1 and n != -1):
      raise BadInput(
        f'plan: config.train.mesh.{axis} {n!r}; give a size from 1, or -1 for the rest'
      )
  if [*sizes.values()].count(-1) > 1:
    raise BadInput('plan: two axes of config.train.mesh are -1; one may be what is left')
  known = math.prod(n for n in sizes.values() if n != -1)
  sizes = {axis: count // known if n == -1 else n for axis, n in sizes.items()}
  if math.prod(sizes.values()) != count:
    raise BadInput(f'plan: config.train.mesh {sizes} is not of {count} devices')
  pieces = math.prod(sizes[axis] for axis in BATCH_AXES) * config.train.accumulate
  if config.train.batch_size % pieces:
    raise BadInput(
      f'plan: {config.train.batch_size} rows cannot be cut into {pieces}, the devices of '
      f'{" * ".join(BATCH_AXES)} times {config.train.accumulate} microbatches; use a multiple'
    )
  model = _model(config)
  heads = math.prod(sizes[axis] for axis in HEAD_AXES)
  if model.shape.num_heads % heads:
    raise BadInput(
      f'plan: {model.shape.num_heads} heads cannot be shared by {heads} devices, '
      f'{" * ".join(HEAD_AXES)} of config.train.mesh; use a divisor'
    )
  return Layout(sizes, model.compute.remat, config.train.accumulate)


def _group(config: Any) -> int:
  """Sequences of a row: answers to one prompt."""
  shape = _batch(config, None)['tokens'].shape
  return shape[1] if len(shape) == 3 else 1


def _has_libtpu() -> bool:
  import importlib.util

  return importlib.util.find_spec('libtpu') is not None


def _topology(hardware: str, slices: int) -> Sequence[Any]:
  """Devices of slices that are not here."""
  from jax.experimental import topologies

  # Without them libtpu looks for the machine's TPU, and waits.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_LOG_DIR', 'disabled')
  # Any will do, and without one it says that it has none.
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  # A lock keeps two processes from one TPU; there is none here, and several may compile.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  try:
    name = hardware.partition('*')[0]
    return topologies.get_topology_desc(name, platform='tpu', num_slices=slices).devices
  except Exception as error:  # whatever libtpu raises: its message knows the slices
    raise BadInput(f'plan: hardware {hardware}: {str(error).splitlines()[0]}') from error


def _compile(
  config: Any, layout: Layout, devices: Sequence[Any], named: Mapping[str, str]
) -> dict[str, Any]:
  """Compiles the stage's step for devices that are not here, with flags that a run there has."""
  model = _model(config, remat=layout.remat)
  tx, _ = call(
    optimizer.make, config.train.optimizer, where='optimizer', total_steps=config.train.total_steps
  )
  loss = chain.chain(config.train)[-1]
  loss_fn = bind(loss.function, loss.group, where='loss', model=model)
  mesh = make_mesh(devices=devices, **layout.mesh)
  with jax.set_mesh(mesh):
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    state = abstract_state(init, tx, mesh)
    step = compile_step(
      state,
      mesh,
      loss_fn=loss_fn,
      tx=tx,
      seed=0,
      accumulate=layout.accumulate,
      gradients=config.train.get('gradients', 'float32'),
      balances=model.shape.experts is not None,
    )
    start = time.perf_counter()
    try:
      with _uncached():
        compiled: Any = step.lower(state, _batch(config, mesh)).compile(compiler_options={**named})
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      used = re.search(r'Used [\d.]+\w+ of [\d.]+\w+ hbm|[\d.]+\w exceeds [\d.]+\w', str(error))
      return {'fits': False, 'reason': used[0] if used else str(error).splitlines()[0]}
  seconds = time.perf_counter() - start
  memory, text = compiled.memory_analysis(), compiled.as_text()
  return {
    'fits': True,
    'compile_seconds': round(seconds, 1),
    'bytes_of_arguments': memory.argument_size_in_bytes,
    'bytes_of_temporaries': memory.temp_size_in_bytes,
    'bytes_at_peak': memory.peak_memory_in_bytes,
    'kernels': text.count('tpu_custom_call'),
    **costs(text),
  }


def costs(text: str) -> dict[str, Any]:
  """What a compiled program says of a step on one chip: cycles, copies, and what is exchanged."""
  program = Program(text)
  found = collectives(program)
  return {
    'estimated_cycles': program.cycles(),
    'bytes_copied': program.bytes_copied(),
    'collectives': {
      kind: {
        'times': sum(c.times for c in found if c.kind == kind),
        'bytes_received': round(sum(c.moved for c in found if c.kind == kind)),
      }
      for kind in sorted({c.kind for c in found})
    },
  }


@contextmanager
def _uncached() -> Iterator[None]:
  """What is compiled for a machine that is not here cannot be read back from the cache."""
  before = jax.config.values['jax_enable_compilation_cache']

  def enable(value: bool) -> None:
    jax.config.update('jax_enable_compilation_cache', value)
    compilation_cache.reset_cache()  # or it would not ask again

  enable(False)
  try:
    yield
  finally:
    enable(before)


def _batch(config: Any, mesh: Any) -> dict[str, jax.ShapeDtypeStruct]:
  """The fields of a batch, as far as the files of the stage write them."""
  rows, length = config.train.batch_size, config.length
  place = None if mesh is None else batch_sharding(mesh)
  found = abstract_batch(chain.chain(config.train), batch=rows, length=length, sharding=place)
  assert found is not None, 'checked'
  return found

"""Job `plan`: what a training run would take on hardware that is not here.

For a TPU slice the stage's own train step is compiled ahead of time, with libtpu and without a TPU:
whether it fits is the compiler's verdict. GPUs are estimated (training/roofline.py).
"""

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
from llm_jax.find import bind, call, find, named, preset
from llm_jax.losses.logprobs import BLOCK_ELEMENTS, ON_ACCELERATORS
from llm_jax.models.transformer import Transformer
from llm_jax.options import suggest
from llm_jax.parallel.chips import Chip, find_chip
from llm_jax.parallel.collectives import collectives
from llm_jax.parallel.mesh import AXES, BATCH_AXES, batch_sharding, make_mesh
from llm_jax.training import optimizer
from llm_jax.training.roofline import Estimate, Layout, estimate, layouts
from llm_jax.training.step import abstract_state, compile_step
from llm_jax.types import BadInput

FIELDS = (
  *('job', 'train', 'hardware', 'length', 'tokens', 'bytes_per_token', 'price', 'search'),
  *('compile', 'tries', 'output'),
)
TPUS = {
  'v4': 'TPU v4', 'v5e': 'TPU v5 lite', 'v5p': 'TPU v5p', 'v6e': 'TPU v6', 'tpu7x': 'TPU7x',
}  # fmt: skip
DAY = 86400.0


def check(config: Any) -> None:
  """Everything that can be said before anything is worked out.

  Raises:
    BadInput: naming the field and what would work.
  """
  for field in config:
    if field not in FIELDS:
      raise BadInput(f'config: unknown field {field!r}; {suggest(field, [*FIELDS])}')
  kind, _, count, slices = _hardware(config.hardware)
  if slices > 1 and kind not in TPUS:
    raise BadInput(f'plan: only TPUs come in slices; write {kind}:{count}')
  model = _model(config)
  if not isinstance(model, Transformer):
    raise BadInput('plan: config.train.model is no plain Transformer; plan a stage of one model')
  if rest := set(config.train.annotate.steps) - {'reference'}:
    raise BadInput(
      f'plan: config.train.annotate.steps has {", ".join(sorted(rest))}; only stages that learn '
      'from rows as they are, with a reference or without, can be planned'
    )
  if config.tries < 1:
    raise BadInput(f'plan: config.tries {config.tries}; compile at least one layout')
  if config.length > model.shape.max_length:
    raise BadInput(
      f'plan: rows of {config.length} tokens, and config.train.model.max_length is '
      f'{model.shape.max_length}; lower config.length or raise it'
    )
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
  options: Any = dict(batch=batch * _group(config), length=length, block=block, slices=slices)
  tried = [estimate(model, tx, chip, one, **options) for one in candidates]
  if not tried:
    raise BadInput(
      f'plan: {count} devices cannot share {batch} rows of {length} tokens; use a multiple of '
      f'{count // 8 or 1} rows'
    )
  order = lambda e: (not e.fits, e.step if e.fits else sum(e.memory.values()))
  tried.sort(key=order)
  report = _about(config, model, chip, count, tried[0])
  if kind in TPUS and config.compile:
    report['compiled'] = []
    devices = _topology(config.hardware, slices)
    if len(devices) != count:
      raise BadInput(
        f'plan: the compiler sees {len(devices)} devices in {config.hardware}, which has {count}; '
        'set --config.compile=False for an estimate'
      )
    for one in tried[: config.tries]:
      print(f'compiling {_told(one.layout)} for {config.hardware} ...', flush=True)
      found = _compile(config, one.layout, devices)
      report['compiled'].append({'layout': _plain(one.layout), **found})
      if found['fits']:
        report |= _about(config, model, chip, count, one)
        break
    report['fits'] = report['compiled'][-1]['fits']
  path = Path(config.output)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(report, indent=2) + '\n')
  print('\n'.join(_lines(report)))
  print(f'Everything is in {path}.')


def _model(config: Any, **compute: Any) -> Any:
  group = config.train.get('compute', {})
  return artifact.build(config.train.model.to_dict(), {**group, **compute})


def _hardware(text: str) -> tuple[str, Chip, int, int]:
  """Kind, chip, number of devices and of slices of 'v5e:4x4', 'v5e:4x4*2' or 'h100:512'."""
  kind, _, size = text.partition(':')
  chip = find_chip(TPUS.get(kind, kind))
  if chip is None:
    known = [*TPUS, 'h100', 'h200', 'a100', 'b200']
    raise BadInput(f'plan: no hardware {kind!r}; {suggest(kind, known)}, as in v5e:4x4 or h100:512')
  if not re.fullmatch(r'\d+(x\d+)*(\*\d+)?', size):
    raise BadInput(
      f'plan: hardware {text!r} has no size; write v5e:4x4, two slices as v5e:4x4*2, or h100:512'
    )
  slice_, _, slices = size.partition('*')
  devices = math.prod(int(n) for n in slice_.split('x'))
  devices *= 2 if kind == 'tpu7x' else 1  # cores of a chip, each a device
  return kind, chip, devices * int(slices or 1), int(slices or 1)


def _given(config: Any, count: int) -> Layout:
  sizes = {**dict.fromkeys(AXES, 1), **config.train.mesh}
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
  return Layout(sizes, _model(config).compute.remat, config.train.accumulate)


def _group(config: Any) -> int:
  """Sequences of a row: preferences come in pairs."""
  return 2 if config.train.data.name == 'preferences' else 1


def _about(config: Any, model: Any, chip: Chip, count: int, one: Estimate) -> dict[str, Any]:
  """The numbers of a layout and of the whole run."""
  per_step = config.train.batch_size * _group(config) * config.length
  tokens = float(config.tokens) or float(config.train.total_steps * per_step)
  seconds = tokens / per_step * one.step
  hours = seconds / 3600 * count
  return {
    'hardware': config.hardware,
    'devices': count,
    'parameters': model.num_params(),
    'bytes_of_parameters_in_16_bits': 2 * model.num_params(),
    'tokens': tokens,
    'bytes_of_text': tokens * config.bytes_per_token,
    'flops': tokens * model.flops_per_token(config.length),
    'layout': _plain(one.layout),
    'fits': one.fits,
    'memory': {k: round(v) for k, v in one.memory.items()},
    'memory_total': round(sum(one.memory.values())),
    'memory_of_chip': round(chip.memory),
    'seconds': {k: round(v, 4) for k, v in one.seconds.items()},
    'step_seconds': round(one.step, 4),
    'mfu': round(one.mfu, 4),
    'tokens_per_second_and_device': round(per_step / one.step / count, 1),
    'tokens_per_day': per_step / one.step * DAY,
    'days': seconds / DAY,
    'device_hours': hours,
    'cost': hours * config.price if config.price else None,
  }


def _plain(layout: Layout) -> dict[str, Any]:
  mesh = {axis: size for axis, size in layout.mesh.items() if size > 1}
  return {'mesh': mesh, 'remat': layout.remat, 'accumulate': layout.accumulate}


def _told(layout: Layout) -> str:
  mesh = (
    ' '.join(f'{axis}={size}' for axis, size in layout.mesh.items() if size > 1) or 'one device'
  )
  return f'{mesh}, remat={layout.remat}, accumulate={layout.accumulate}'


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
  # A lock keeps two processes from one TPU; there is none here, and several may compile.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  try:
    name = hardware.partition('*')[0]
    return topologies.get_topology_desc(name, platform='tpu', num_slices=slices).devices
  except Exception as error:  # whatever libtpu raises: its message knows the slices
    raise BadInput(f'plan: hardware {hardware}: {str(error).splitlines()[0]}') from error


def _compile(config: Any, layout: Layout, devices: Sequence[Any]) -> dict[str, Any]:
  """Compiles the stage's step for devices that are not here."""
  model = _model(config, remat=layout.remat)
  tx, _ = call(
    optimizer.make, config.train.optimizer, where='optimizer', total_steps=config.train.total_steps
  )
  name, options = named(config.train.loss, 'loss')
  module = find('losses', name)
  options = preset(module, options, where='loss')
  loss_fn = bind(module.loss_fn, options, where='loss', model=model)
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
        compiled: Any = step.lower(state, _batch(config, mesh)).compile()
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      told = re.search(r'Used [\d.]+\w+ of [\d.]+\w+ hbm|[\d.]+\w exceeds [\d.]+\w', str(error))
      return {'fits': False, 'reason': told[0] if told else str(error).splitlines()[0]}
  memory, text = compiled.memory_analysis(), compiled.as_text()
  found = collectives(text)
  kinds = sorted({c.kind for c in found})
  return {
    'fits': True,
    'compile_seconds': round(time.perf_counter() - start, 1),
    'bytes_of_arguments': memory.argument_size_in_bytes,
    'bytes_of_temporaries': memory.temp_size_in_bytes,
    'bytes_at_peak': memory.peak_memory_in_bytes,
    'kernels': text.count('tpu_custom_call'),
    'collectives': {
      kind: {
        'times': sum(c.times for c in found if c.kind == kind),
        'bytes_received': round(sum(c.moved for c in found if c.kind == kind)),
      }
      for kind in kinds
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
  """The fields of a batch: rows of text, or groups of two where preferences are learned."""
  rows, length = config.train.batch_size, config.length
  shape = (rows, length) if _group(config) == 1 else (rows, _group(config), length)
  kinds = dict(tokens=jnp.int32, position=jnp.int32, segment=jnp.int32, mask=jnp.float32)
  if 'reference' in config.train.annotate.steps:
    kinds['ref_logp'] = jnp.float32
  place = batch_sharding(mesh)
  return {k: jax.ShapeDtypeStruct(shape, kind, sharding=place) for k, kind in kinds.items()}


def _lines(r: Mapping[str, Any]) -> list[str]:
  """What a person wants to know, a line each."""
  gib = lambda n: f'{n / 2**30:.2f} GiB'
  mesh = ' '.join(f'{axis}={size}' for axis, size in r['layout']['mesh'].items()) or 'one device'
  parts = ', '.join(f'{k} {gib(v)}' for k, v in r['memory'].items())
  times = ', '.join(f'{k} {v:.3g} s' for k, v in r['seconds'].items())
  cost = '' if r['cost'] is None else f', {r["cost"]:,.0f} at the given price'
  lines = [
    f'{r["parameters"] / 1e9:.3g}B parameters '
    f'({r["bytes_of_parameters_in_16_bits"] / 1e9:.3g} GB in 16 bits), '
    f'{r["tokens"]:.3g} tokens ({r["bytes_of_text"] / 1e12:.3g} TB of text), '
    f'{r["flops"]:.3g} FLOPs',
    f'layout     {mesh}; remat={r["layout"]["remat"]}, accumulate={r["layout"]["accumulate"]}',
    f'memory     {gib(r["memory_total"])} of {gib(r["memory_of_chip"])} a chip (estimate): {parts}',
  ]
  for one in r.get('compiled', ()):
    if one['fits']:
      spoken = ', '.join(
        f'{kind} {v["times"]} times, {v["bytes_received"] / 1e9:.3g} GB'
        for kind, v in one['collectives'].items()
      )
      lines.append(
        f'compiled   in {one["compile_seconds"]} s: arguments {gib(one["bytes_of_arguments"])}, '
        f'temporaries {gib(one["bytes_of_temporaries"])}, peak {gib(one["bytes_at_peak"])} a chip'
      )
      lines.append(f'           received by a chip in a step: {spoken or "nothing"}')
    else:
      lines.append(f'compiled   {one["layout"]} does not fit: {one["reason"]}')
  lines += [
    f'step       {r["step_seconds"]:.3g} s ({times}), MFU {r["mfu"]:.1%} (estimate)',
    f'run        {r["tokens_per_day"]:.3g} tokens a day, {r["days"]:.1f} days, '
    f'{r["device_hours"]:,.0f} device-hours{cost}',
    f'verdict    {"fits" if r["fits"] else "does not fit"} {r["hardware"]}',
  ]
  return lines

"""What a plan says: its numbers, and the lines that a person reads."""

from collections.abc import Mapping
from typing import Any

from llm_jax.parallel.chips import Chip
from llm_jax.training.roofline import Estimate, Layout
from llm_jax.types import Model

DAY = 86400.0


def numbers(
  config: Any, model: Model, chip: Chip, count: int, one: Estimate, *, rows: int
) -> dict[str, Any]:
  """The numbers of a layout and of the whole run.

  Args:
    config: of the job.
    model: that is trained.
    chip: a device.
    count: devices.
    one: what the layout was estimated to take.
    rows: sequences of a step.
  """
  per_step = rows * config.length
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
    'layout': as_json(one.layout),
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


def as_json(layout: Layout) -> dict[str, Any]:
  """A layout as JSON: axes of one device are left out."""
  mesh = {axis: size for axis, size in layout.mesh.items() if size > 1}
  return {'mesh': mesh, 'remat': layout.remat, 'accumulate': layout.accumulate}


def in_words(layout: Layout) -> str:
  """A layout in words."""
  mesh = (
    ' '.join(f'{axis}={size}' for axis, size in layout.mesh.items() if size > 1) or 'one device'
  )
  return f'{mesh}, remat={layout.remat}, accumulate={layout.accumulate}'


def lines(r: Mapping[str, Any]) -> list[str]:
  """What a person wants to know of `numbers`, a line each."""
  gib = lambda n: f'{n / 2**30:.2f} GiB'
  mesh = ' '.join(f'{axis}={size}' for axis, size in r['layout']['mesh'].items()) or 'one device'
  parts = ', '.join(f'{k} {gib(v)}' for k, v in r['memory'].items())
  times = ', '.join(f'{k} {v:.3g} s' for k, v in r['seconds'].items())
  cost = '' if r['cost'] is None else f', {r["cost"]:,.0f} at the given price'
  found = [
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
      found.append(
        f'compiled   in {one["compile_seconds"]} s: arguments {gib(one["bytes_of_arguments"])}, '
        f'temporaries {gib(one["bytes_of_temporaries"])}, peak {gib(one["bytes_at_peak"])} a chip'
      )
      named = ' '.join(f'--{name}={value}' for name, value in one['flags'].items())
      found.append(f'           with LIBTPU_INIT_ARGS {named or "of yours alone"}')
      found.append(f'           received by a chip in a step: {spoken or "nothing"}')
    else:
      found.append(f'compiled   {one["layout"]} does not fit: {one["reason"]}')
  found += [
    f'step       {r["step_seconds"]:.3g} s ({times}), MFU {r["mfu"]:.1%} (estimate)',
    f'run        {r["tokens_per_day"]:.3g} tokens a day, {r["days"]:.1f} days, '
    f'{r["device_hours"]:,.0f} device-hours{cost}',
    f'verdict    {"fits" if r["fits"] else "does not fit"} {r["hardware"]}',
  ]
  return found

"""XLA's flags by kind of device, where its defaults are not what training wants; no JAX in here.

XLA ends a process that names a flag which it does not know, so tests compile with all of them.
docs/pods.md says what each does and who else sets it.
"""

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

DRIVER = Path('/proc/driver/nvidia/gpus')


class Flags(NamedTuple):
  """Of one kind of device.

  Attributes:
    kind: a pattern in its `device_kind`.
    variable: of the environment, which the compiler reads.
    flags: names and values.
    several: whether they matter only where there are several devices.
  """

  kind: str
  variable: str
  flags: Mapping[str, str]
  several: bool = False


# Those of all rows that match are set. XLA_FLAGS is for CPUs and GPUs, LIBTPU_INIT_ARGS for TPUs.
FLAGS = (
  # Eigen for float32 products and YNNPACK for reductions; experiments/benchmarks/README.md.
  Flags('cpu', 'XLA_FLAGS', {'xla_cpu_experimental_ynn_fusion_type': 'reduce'}),
  # Exchanges beside products. XLA's guide lists it as off; NVIDIA's images of JAX turn it on.
  Flags('NVIDIA|Tesla', 'XLA_FLAGS', {'xla_gpu_enable_latency_hiding_scheduler': 'true'}, True),
  # Sums of gradients between slices beside the backward pass: XLA's guide, MaxText.
  Flags(
    'TPU',
    'LIBTPU_INIT_ARGS',
    {
      'xla_tpu_enable_data_parallel_all_reduce_opt': 'true',
      'xla_tpu_data_parallel_opt_different_sized_ops': 'true',
    },
    True,
  ),
)


def wanted(kind: str, *, several: bool = True) -> dict[str, dict[str, str]]:
  """By variable, the flags of a device that the variable does not name already.

  >>> wanted('TPU v4', several=False)
  {}
  """
  found: dict[str, dict[str, str]] = {}
  for row in FLAGS:
    if re.search(row.kind, kind) and (several or not row.several):
      given = os.environ.get(row.variable, '')
      named = {word.lstrip('-').partition('=')[0] for word in given.split()}
      new = {name: value for name, value in row.flags.items() if name not in named}
      if new:
        found[row.variable] = found.get(row.variable, {}) | new
  return found


def set_flags(kind: str, *, several: bool = True) -> str | None:
  """Adds the flags of a device to the environment; says which, or None where there are none.

  It is for before JAX looks for devices: later nobody reads the variables.
  """
  found = wanted(kind, several=several)
  said = []
  for variable, flags in found.items():
    words = ' '.join(f'--{name}={value}' for name, value in flags.items())
    os.environ[variable] = f'{os.environ.get(variable, "")} {words}'.strip()
    said.append(f'{variable} {words}')
  return f'flags for {kind}: {"; ".join(said)}' if said else None


def tune_cpu(*, rounds: bool = False) -> None:
  """The flag that makes CPU training faster; only before JAX is imported.

  Args:
    rounds: products have operands of bfloat16 (`compute.product_dtype`) or int8
      (`compute.products`), for which XLA's default is faster.
  """
  if not rounds:
    set_flags('cpu')


def accelerators() -> list[str]:
  """Kinds of the GPUs or TPU chips of this machine that JAX would use, without starting it."""
  chosen = os.environ.get('JAX_PLATFORMS', '')
  if not chosen or re.search('tpu', chosen):
    from jax._src import cloud_tpu_init, hardware_utils

    if cloud_tpu_init.running_in_cloud_tpu_vm:
      chips, version = hardware_utils.num_available_tpu_chips_and_device_id()
      return [f'TPU {version.name if version is not None else ""}'.strip()] * chips
  if not chosen or re.search('cuda|gpu', chosen):
    plugins = ('jax_plugins.xla_cuda12', 'jax_plugins.xla_cuda13')
    if importlib.util.find_spec('jax_plugins') and any(map(importlib.util.find_spec, plugins)):
      found = [path.read_text() for path in sorted(DRIVER.glob('*/information'))]
      models = [re.search(r'^Model:\s*(.+)', text, re.MULTILINE) for text in found]
      return [model[1].strip() for model in models if model]
  return []

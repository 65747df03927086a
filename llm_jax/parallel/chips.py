"""What accelerators can do, from the data sheets of their makers."""

import re
from typing import NamedTuple


class Chip(NamedTuple):
  """One device as JAX counts them.

  Attributes:
    flops: dense bfloat16 FLOP/s, without sparsity.
    memory: bytes of device memory.
    bandwidth: bytes/s of device memory.
    link: bytes/s that one device receives from its neighbours (ICI, NVLink).
    network: bytes/s between hosts or slices, for one device.
    island: devices that `link` connects; 0 means all of a slice.
    sustained: share of `flops` that well tuned dense training reaches over whole steps, without
      counting recomputation. It is that of published runs for A100 (Llama 2), H100 (Llama 3), TPU
      v5p and v6 (MaxText) and v4 (PaLM), and a guess for the others.
  """

  flops: float
  memory: float
  bandwidth: float
  link: float
  network: float = 12.5e9
  island: int = 8
  sustained: float = 0.5


GIB = 2**30
# Keyed by a part of `device_kind`. The first key found in a name wins, so longer ones come first.
# A chip of TPU v3 or TPU7x is two devices; in other TPUs the cores of a chip are one.
CHIPS = {
  'TPU7x': Chip(1153.5e12, 96 * GIB, 3.7e12, 300e9, island=0, sustained=0.5),
  'TPU v6': Chip(918e12, 32 * GIB, 1.64e12, 448e9, island=0, sustained=0.45),
  'TPU v5p': Chip(459e12, 95 * GIB, 2.76e12, 600e9, island=0, sustained=0.6),
  'TPU v5 lite': Chip(197e12, 16 * GIB, 0.82e12, 200e9, island=0, sustained=0.5),
  'TPU v5e': Chip(197e12, 16 * GIB, 0.82e12, 200e9, island=0, sustained=0.5),
  'TPU v5': Chip(459e12, 95 * GIB, 2.76e12, 600e9, island=0, sustained=0.6),
  'TPU v4': Chip(275e12, 32 * GIB, 1.2e12, 300e9, island=0, sustained=0.55),
  'TPU v3': Chip(61.5e12, 16 * GIB, 0.45e12, 50e9, island=0, sustained=0.45),
  'B200': Chip(2250e12, 180e9, 8e12, 900e9, 50e9),
  'GH200': Chip(989e12, 96e9, 4e12, 450e9, 50e9),
  'H200': Chip(989e12, 141e9, 4.8e12, 450e9, 50e9),
  'H100 PCIe': Chip(756e12, 80e9, 2e12, 64e9, 25e9),
  'H100 NVL': Chip(835e12, 94e9, 3.9e12, 300e9, 25e9),
  'H100': Chip(989e12, 80e9, 3.35e12, 450e9, 50e9),
  'H800': Chip(989e12, 80e9, 3.35e12, 200e9, 50e9),
  'A100': Chip(312e12, 80e9, 2e12, 300e9, 25e9),
  'A800': Chip(312e12, 80e9, 2e12, 200e9, 25e9),
  'L40S': Chip(362e12, 48e9, 0.86e12, 32e9),
  'L4': Chip(121e12, 24e9, 0.3e12, 32e9),
  'A10': Chip(125e12, 24e9, 0.6e12, 32e9),
  'T4': Chip(65e12, 16e9, 0.32e12, 16e9),
}


def find_chip(kind: str) -> Chip | None:
  """The chip of a `device_kind`, or None where the table does not know it.

  >>> find_chip('NVIDIA H100 80GB HBM3').memory
  80000000000.0
  """
  for name, chip in CHIPS.items():
    if re.search(rf'\b{name}\b', kind, re.IGNORECASE):
      return chip
  return None

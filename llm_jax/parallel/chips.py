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
    float32: FLOP/s of float32 products as JAX makes them, of GPUs in TF32; 0: as bfloat16.
    int8: dense operations/s with operands of int8; 0: as bfloat16.
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
  float32: float = 0.0
  int8: float = 0.0

  def peak(self, dtype: str) -> float:
    """Operations/s with operands of a type.

    >>> CHIPS['A100'].peak('float32') / CHIPS['A100'].peak('float16')
    0.5
    """
    return {'float32': self.float32, 'int8': self.int8}.get(dtype, 0.0) or self.flops


GIB = 2**30
# Keyed by a part of `device_kind`. The first key found in a name wins, so longer ones come first.
# A chip of TPU v3 or TPU7x is two devices; in other TPUs the cores of a chip are one.
CHIPS = {
  'TPU7x': Chip(1153.5e12, 96 * GIB, 3.7e12, 300e9, island=0, sustained=0.5),
  'TPU v6': Chip(918e12, 32 * GIB, 1.64e12, 448e9, island=0, sustained=0.45, int8=1836e12),
  'TPU v5p': Chip(459e12, 95 * GIB, 2.76e12, 600e9, island=0, sustained=0.6, int8=918e12),
  'TPU v5 lite': Chip(197e12, 16 * GIB, 0.82e12, 200e9, island=0, sustained=0.5, int8=394e12),
  'TPU v5e': Chip(197e12, 16 * GIB, 0.82e12, 200e9, island=0, sustained=0.5, int8=394e12),
  'TPU v5': Chip(459e12, 95 * GIB, 2.76e12, 600e9, island=0, sustained=0.6, int8=918e12),
  'TPU v4': Chip(275e12, 32 * GIB, 1.2e12, 300e9, island=0, sustained=0.55),
  'TPU v3': Chip(61.5e12, 16 * GIB, 0.45e12, 50e9, island=0, sustained=0.45),
  'B200': Chip(2250e12, 180e9, 8e12, 900e9, 50e9, float32=1125e12, int8=4500e12),
  'GH200': Chip(989e12, 96e9, 4e12, 450e9, 50e9, float32=494e12, int8=1979e12),
  'H200': Chip(989e12, 141e9, 4.8e12, 450e9, 50e9, float32=494e12, int8=1979e12),
  'H100 PCIe': Chip(756e12, 80e9, 2e12, 64e9, 25e9, float32=378e12, int8=1513e12),
  'H100 NVL': Chip(835e12, 94e9, 3.9e12, 300e9, 25e9, float32=418e12, int8=1671e12),
  'H100': Chip(989e12, 80e9, 3.35e12, 450e9, 50e9, float32=494e12, int8=1979e12),
  'H800': Chip(989e12, 80e9, 3.35e12, 200e9, 50e9, float32=494e12, int8=1979e12),
  'A100-SXM4-40GB': Chip(312e12, 40e9, 1.55e12, 300e9, 25e9, float32=156e12, int8=624e12),
  'A100-PCIE-40GB': Chip(312e12, 40e9, 1.55e12, 32e9, 25e9, float32=156e12, int8=624e12),
  'A100': Chip(312e12, 80e9, 2e12, 300e9, 25e9, float32=156e12, int8=624e12),
  'A800': Chip(312e12, 80e9, 2e12, 200e9, 25e9, float32=156e12, int8=624e12),
  'L40S': Chip(362e12, 48e9, 0.86e12, 32e9, float32=183e12, int8=733e12),
  'L4': Chip(121e12, 24e9, 0.3e12, 32e9, float32=60e12, int8=242e12),
  'A10': Chip(125e12, 24e9, 0.6e12, 32e9, float32=62.5e12, int8=250e12),
  # Of float16, since its units do not know bfloat16.
  'T4': Chip(65e12, 16e9, 0.32e12, 16e9, float32=8.1e12, int8=130e12),
  # Sums in float32, which these do half as fast as those in float16 that data sheets name first.
  'RTX 5090': Chip(209e12, 32e9, 1.79e12, 64e9, float32=105e12, int8=838e12),
  'RTX 4090': Chip(165e12, 24e9, 1.01e12, 32e9, float32=82.6e12, int8=661e12),
  'RTX 3090': Chip(71e12, 24e9, 0.94e12, 32e9, float32=35.6e12, int8=284e12),
}


def find_chip(kind: str) -> Chip | None:
  """The chip of a `device_kind`, or None where the table does not know it.

  >>> find_chip('NVIDIA H100 80GB HBM3').memory
  80000000000.0
  """
  for name, chip in CHIPS.items():
    if re.search(rf'\b{name}\b(?! (Ti|D|Laptop)\b)', kind, re.IGNORECASE):
      return chip
  return None

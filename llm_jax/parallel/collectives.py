"""What devices exchange in a compiled step, as read from its HLO."""

import math
import re
from typing import NamedTuple

from llm_jax.parallel.hlo import Program

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_LIST = re.compile(r'replica_groups=\{\{([\d,]+)\}')
_NO_GROUPS = re.compile(r'replica_groups=\{\}')
_GRID = re.compile(r'replica_groups=\[\d+,(\d+)\]')
_MESH = re.compile(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}')
_PAIRS = re.compile(r'source_target_pairs=\{\{')


class Collective(NamedTuple):
  """One instruction.

  Attributes:
    kind: one of KINDS.
    bytes: size of its results on one device.
    times: how often it runs in a step; loops are counted by their trip count.
    devices: how many take part in it together.
    source: the JAX operation that it came from, or ''.
  """

  kind: str
  bytes: int
  times: int
  devices: int
  source: str

  @property
  def moved(self) -> float:
    """Bytes that a device receives in a step if devices form a ring.

    A reduction moves everything twice; the result of a reduce-scatter is one part of what moves.

    >>> Collective('all-reduce', bytes=100, times=2, devices=4, source='').moved
    300.0
    """
    share = (self.devices - 1) / max(self.devices, 1)
    factor = {'all-reduce': 2, 'reduce-scatter': self.devices}.get(self.kind, 1)
    if self.kind == 'collective-permute':
      share = 1.0
    return self.times * self.bytes * factor * share


def collectives(text: str | Program) -> list[Collective]:
  """The collectives of a compiled program.

  What TPUs send while they multiply is written in each of the fusions that do a part of it, with
  the number of their chain, and parts may be in loops of their own: it is counted as often as it
  begins. Channels do not tell, as all that `shard_map` exchanges may be on one.

  Args:
    text: `compiled.as_text()`, HLO after optimisation, or a Program that was read from it.
  """
  program = text if isinstance(text, Program) else Program(text)
  out: list[Collective] = []
  chains: dict[str, int] = {}
  for name, body in program.bodies.items():
    for one in body.values():
      kind, started = one.op.removesuffix('-start'), one.op.endswith('-start')
      if kind not in KINDS or not program.times.get(name):
        continue
      # What starts names its operands before its results, but for an all-reduce, and flags after.
      parts = one.parts if started and kind != 'all-reduce' else []
      size = sum(parts[1] if len(parts) > 1 else one.sizes)
      devices = _devices(one.rest, program.partitions)
      if kind == 'all-reduce' and name.startswith('all-reduce-scatter'):
        kind, size = 'reduce-scatter', size // devices  # how programs for TPUs write one
      if devices < 2:
        continue  # nobody else takes part
      source = one.attribute(r'op_name="([^"]*)"')
      found = Collective(kind, size, program.times[name], devices, source)
      chain = one.attribute(r'chain_id="(\d+)"')
      if chain in chains:
        out[chains[chain]] = min(out[chains[chain]], found, key=lambda c: c.times)
        continue
      if chain:
        chains[chain] = len(out)
      out.append(found)
  return out


def _devices(line: str, all_of_them: int) -> int:
  """How many take part, in any of the notations of replica groups; no group stands for all."""
  if _NO_GROUPS.search(line):
    return all_of_them
  if found := _LIST.search(line):
    return len(found[1].split(','))
  if found := _GRID.search(line):
    return int(found[1])
  if found := _MESH.search(line):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", found[2]))
  return 2 if _PAIRS.search(line) else 1

"""What devices exchange in a compiled step, as read from its HLO."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
SIZES = {
  **dict.fromkeys(('pred', 's8', 'u8', 'f8e4m3fn', 'f8e5m2'), 1),
  **dict.fromkeys(('s16', 'u16', 'f16', 'bf16'), 2),
  **dict.fromkeys(('s32', 'u32', 'f32'), 4),
  **dict.fromkeys(('s64', 'u64', 'f64', 'c64'), 8),
}
_HEADER = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_END = re.compile(r'^\}(, execution_thread=.*)?$')  # not every line that begins with }
_SHAPE = re.compile(r'\b([a-z]\w*)\[([\d,]*)\]')
_CALLS = re.compile(
  r'(?:calls|to_apply|body|condition|branch_computations)=\{?((?:%[\w.\-]+,? ?)+)'
)
_LIST = re.compile(r'replica_groups=\{\{([\d,]+)\}')
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


def collectives(text: str) -> list[Collective]:
  """The collectives of a compiled program.

  Args:
    text: `compiled.as_text()`, HLO after optimisation.
  """
  bodies = dict(_computations(text))
  times = _multiplicities(bodies, next(n for n in bodies if f'ENTRY %{n} ' in text))
  out = []
  for name, lines in bodies.items():
    for line in lines:
      found = re.search(rf' ({"|".join(KINDS)})(-start)?\(', line)
      if not found or not times.get(name):
        continue
      result = line[: found.start()].partition(' = ')[2]
      source = re.search(r'op_name="([^"]*)"', line)
      sizes = sorted(_bytes(kind, dims) for kind, dims in _SHAPE.findall(result))
      if found[2] and found[1] == 'collective-permute':
        sizes = sizes[-1:]  # what starts names its operands before its results, and flags after
      elif found[2] and found[1] == 'all-gather':
        sizes = sizes[-(len(sizes) // 2) :]
      kind, size, devices = found[1], sum(sizes), _devices(line)
      if kind == 'all-reduce' and name.startswith('all-reduce-scatter'):
        kind, size = 'reduce-scatter', size // devices  # how programs for TPUs write one
      out.append(Collective(kind, size, times[name], devices, source[1] if source else ''))
  return out


def _devices(line: str) -> int:
  """How many take part, in any of the notations of replica groups."""
  if found := _LIST.search(line):
    return len(found[1].split(','))
  if found := _GRID.search(line):
    return int(found[1])
  if found := _MESH.search(line):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", found[2]))
  return 2 if _PAIRS.search(line) else 1


def _bytes(kind: str, dims: str) -> int:
  return SIZES.get(kind, 4) * math.prod(int(d) for d in dims.split(',') if d)


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
  name, lines = '', []
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header:
      name, lines = header[1], []
    elif name and _END.match(line):
      yield name, lines
      name = ''
    elif name:
      lines.append(line)


def _trips(loop: str, bodies: dict[str, list[str]]) -> int:
  """How often a loop runs: as it says, or else the number that its condition compares with."""
  if known := re.search(r'known_trip_count\D+(\d+)', loop):
    return int(known[1])
  condition = re.search(r'condition=%([\w.\-]+)', loop)
  lines = bodies.get(condition[1], []) if condition else []
  bounds = re.findall(r's32\[\]\S* constant\((\d+)\)', '\n'.join(lines))
  return int(bounds[0]) if len(bounds) == 1 else 1


def _multiplicities(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
  """How often each computation runs; a loop without a known trip count is counted once."""
  times: dict[str, int] = {}

  def visit(name: str, count: int) -> None:
    times[name] = times.get(name, 0) + count
    for line in bodies.get(name, ()):
      trips = 1
      if ' while(' in line:
        trips = _trips(line, bodies)
      for group in _CALLS.findall(line):
        for called in re.findall(r'%([\w.\-]+)', group):
          visit(called, count * trips)

  visit(entry, 1)
  return times

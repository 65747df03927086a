"""A compiled program as text: its computations, how often each runs, and what they cost."""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

_FLOATS_OF_8 = (
  *('f8e3m4', 'f8e4m3', 'f8e4m3fn', 'f8e4m3fnuz', 'f8e4m3b11fnuz'),
  *('f8e5m2', 'f8e5m2fnuz', 'f8e8m0fnu'),
)
SIZES = {  # bytes of an element
  'token': 0,
  **dict.fromkeys(('s2', 'u2'), 0.25),
  **dict.fromkeys(('s4', 'u4', 'f4e2m1fn'), 0.5),
  **dict.fromkeys(('pred', 's8', 'u8', *_FLOATS_OF_8), 1),
  **dict.fromkeys(('s16', 'u16', 'f16', 'bf16'), 2),
  **dict.fromkeys(('s32', 'u32', 'f32'), 4),
  **dict.fromkeys(('s64', 'u64', 'f64', 'c64'), 8),
  'c128': 16,
}
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_END = re.compile(r'^\}(, execution_thread=.*)?$')  # not every line that begins with }
_NO_ESTIMATE = 2**63 - 1  # cycles
_INSTRUCTION = re.compile(r'^\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$')
_SHAPE = re.compile(r'\b([a-z]\w*)\[([\d,]*)\]')
_CALLS = re.compile(
  r'(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation)'
  r'=\{?((?:%[\w.\-]+,? ?)+)'
)
_MOST = 10**5  # trips of a loop that are followed
_SAME = ('copy', 'bitcast', 'convert', 'reshape', 'copy-start', 'copy-done')
_ARITHMETIC = {
  **dict(add=operator.add, subtract=operator.sub, multiply=operator.mul),
  **{'and': operator.and_, 'or': operator.or_, 'minimum': min, 'maximum': max},
}
_COMPARISONS = dict(
  LT=operator.lt, LE=operator.le, GT=operator.gt, GE=operator.ge, EQ=operator.eq, NE=operator.ne
)

# The number that is a part of an argument of a computation, or None where the text does not tell.
Given = Callable[[int, int | None], int | None]


class Instruction(NamedTuple):
  """One line of a computation.

  Attributes:
    name: by which others read it.
    result: the shape, or shapes, of what it gives.
    op: 'add', 'while', 'all-gather-start' and so on.
    rest: what follows the opening bracket: operands, then attributes.
  """

  name: str
  result: str
  op: str
  rest: str

  @property
  def sizes(self) -> list[int]:
    """Bytes of each array that it gives.

    >>> Instruction('a', '(f32[2,3]{1,0}, bf16[4]{0:T(8,128)})', 'tuple', '').sizes
    [24, 8]
    """
    shapes = _SHAPE.findall(self.result)
    numbers = lambda dims: math.prod(int(dim) for dim in dims.split(',') if dim)
    return [math.ceil(SIZES.get(kind, 4) * numbers(dims)) for kind, dims in shapes]

  @property
  def parts(self) -> list[list[int]]:
    """`sizes` of each element of the tuple that it gives; an array is a tuple of one.

    >>> Instruction('a', '((f32[2], s8[3]), f32[4])', 'all-gather-start', '').parts
    [[8, 3], [16]]
    """
    inner = self.result[1:-1] if self.result.startswith('(') else self.result
    found, depth = [''], 0
    for letter in inner:
      depth += {'(': 1, '{': 1, '[': 1, ')': -1, '}': -1, ']': -1}.get(letter, 0)
      if letter == ',' and not depth:
        found.append('')
      else:
        found[-1] += letter
    return [self._replace(result=text).sizes for text in found]

  @property
  def operands(self) -> list[str]:
    """The names of what it reads."""
    depth = 1
    for end, letter in enumerate(self.rest):
      depth += {'(': 1, ')': -1}.get(letter, 0)
      if not depth:
        return re.findall(r'%([\w.\-]+)', self.rest[:end])
    return []

  @property
  def calls(self) -> list[str]:
    """The computations that it runs; what only waits for them runs none."""
    if self.op in ('async-update', 'async-done'):
      return []
    return [name for group in _CALLS.findall(self.rest) for name in re.findall(r'[\w.\-]+', group)]

  def attribute(self, pattern: str) -> str:
    """What the group of a pattern stands for in its attributes, or ''."""
    found = re.search(pattern, self.rest)
    return found[1] if found else ''


class Program:
  """The computations of a compiled program.

  Attributes:
    bodies: instructions by name, of each computation.
    times: how often a computation runs in a step. A loop is counted as often as it says it runs, or
      as its condition lets it; once where the text does not tell. All branches are counted.
    fused: computations that are the inside of one instruction.
    partitions: devices that run it.
  """

  def __init__(self, text: str) -> None:
    """Reads `compiled.as_text()`, HLO after optimisation."""
    header = text.lstrip().partition('\n')[0]
    counts = re.findall(r'(?:num_partitions|replica_count)=(\d+)', header)
    self.partitions = math.prod(map(int, counts))
    self.bodies: dict[str, Mapping[str, Instruction]] = {}
    self._roots: dict[str, str] = {}
    entry = ''
    for first, name, lines in _computations(text):
      entry = name if first else entry
      self.bodies[name] = body = {}
      for line in lines:
        if found := _INSTRUCTION.match(line):
          body[found[2]] = Instruction(*found.group(2, 3, 4, 5))
          if found[1]:
            self._roots[name] = found[2]
    self.times: dict[str, int] = {}
    self.fused: set[str] = set()
    self._visit(entry, 1, lambda n, part: None)

  def cycles(self) -> int:
    """Cycles of a step on one chip, as the compiler for TPUs estimates them.

    It does so for what it writes itself: kernels and exchanges have no estimate, or the largest
    number of 64 bits in its place.
    """
    estimate = lambda one: int(one.attribute(r'"estimated_cycles":"(\d+)"') or 0)
    return self._total(lambda one: found if (found := estimate(one)) < _NO_ESTIMATE else 0)

  def bytes_copied(self) -> int:
    """Bytes that are written in a step for no other reason than another order in memory."""
    return self._total(lambda one: sum(one.sizes) if one.op == 'copy' else 0)

  def _total(self, cost: Callable[[Instruction], int]) -> int:
    """The sum of a cost over all instructions that run, as often as they do."""
    return sum(
      self.times.get(name, 0) * cost(one)
      for name, body in self.bodies.items()
      if name not in self.fused
      for one in body.values()
    )

  def _visit(self, name: str, count: int, given: Given) -> None:
    self.times[name] = self.times.get(name, 0) + count
    for one in self.bodies.get(name, {}).values():
      calls = one.calls
      if not calls:
        continue
      inside, trips = self._arguments(name, one, given), 1
      if one.op == 'while':
        trips, inside = self._trips(one, inside), self._kept(one, inside)
      elif one.op == 'fusion':
        self.fused.update(calls)
      for called in calls:
        self._visit(called, count * trips, inside)

  def _arguments(self, where: str, one: Instruction, given: Given) -> Given:
    operands = one.operands
    return lambda n, part: self._number(where, operands[n], given, part)

  def _kept(self, loop: Instruction, start: Given) -> Given:
    """What a loop is given as far as no trip changes it."""
    body = loop.attribute(r'body=%([\w.\-]+)')
    return lambda n, part: start(n, part) if self._passes(body, part) else None

  def _passes(self, body: str, part: int | None) -> bool:
    """Whether a part of the state of a loop stays what it was."""
    mark = 1  # any number: what comes out is what went in
    same = lambda n, asked: mark if asked == part else None
    return part is not None and self._number(body, self._roots.get(body, ''), same, part) == mark

  def _trips(self, loop: Instruction, start: Given) -> int:
    """How often a loop runs: as it says, or else until its condition fails."""
    if known := loop.attribute(r'known_trip_count\D+(\d+)'):
      return int(known)
    condition = loop.attribute(r'condition=%([\w.\-]+)')
    body = loop.attribute(r'body=%([\w.\-]+)')
    asked: list[int] = []

    def ask(n: int, part: int | None) -> int:
      asked.append(-1 if part is None else part)
      return 0

    goes_on = lambda given: self._number(condition, self._roots.get(condition, ''), given)
    goes_on(ask)
    changing = {part for part in asked if not self._passes(body, part)}
    if len(changing) != 1:
      return 1
    (counter,) = changing
    kept, value = self._kept(loop, start), start(0, counter)
    for trip in range(_MOST):
      state = lambda n, part, value=value: value if part == counter else kept(n, part)
      going = None if value is None else goes_on(state)
      if going is None:
        return 1
      if not going:
        return trip
      value = self._number(body, self._roots[body], state, counter)
    return 1

  def _number(self, where: str, name: str, given: Given, part: int | None = None) -> int | None:
    """The whole number that an instruction gives, or a part of it does, as far as the text tells.

    Args:
      where: its computation.
      name: of the instruction.
      given: what the computation is called with.
      part: of a tuple.
    """
    one = self.bodies.get(where, {}).get(name)
    if one is None:
      return None
    read = lambda n, part=None: self._number(where, one.operands[n], given, part)
    if one.op == 'constant':
      return int(text) if (text := one.attribute(r'^(-?\d+)\)')) else None
    if one.op == 'parameter':
      return given(int(one.attribute(r'^(\d+)')), part)
    if one.op == 'get-tuple-element':
      return read(0, int(one.attribute(r'index=(\d+)')))
    if one.op == 'tuple' and part is not None:
      return read(part)
    if one.op in _SAME:
      return read(0, part)
    if one.op in ('fusion', 'call'):
      called = one.calls[0]
      return self._number(
        called, self._roots.get(called, ''), self._arguments(where, one, given), part
      )
    two = {**_ARITHMETIC, 'compare': _COMPARISONS.get(one.attribute(r'direction=(\w+)'))}
    if act := two.get(one.op):
      a, b = read(0), read(1)
      return None if a is None or b is None else int(act(a, b))
    return None


def _computations(text: str) -> Iterator[tuple[bool, str, list[str]]]:
  """Whether it is the entry, name and lines of each."""
  first, name, lines = False, '', []
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header:
      first, name, lines = bool(header[1]), header[2], []
    elif name and _END.match(line):
      yield first, name, lines
      name = ''
    elif name:
      lines.append(line)

"""Where the time of some steps went: a trace of `jax.profiler`, divided among parts of the model.

Every moment belongs to one part, so shares add up to the time of the steps. While a device works it
belongs to what is computed: an operation of the step to the part of the model that its name has
(flax and `jax.named_scope` write it into the compiled program), another program to what the host
was at, such as an annotator. While the device has nothing to do it belongs to what the host was at.
"""

import collections
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm_jax.training.spans import PREFIX, WINDOW

IDLE = 'idle'  # nothing is computed, and the host is at nothing that has a name
REST = 'rest'
# Part of the model -> what a scope in the name of an operation is called; the innermost decides.
PARTS = {
  'optimizer': r'optimizer',
  'attention': r'\w*(attention|attn)\w*',
  'MLP': r'\w*(mlp|ffn|feed_forward|experts)\w*',
  'embedding': r'(\w+\.)?embed(ding)?',
  'head and loss': r'(\w+\.)?unembed|head|final_norm|loss',
  'rest': r'Transformer\.\w+',
}
LINES = 'XLA Ops'  # of a TPU, on which others tell the same time again
TOLD_AGAIN = re.compile(r'XLA |Steps|Framework|Source')  # such lines of other devices
HOLDS_OTHERS = re.compile(r'(while|call|conditional|async-start|async-done)\b')


class Interval(NamedTuple):
  """What something took, in seconds of a clock that all of a trace share.

  Attributes:
    start, end: seconds.
    name: of a span, or of an instruction of the compiled program.
    program: of the instruction; '' where the trace does not say.
  """

  start: float
  end: float
  name: str
  program: str = ''


Lines = Sequence[Sequence[Interval]]  # of a device; those of one line follow or hold each other


class Trace(NamedTuple):
  """What a trace knows.

  Attributes:
    window: the steps.
    devices: operations of each device, by its lines.
    spans: what the host was at; they follow or hold each other.
  """

  window: Interval
  devices: Sequence[Lines]
  spans: Sequence[Interval]


class Divided(NamedTuple):
  """The time of the window.

  Attributes:
    parts: part -> seconds, which add up to those of the window.
    operations: (instruction, part) -> seconds, of what was computed.
  """

  parts: Mapping[str, float]
  operations: Mapping[tuple[str, str], float]


def read(path: Path) -> Trace:
  """The trace in a file `.xplane.pb`."""
  from jax.profiler import ProfileData

  devices, spans = [], []
  for plane in ProfileData.from_file(str(path)).planes:
    lines = [*plane.lines]
    if plane.name.startswith('/device:'):
      own = [line for line in lines if line.name == LINES]
      own = own or [line for line in lines if not TOLD_AGAIN.match(line.name)]
      devices.append([[_operation(e) for e in line.events] for line in own])
    elif plane.name.startswith('/host:CPU'):
      computed = []  # on CPUs, where devices are threads of this process
      for line in lines:
        told = [(event, dict(event.stats)) for event in line.events if not _is_end(event.name)]
        computed.append([_operation(e, stats) for e, stats in told if 'hlo_op' in stats])
        spans += [_interval(e, e.name) for e, _ in told if e.name.startswith(PREFIX)]
      devices += [computed] if any(computed) else []
  (window,) = (span for span in spans if span.name == WINDOW)
  return Trace(window, devices, [span for span in spans if span is not window])


def divide(trace: Trace, part_of: Callable[[Interval], str | None], *, idle: str = IDLE) -> Divided:
  """Divides the window among parts; of several devices it is the mean.

  At a moment at which several operations are at work, each gets an equal share of it. Those that
  only hold others, as loops do, get none as long as one of them works.

  Args:
    trace: of the steps.
    part_of: of an operation; None belongs to what the host is at.
    idle: the part where nothing is at work.
  """
  parts: dict[str, float] = collections.defaultdict(float)
  operations: dict[tuple[str, str], float] = collections.defaultdict(float)
  devices = trace.devices or [()]
  for device in devices:
    for seconds, host, active in _moments(trace.window, device, trace.spans):
      at = host.name.removeprefix(PREFIX) if host else idle
      if not active:
        parts[at] += seconds / len(devices)
      for one in active:
        part = part_of(one) or (at if host else REST)
        parts[part] += seconds / len(active) / len(devices)
        operations[one.name, part] += seconds / len(active) / len(devices)
  return Divided(parts, operations)


def part_of_model(op_name: str) -> str | None:
  """The part that the scopes of an operation name; None for none.

  >>> part_of_model('jit(train_step)/transpose(jvp(loss))/Transformer.hidden/attention/dot_general')
  'attention'
  >>> part_of_model('jit(train_step)/jvp(loss)/reduce_sum')
  'head and loss'
  """
  for scope in reversed(re.split(r'[/()]+', op_name)):
    for part, pattern in PARTS.items():
      if re.fullmatch(pattern, scope):
        return part
  return None


def op_names(program: str) -> dict[str, str]:
  """Instruction -> the name of the operation it was made of, from the text of a compiled program.

  Where the compiler wrote none, it is that of most of the instructions that were joined in it, or
  else of what it reads.
  """
  found: dict[str, str] = {}
  inside: dict[str, collections.Counter[str]] = {}  # computation -> names of its operations
  within: collections.Counter[str] = collections.Counter()
  for line in program.splitlines():
    if head := re.match(r'(?:ENTRY )?%?([\w.-]+) .*\{$', line):
      within = inside.setdefault(head[1], collections.Counter())
      continue
    if not (one := re.match(r'\s+(?:ROOT )?%?([\w.-]+) = ', line)):
      continue
    name, said = one[1], re.search(r'op_name="([^"]+)"', line)
    called = re.search(r'(?:calls|to_apply)=%?([\w.-]+)', line)
    if said:
      found[name] = said[1]
      within[said[1]] += 1
    elif called and (most := inside.get(called[1])):
      found[name] = most.most_common(1)[0][0]
    else:
      reads = re.findall(r'%([\w.-]+)', line[one.end() :].partition('), ')[0])
      if reads and reads[0] in found:
        found[name] = found[reads[0]]
  return found


def _moments(
  window: Interval, device: Lines, spans: Sequence[Interval]
) -> Iterable[tuple[float, Interval | None, Sequence[Interval]]]:
  """(seconds, the innermost span, operations at work) of all stretches in which neither changes."""
  changes = []
  for number, line in enumerate((spans, *device)):
    for one in line:
      start, end = max(one.start, window.start), min(one.end, window.end)
      if end > start:
        changes += [(start, 1, number, one), (end, 0, number, one)]
  changes.sort(key=lambda change: (change[0], change[1], -change[3].end))
  opened: list[list[Interval]] = [[] for _ in range(1 + len(device))]
  before = window.start
  for at, opens, number, one in (*changes, (window.end, 0, 0, window)):
    if at > before:
      inner = [line[-1] for line in opened[1:] if line]
      alone = [x for x in inner if not HOLDS_OTHERS.match(x.name)]
      yield at - before, opened[0][-1] if opened[0] else None, alone or inner
      before = at
    if opens:
      opened[number].append(one)
    elif one in opened[number]:
      opened[number].remove(one)


def _is_end(name: str) -> bool:
  return name.startswith('end: ')  # a mark on CPUs, behind an operation


def _operation(event: Any, stats: Mapping[str, Any] | None = None) -> Interval:
  stats = dict(event.stats) if stats is None else stats
  name = stats.get('hlo_op') or event.name.partition(' = ')[0].lstrip('%')
  return _interval(event, str(name), str(stats.get('hlo_module', '')))


def _interval(event: Any, name: str, program: str = '') -> Interval:
  start = event.start_ns * 1e-9
  return Interval(start, start + event.duration_ns * 1e-9, name, program)

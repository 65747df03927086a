"""Runs a program that a model wrote, with limits of time, memory, files and network.

`run` gives it an empty folder, which is deleted afterwards, no environment, no input, and a fork of
an interpreter that has seen no other program and has no packages. What confines it depends on
the system, and `protections()` says what does:

    limits      processor time, address space, size and number of open files (all systems)
    nobody      root runs it as the user nobody (Linux, where nobody can read Python's library)
    namespaces  it has a machine of its own without network, and its folder lies in memory (Linux,
                where users or containers may make namespaces)
    landlock    it opens nothing outside of its folder but Python's library (Linux 5.13)
    seccomp     no sockets, no new processes, no signals to others, and only the system calls that
                are listed (Linux on x86_64 and aarch64); without landlock it writes no file at all
    audit hook  the same asked of Python itself, where one of the two above is missing

What this does not protect from is said in docs/security.md. The tests are run by another process
than the program, which has neither the tests nor a way to report. It can pass by giving the right
answers, and by nothing that it prints, raises, replaces or ends.
"""

import contextlib
import functools
import json
import math
import os
import selectors
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from llm_jax.rewards.confined.server import Server
from llm_jax.types import BadInput

LAYERS = ('nobody', 'namespaces', 'landlock', 'seccomp', 'audit hook')
_STARTUP = 30.0  # seconds that a machine with much to do may take before a program starts
_DISK = 16 << 20  # bytes of a file
_server = Server()


class Ran(NamedTuple):
  """What became of a program.

  Attributes:
    outcome: 'passed': it and its tests reached their end. 'failed': something was raised.
      'timeout', 'memory', 'output': it wanted more than it may have. 'exited': it ended in the
      midst, whatever its exit status. 'refused': it was not run, since it could not be confined.
    stdout: what it printed, up to the limit. Whoever shows it has to escape it.
    error: what was raised, as 'ValueError: ...', or what ended it. So is this.
    protections: what confined it.
  """

  outcome: str
  stdout: str = ''
  error: str = ''
  protections: tuple[str, ...] = ()

  @property
  def passed(self) -> bool:
    """Whether the outcome is 'passed'."""
    return self.outcome == 'passed'


def run(
  program: str,
  tests: str = '',
  *,
  before: str = '',
  names: Sequence[str] = (),
  seconds: float = 2.0,
  megabytes: int = 512,
  output_bytes: int = 1 << 16,
  layers: Sequence[str] = LAYERS,
  need: Sequence[str] = (),
) -> Ran:
  """Runs `before` and `program`, and then `tests` beside it.

  The tests call what the program defines by name. Numbers, texts, lists, tuples, sets and
  dictionaries cross over as plain values. Of anything else the tests get a handle: its attributes,
  items and calls are answered by the program, and it equals only itself. Without tests, 'passed'
  means that the program says it reached its end, and a program that knows how can say so falsely.

  >>> run('def twice(x): return x + x', 'assert twice(3) == 6').outcome
  'passed'
  >>> run('def twice(x): return x', 'assert twice(3) == 6')[:3]
  ('failed', '', 'AssertionError')
  >>> run('print("hello")').stdout
  'hello\\n'

  Args:
    program: Python 3 that may import the standard library.
    tests: Python; it passes when its end is reached.
    before: what both may use, such as imports and helpers. Its functions in the tests are not those
      of the program, which may have replaced them.
    names: what the tests take from the program even where `before` defines it.
    seconds: of real time after the interpreter has started, for program and tests.
    megabytes: of address space (2^20 bytes) of each of the two processes.
    output_bytes: that may be printed.
    layers: protections to use; all by default.
    need: protections without which nothing is run.

  Raises:
    BadInput: there is no such protection, or the system is not Linux or macOS.
  """
  if sys.platform not in ('linux', 'darwin'):
    raise BadInput(f'sandbox: programs run on Linux and macOS, and not on {sys.platform}')
  if wrong := {*layers, *need} - {*LAYERS, 'limits'}:
    raise BadInput(f'sandbox: no protection {min(wrong)!r}; choose from: {", ".join(LAYERS)}')
  module = 'program' if tests else '__main__'
  both = {'program': f'{before}\n{program}' if before else program, 'module': module}
  judged = {'before': before, 'tests': tests, 'names': [*names]}
  folder = tempfile.mkdtemp(prefix='sandbox-')
  job = dict(
    folder=folder,
    seconds=math.ceil(seconds) + 1,
    memory=megabytes << 20,
    disk=_DISK,
    layers=[*layers],
    need=[*need],
  )
  try:
    with _file(both) as first, _file(judged) as second, _Ends() as ends:
      _server.start(job, [ends.output, ends.theirs.fileno(), first, second, ends.report])
      ends.give_away()
      return _watched(ends, seconds, output_bytes)
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def run_many(programs: Sequence[dict[str, Any]], *, workers: int | None = None) -> list[Ran]:
  """`run(**program)` of many, side by side, in their order.

  Args:
    programs: the arguments of each.
    workers: programs at a time; by default the number of cores.
  """
  workers = workers or len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count()
  with ThreadPoolExecutor(workers) as pool:
    return list(pool.map(lambda program: run(**program), programs))


@functools.cache
def protections() -> tuple[str, ...]:
  """What confines a program on this machine.

  >>> 'limits' in protections()
  True
  """
  return run('').protections


@contextlib.contextmanager
def _file(value: Any):
  """The number of an open file, which has no name, with a value as JSON."""
  with tempfile.TemporaryFile() as file:
    file.write(json.dumps(value).encode())
    file.seek(0)
    yield file.fileno()


class _Ends:
  """The ends of pipes from and to the processes of a program.

  Attributes:
    printed, reported: to read from.
    output, report: what they write to.
    theirs: half of a socket pair that is open as long as any of them is there.
  """

  def __init__(self) -> None:
    self.printed, self.output = os.pipe()
    self.reported, self.report = os.pipe()
    self._ours, self.theirs = socket.socketpair()
    self._given = False

  def __enter__(self) -> '_Ends':
    return self

  def give_away(self) -> None:
    """Closes what the processes have now."""
    for file in () if self._given else (self.output, self.report):
      os.close(file)
    self.theirs.close()
    self._given = True

  def __exit__(self, *_: object) -> None:
    """Ends all processes, and waits for their end."""
    self.give_away()
    with self._ours, contextlib.suppress(OSError):
      self._ours.settimeout(_STARTUP)
      self._ours.shutdown(socket.SHUT_WR)
      self._ours.recv(1)
    os.close(self.printed)
    os.close(self.reported)


def _watched(ends: _Ends, seconds: float, output_bytes: int) -> Ran:
  """Waits for what the judge reports, and for no longer than it may take."""
  printed, reported = bytearray(), bytearray()
  taken = {ends.printed: printed, ends.reported: reported}
  deadline, started = time.monotonic() + _STARTUP, False
  with selectors.DefaultSelector() as selector:
    for file in taken:
      os.set_blocking(file, False)
      selector.register(file, selectors.EVENT_READ)
    outcome = ''
    while not outcome:
      left = deadline - time.monotonic()
      ready = selector.select(max(left, 0))
      if not ready and left <= 0:
        outcome = 'timeout' if started else 'refused'
      for key, _ in ready:
        part = os.read(key.fd, 1 << 16)
        taken[key.fd].extend(part)
        if not part:
          selector.unregister(key.fd)
      if not started and b'\n' in reported:
        deadline, started = time.monotonic() + seconds, True
      if len(printed) > output_bytes:
        outcome = 'output'
      elif reported.count(b'\n') == 2 or ends.reported not in selector.get_map():
        outcome = 'reported'
    with contextlib.suppress(BlockingIOError):
      printed.extend(os.read(ends.printed, 1 << 16))
  stdout = printed[:output_bytes].decode(errors='replace')
  lines = reported.splitlines()
  if outcome != 'reported':
    return Ran(outcome, stdout)
  if len(lines) < 2:
    return Ran('exited' if started else 'refused', stdout, 'the judge ended')
  found = json.loads(lines[1])
  return Ran(found['outcome'], stdout, found['error'], tuple(found['active']))

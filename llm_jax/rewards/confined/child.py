"""Runs a program in one process and its tests in another, both confined; they exchange values.

The first process makes namespaces and starts the second, which starts the third and judges it:

    guard      waits, and ends the others when the judge is done or the caller hangs up
    judge      reads the tests and calls the program's functions by a pipe
    candidate  runs the program and answers; it never had the tests, nor the way to report

This file is the only place of llm_jax that runs text as Python.
"""

import builtins
import contextlib
import functools
import json
import os
import resource
import signal
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_jax.rewards.confined import hook, kernel
from llm_jax.rewards.confined.peer import Gone, Peer

LAYERS = ('nobody', 'namespaces', 'landlock', 'seccomp', 'audit hook')
_FILES = 64  # open at a time
_TREE = 0x400  # ast.PyCF_ONLY_AST; the module ast itself takes long to import
_REFUSED = 77  # exit status of a process that is not confined as it has to be


class Job(NamedTuple):
  """What a process is told on its command line.

  Attributes:
    folder: an empty folder of its own.
    seconds: of processor time; the caller measures real time.
    memory: bytes of address space of each process.
    disk: bytes of a file, and of the folder where it lies in memory.
    layers: those of LAYERS to use.
    need: those that have to work.
    program: number of an open file with the program.
    tests: of one with JSON: `before`, `tests` and `names` of rewards/sandbox.py:run.
    status: of a pipe to report to.
  """

  folder: str
  seconds: int
  memory: int
  disk: int
  layers: Sequence[str]
  need: Sequence[str]
  program: int
  tests: int
  status: int


def main(options: Mapping[str, Any], end: int, files: Sequence[int]) -> None:
  """The guard.

  Args:
    options: of the job.
    end: number of one half of a socket pair; all have to end when the caller shuts down the other,
      and the caller sees this half close when they have.
    files: the numbers of the job.
  """
  job = Job(**options, program=files[0], tests=files[1], status=files[2])
  os.chdir(job.folder)
  readable = readable_files()
  active = _limit(job)
  if 'nobody' in job.layers and kernel.become_nobody(job.folder, readable):
    active.append('nobody')
  kernel.adopt()
  if 'namespaces' in job.layers and kernel.new_namespaces(job.folder, job.disk):
    active.append('namespaces')
  _report(job, started=True)
  judge = os.fork()
  if not judge:
    os.setpgid(0, 0)
    os.close(end)
    _leave_with(_judge, job, active, readable)
  for file in (job.program, job.tests, job.status):
    os.close(file)
  os.read(end, 1)
  with contextlib.suppress(ProcessLookupError):
    os.kill(judge, signal.SIGKILL)
    os.killpg(judge, signal.SIGKILL)
  with contextlib.suppress(ChildProcessError):
    while True:
      os.wait()


def _leave_with(function: Any, *args: Any) -> None:
  """Runs a function in a process that ends with it, whatever happens."""
  kernel.die_with_parent()
  try:
    function(*args)
  finally:
    os._exit(1)


def _judge(job: Job, active: list[str], readable: Sequence[str]) -> None:
  (from_judge, to_candidate), (from_candidate, to_judge) = os.pipe(), os.pipe()
  candidate = os.fork()
  if not candidate:
    for file in (job.tests, job.status, to_candidate, from_candidate):
      os.close(file)
    _leave_with(_candidate, job, from_judge, to_judge, readable)
  for file in (job.program, from_judge, to_judge):
    os.close(file)
  active += _confine(job, readable)
  if {*job.need} - {*active}:
    missing = ', '.join(sorted({*job.need} - {*active}))
    return _report(job, outcome='refused', error=f'{missing}: not there', active=active)
  peer = Peer(from_candidate, to_candidate)
  outcome, error = _judged(peer, _text_of(job.tests))
  if outcome == 'exited':
    outcome, error = _why(candidate, error)
  return _report(job, outcome=outcome, error=error, active=active)


def _judged(peer: Peer, text: str) -> tuple[str, str]:
  """The outcome of the tests, and what was raised."""
  sources = json.loads(text)
  names = Names(peer)
  space = {'__builtins__': names, '__name__': 'tests'}
  try:
    peer.wait()  # for the end of the program
    exec(_compiled(_trusted(sources['before']), 'before'), space)
    for name in sources['names']:
      space[name] = peer.name(name)
    exec(_compiled(sources['tests'], 'tests'), space)
  except Gone:
    pass
  except MemoryError:
    return 'memory', 'MemoryError'
  except BaseException as error:
    if not peer.gone:
      return 'failed', _shown(error)
  return ('exited', peer.gone) if peer.gone else ('passed', '')


class Names(dict):
  """Python's own names, and those that only the program has."""

  def __init__(self, peer: Peer) -> None:
    super().__init__(vars(builtins))
    self._peer = peer

  def __missing__(self, name: str) -> Any:
    return self._peer.name(name)


def _trusted(before: str) -> Any:
  """What comes before the program, without the classes: values of these are made by the program."""
  try:
    tree: Any = compile(before, '<before>', 'exec', _TREE, dont_inherit=True)
  except SyntaxError:
    return ''  # the beginning of a program, which its answer ends
  kinds = [type(node).__name__ for node in tree.body]
  if 'ClassDef' in kinds:
    both = zip(tree.body, kinds, strict=True)
    tree.body = [node for node, kind in both if kind.startswith('Import')]
  return tree


def _candidate(job: Job, read: int, write: int, readable: Sequence[str]) -> None:
  text = _text_of(job.program)
  if {*job.need} - {*_confine(job, readable), 'namespaces', 'nobody', 'limits'}:
    os._exit(_REFUSED)
  sources = json.loads(text)
  module = types.ModuleType(sources['module'])
  sys.modules[sources['module']] = module
  peer = Peer(read, write, vars(module), _flush)
  error = None
  try:
    exec(_compiled(sources['program'], 'program'), vars(module))
  except BaseException as raised:
    error = raised
  _flush()
  peer.ready(error)
  with contextlib.suppress(Gone):
    peer.serve()
  os._exit(0)


def _compiled(text: Any, name: str) -> Any:
  return compile(text, f'<{name}>', 'exec', dont_inherit=True)


def _flush() -> None:
  with contextlib.suppress(Exception):
    sys.stdout.flush()


def _why(candidate: int, error: str) -> tuple[str, str]:
  """What ended the candidate."""
  status = os.waitstatus_to_exitcode(os.waitpid(candidate, 0)[1])
  if status == _REFUSED:
    return 'refused', 'the program could not be confined'
  if status in (-signal.SIGXCPU, -signal.SIGKILL):
    return 'timeout', ''
  signals = {-number: number.name for number in signal.Signals}
  return 'exited', f'{error}: {signals.get(status, f"exit status {status}")}'


def _shown(error: BaseException) -> str:
  try:
    return f'{type(error).__name__}: {error}'[:2000].removesuffix(': ')
  except Exception:
    return type(error).__name__


# --- what a process may do ---------------------------------------------------------------------


def _limit(job: Job) -> list[str]:
  """Limits that children inherit; what a system does not know is left out."""
  limits = {
    'RLIMIT_CPU': job.seconds,
    'RLIMIT_AS': job.memory,
    'RLIMIT_FSIZE': job.disk,
    'RLIMIT_NOFILE': _FILES,
    'RLIMIT_CORE': 0,
  }
  for name, value in limits.items():
    with contextlib.suppress(AttributeError, ValueError, OSError):
      resource.setrlimit(getattr(resource, name), (value, value))
  return ['limits']


def _confine(job: Job, readable: Sequence[str]) -> list[str]:
  """Takes from this process what it does not need; the layers that work."""
  active = []
  kernel.drop_rights()
  abi = kernel.landlock(job.folder, readable) if 'landlock' in job.layers else 0
  if abi:
    active.append('landlock')
  if 'seccomp' in job.layers and kernel.seccomp(os.getpid(), writes=abi >= 3):
    active.append('seccomp')
  else:
    with contextlib.suppress(ValueError, OSError):
      resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # no children
  if 'audit hook' in job.layers and len(active) < 2:
    hook.install(job.folder, readable)
    active.append('audit hook')
  return active


@functools.cache
def readable_files() -> list[str]:
  """Folders and files that Python's own modules need."""
  library = os.path.dirname(os.path.realpath(os.__file__))
  system = ('/lib', '/lib64', '/usr/lib', '/usr/lib64', '/usr/local/lib', '/usr/share/zoneinfo')
  files = ('/etc/ld.so.cache', '/etc/localtime', '/dev/zero', '/dev/random', '/dev/urandom')
  own = os.path.join(os.path.realpath(sys.base_exec_prefix), 'lib')
  return [path for path in (library, own, *system, *files) if os.path.exists(path)]


def _text_of(file: int) -> str:
  with os.fdopen(file, encoding='utf-8', errors='surrogatepass') as opened:
    return opened.read()


def _report(job: Job, **fields: Any) -> None:
  with open(job.status, 'w', closefd=False) as file:
    file.write(json.dumps(fields) + '\n')

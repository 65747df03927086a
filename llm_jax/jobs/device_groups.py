"""The shards of a comparison as processes of this host, each with a group of its devices.

A process is given the command line of this one as a shard. It sees the devices of its group and no
others, so a run takes them as if there were no more. One that is killed is started again and goes
on from what is finished; when this process ends, however that is, the others save and leave.
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from llm_jax.jobs.shards import shard_of
from llm_jax.text.terminal import say
from llm_jax.training.loop import Interrupted
from llm_jax.types import BadInput

COUNT = 'import jax; print("devices", jax.default_backend(), jax.local_device_count())'
HOST_DEVICES = 'xla_force_host_platform_device_count'  # of XLA_FLAGS, where CPUs stand for devices
VISIBLE = ('JAX_CUDA_VISIBLE_DEVICES', 'JAX_ROCM_VISIBLE_DEVICES')
LOOK = 0.2  # seconds between two looks at the processes
LEAVE = 120  # seconds that a process has to save what it is at
TRIES = 3  # for a process that is killed from outside, as long as it ends no run


class Member:
  """The process of a group, and what it has said.

  Args:
    number: of the group, from 1.
    words: its command line, without the program.
    environment: what makes it see its own devices.
  """

  def __init__(self, number: int, words: Sequence[str], environment: Mapping[str, str]) -> None:
    self.number, self._words = number, [*words]
    self._environment = {**os.environ, **environment}
    self._killed, self.over, self.failure = 0, False, ''
    self._start()

  def look(self) -> None:
    """Says what the process has said, and starts it again if it was killed."""
    code = self._process.poll()
    self._tell()
    if code is None or self.over:
      return
    if code < 0 and (name := self._again(-code)):
      say(f'[{self.number}] killed by {name}; it is started again')
      return self._start()
    self.over = True
    if code:
      last = self._last.removeprefix('error: ')
      self.failure = f'killed {TRIES} times at the same run' if code < 0 else last

  def end(self) -> None:
    """Asks the process to save and to leave, and waits for it."""
    if self._process.poll() is None:
      self._process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(LEAVE)
    self._process.kill()
    self._process.wait()
    self._tell()

  def _start(self) -> None:
    self._said: Any = tempfile.TemporaryFile()  # noqa: SIM115, the process writes to it
    self._at, self._last, self._begun = 0, '', 0
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'llm_jax.main', *self._words],
      stdin=subprocess.DEVNULL,
      stdout=self._said,
      stderr=subprocess.STDOUT,
      env=self._environment,
      start_new_session=True,  # Ctrl-C is for this process, which tells the others
      preexec_fn=_leave_with_parent,
    )

  def _again(self, number: int) -> str:
    """The name of the signal that killed the process; '' if it is given up."""
    self._killed = 1 if self._begun > 1 else self._killed + 1
    return signal.Signals(number).name if self._killed < TRIES else ''

  def _tell(self) -> None:
    """Says the whole lines that are new."""
    data = os.pread(self._said.fileno(), 2**20, self._at)
    lines = data[: data.rfind(b'\n') + 1]
    self._at += len(lines)
    for line in lines.decode(errors='replace').splitlines():
      self._begun += line.startswith('== ')
      self._last = line.strip() or self._last
      if line.strip():
        say(f'[{self.number}] {line}')


def run(config: Any) -> None:
  """Makes the runs of a comparison on `config.groups` groups of devices, and its answer.

  Raises:
    BadInput: the devices cannot be divided so, or a process failed.
    Interrupted: a signal came; every process has saved what it was at.
  """
  count, shard, words = config.groups, shard_of(config.get('shard')), _words()
  places = environments(count)
  members: list[Member] = []
  with _asked() as asked:
    try:
      for i, place in enumerate(places):
        part = f'{(shard.number - 1) * count + i + 1}/{shard.count * count}'
        members.append(
          Member(i + 1, [*words, '--config.groups=1', f'--config.shard={part}'], place)
        )
      while not all(member.over for member in members):
        for member in members:
          member.look()
          if member.failure:
            raise BadInput(f'groups: process {member.number} failed: {member.failure}')
        if asked:
          raise Interrupted(
            f'{signal.Signals(asked[0]).name}: every group has saved what it was at; give the same '
            'command again, and what was finished is kept'
          )
        time.sleep(LOOK)
    finally:
      for member in members:
        member.end()


def check() -> None:
  """What can be known without looking at the devices, which the processes are to have.

  Raises:
    BadInput: naming what would work.
  """
  if jax.distributed.is_initialized():
    raise BadInput(
      'groups: they divide the devices of one host, and there are several; give each host a '
      'command of its own, with --config.shard'
    )
  _words()


def environments(count: int) -> list[dict[str, str]]:
  """What makes the processes of so many groups see their own devices, and nothing else.

  Raises:
    BadInput: the devices cannot be divided.
  """
  kind, there = _devices()
  if there % count:
    cure = f'--config.groups={max(n for n in range(1, count) if not there % n)}'
    if kind == 'cpu':
      cure += f', or divide CPUs by XLA_FLAGS=--{HOST_DEVICES}={count}'
    raise BadInput(
      f'groups: {there} device{"s" * (there > 1)} ({kind}) cannot be divided by {count}; use {cure}'
    )
  each = there // count
  if kind == 'cpu':
    flags = re.sub(rf'--{HOST_DEVICES}=\d+', '', os.environ.get('XLA_FLAGS', ''))
    return [{'XLA_FLAGS': f'{flags} --{HOST_DEVICES}={each}'.strip()}] * count
  if kind != 'gpu':
    raise BadInput(
      f'groups: only GPUs and CPUs of a host are divided, and these devices are {kind}; use '
      '--config.shard on several hosts'
    )
  given = next(filter(None, map(os.environ.get, VISIBLE)), None)
  names = given.split(',') if given and given != 'all' else [*map(str, range(there))]
  parts = (','.join(names[i * each : (i + 1) * each]) for i in range(count))
  return [dict.fromkeys(VISIBLE, part) for part in parts]


def _devices() -> tuple[str, int]:
  """Kind and number of the devices; another process looks, since whoever looks takes them."""
  found = subprocess.run([sys.executable, '-c', COUNT], capture_output=True, text=True)
  told = re.search(r'^devices (\w+) (\d+)$', found.stdout, re.MULTILINE)
  if not told:
    said = (found.stderr.strip().splitlines() or ['nothing'])[-1]
    raise BadInput(f'groups: JAX finds no devices here; it says: {said}')
  return told[1], int(told[2])


def _words() -> list[str]:
  """The command line of this process, but for what differs between groups."""
  words = sys.argv[1:]
  if not any(word == '--config' or word.startswith('--config=') for word in words):
    raise BadInput('groups: they are processes of the command line; run python -m llm_jax.main')
  return [w for w in words if not w.startswith(('--config.groups=', '--config.shard='))]


def _leave_with_parent() -> None:
  """In a new process, before it does anything: SIGTERM comes when its parent ends."""
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _asked() -> Iterator[list[int]]:
  """The signals that came in this context and ask to leave."""
  came: list[int] = []
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {n: signal.signal(n, lambda number, frame: came.append(number)) for n in numbers}
  try:
    yield came
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)

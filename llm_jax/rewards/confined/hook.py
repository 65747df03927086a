"""Refuses in Python what the kernel of this machine does not refuse: an audit hook, PEP 578.

It stops accidents and simple attempts. Whoever knows how can get around it, since it runs inside of
what it watches.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

# The first part of an event's name, or all of it: "Audit events table" of Python's manual.
_REFUSED = {
  *('socket', 'subprocess', 'ctypes', 'pty', 'fcntl', 'resource', 'syslog', 'webbrowser', 'winreg'),
  *('os.system', 'os.exec', 'os.fork', 'os.forkpty', 'os.posix_spawn', 'os.spawn', 'os.startfile'),
  *('os.kill', 'os.killpg', 'os.chmod', 'os.chown', 'os.chflags', 'os.link', 'os.symlink'),
  *('os.lockf', 'os.setxattr', 'os.removexattr', 'os.utime', 'signal.pthread_kill'),
}  # fmt: skip
_PATHS = {
  *('os.mkdir', 'os.remove', 'os.rename', 'os.rmdir', 'os.truncate', 'os.chdir', 'os.listdir'),
  *('os.scandir', 'os.walk', 'os.fwalk', 'glob.glob'),
}  # fmt: skip
_MODULES = {'ctypes', '_ctypes', '_posixsubprocess', '_posixshmem', '_multiprocessing', 'cffi'}
_OURS = 'llm_jax'  # whose modules reach what is refused
_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def install(folder: str, readable: Sequence[str]) -> None:
  """From now on this process reads only `readable` and `folder`, and writes only in the latter."""
  folder = os.path.realpath(folder)
  allowed = tuple(os.path.realpath(path) for path in readable)
  resolved, decoded = os.path.realpath, os.fsdecode

  def inside(path: Any, places: Sequence[str]) -> bool:
    real = resolved(decoded(path))
    return any(real == place or real.startswith(place + '/') for place in places)

  def check(event: str, args: tuple) -> None:
    if event == 'open':
      path, mode, flags = args
      changes = bool(flags & _CHANGES) or any(c in (mode or '') for c in 'wax+')
      places = (folder,) if changes else (folder, *allowed)
      wrong = not isinstance(path, int) and not inside(path, places) and path != '/dev/null'
    elif event == 'import':
      wrong = args[0] in _MODULES
    elif event in _PATHS:
      reads = event in ('os.listdir', 'os.scandir')
      paths = [path for path in args if isinstance(path, str | bytes)]
      wrong = not all(inside(path, (folder, *allowed) if reads else (folder,)) for path in paths)
    else:
      wrong = event in _REFUSED or event.partition('.')[0] in _REFUSED
    if wrong:
      raise PermissionError(f'{event} is refused')

  for name in [name for name in sys.modules if name.partition('.')[0] in {*_MODULES, _OURS}]:
    del sys.modules[name]
  sys.addaudithook(check)

"""What Linux takes from a process for good: namespaces, Landlock and seccomp, called by ctypes.

Every function says whether it worked, since an old kernel or a container may not have or allow it.
Sources: the manual pages unshare(2), landlock(7) and seccomp(2), and the headers of Linux.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Sequence

_MACHINE = os.uname().machine if hasattr(os, 'uname') else ''
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == 'linux' else None


def _call(name: str, *args: object) -> int:
  """A function of the C library, whose whole numbers are passed as 64 bits."""
  if _libc is None:
    return -1
  wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
  function = getattr(_libc, name)
  function.restype = ctypes.c_long if name == 'syscall' else ctypes.c_int
  return function(*wide)


# --- rights ------------------------------------------------------------------------------------

_NOBODY = 65534
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 4, 38, 22
_PR_SET_CHILD_SUBREAPER = 36
_CAPSET = {'x86_64': 126, 'aarch64': 91}.get(_MACHINE)
_CAPABILITY_VERSION = 0x20080522


def become_nobody(folder: str, readable: Sequence[str]) -> bool:
  """Root becomes the user nobody and gives him `folder`, if he can enter what is `readable`."""
  if sys.platform != 'linux' or os.geteuid() != 0:
    return False
  needed = [os.path.dirname(folder), *filter(os.path.isdir, readable)]
  above = {path[:i] or '/' for path in needed for i, c in enumerate(path + '/') if c == '/'}
  if not all(os.stat(path).st_mode & 0o001 for path in above):
    return False
  try:
    os.chown(folder, _NOBODY, _NOBODY)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
  except OSError:
    return False
  return True


def die_with_parent() -> None:
  """The process is killed when the thread that started it ends."""
  _call('prctl', _PR_SET_PDEATHSIG, 9, 0, 0, 0)


def adopt() -> None:
  """Descendants whose parents have ended become children of this process."""
  _call('prctl', _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def drop_rights() -> bool:
  """No capabilities and none to come; no other process reads its memory."""
  if _call('prctl', _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
    return False
  _call('prctl', _PR_SET_DUMPABLE, 0, 0, 0, 0)
  if _CAPSET is not None:
    header = struct.pack('Ii', _CAPABILITY_VERSION, 0)
    return _call('syscall', _CAPSET, header, bytes(24)) == 0
  return os.geteuid() != 0


# --- namespaces --------------------------------------------------------------------------------

_NEW = 0x10000000 | 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000  # user, mount, pid, net, ipc
_NOSUID, _NODEV, _NOEXEC, _REC, _PRIVATE = 2, 4, 8, 1 << 14, 1 << 18


def new_namespaces(folder: str, size: int) -> bool:
  """A machine of its own: no network, no other processes, and `folder` in memory, of `size` bytes.

  It counts for the children of this process.
  """
  if sys.platform != 'linux':
    return False
  _call('prctl', _PR_SET_DUMPABLE, 1, 0, 0, 0)  # whoever changed its user may not write below
  user, group = os.geteuid(), os.getegid()
  if _call('unshare', _NEW) != 0:
    return False
  try:
    maps = ('setgroups', 'deny'), ('uid_map', f'{user} {user} 1'), ('gid_map', f'{group} {group} 1')
    for name, text in maps:
      with open(f'/proc/self/{name}', 'w') as file:
        file.write(text)
  except OSError:
    return False
  _call('mount', None, b'/', None, _REC | _PRIVATE, None)
  options = f'size={size},mode=700,nr_inodes=4096'.encode()
  flags = _NOSUID | _NODEV | _NOEXEC
  mounted = _call('mount', b'tmpfs', folder.encode(), b'tmpfs', flags, options) == 0
  os.chdir(folder)
  return mounted


# --- Landlock ----------------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_WRITE_FILE, _READ_FILE, _READ_DIR, _MOVE, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 13, 1 << 14
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_READ = _READ_FILE | _READ_DIR
_CHANGE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MOVE | _TRUNCATE
_ALL = (1 << 13, 1 << 14, 1 << 15, 1 << 15, 1 << 16)  # first right that ABI 1, 2, ... does not know
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract Unix sockets and signals


def landlock(folder: str, readable: Sequence[str]) -> int:
  """Nothing is opened outside of `folder` but, for reading, what lies in `readable`.

  No TCP from ABI 4 on, and no signals to processes outside from ABI 6 on.

  Returns:
    Its ABI, or 0 where it does not work. Below 3, a file outside may still be truncated.
  """
  abi = _call('syscall', _CREATE_RULESET, None, 0, 1)
  if abi < 1:
    return 0
  handled = _ALL[min(abi, len(_ALL)) - 1] - 1
  fields = (handled, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
  size = 8 if abi < 4 else 16 if abi < 6 else 24
  ruleset = _call('syscall', _CREATE_RULESET, struct.pack('QQQ', *fields), size, 0)
  if ruleset < 0:
    return 0
  rules = [
    (folder, _READ | _CHANGE),
    ('/dev/null', _READ_FILE | _WRITE_FILE),
    *((p, _READ) for p in readable),
  ]
  try:
    for path, rights in rules:
      if not os.path.exists(path):
        continue
      if not os.path.isdir(path):
        rights &= _READ_FILE | _WRITE_FILE
      opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
      rule = struct.pack('=Qi', rights & handled, opened)
      added = _call('syscall', _ADD_RULE, ruleset, 1, rule, 0)
      os.close(opened)
      if added != 0:
        return 0
    return abi if _call('syscall', _RESTRICT_SELF, ruleset, 0) == 0 else 0
  finally:
    os.close(ruleset)


# --- seccomp -----------------------------------------------------------------------------------

# Numbers of system calls, on x86_64 and on aarch64, where some are missing.
_HARMLESS = {
  'x86_64': (
    *(0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 32, 33),
    *(34, 35, 36, 37, 38, 39, 45, 48, 51, 55, 60, 61, 63, 73, 74, 75, 79, 80, 81, 89, 95, 96, 97),
    *(98, 99, 100, 102, 104, 107, 108, 110, 111, 115, 121, 124, 127, 128, 130, 131, 137, 138, 140),
    *(158, 186, 201, 202, 204, 213, 217, 218, 219, 221, 228, 229, 230, 232, 233, 247, 262, 267),
    *(4, 6, 7, 231, 269, 270, 271, 273, 274, 281, 290, 291, 292, 293, 309, 318, 324, 332, 334, 439),
  ),
  'aarch64': (
    *(17, 19, 20, 21, 22, 23, 24, 32, 43, 44, 48, 49, 50, 57, 59, 61, 62, 63, 64, 65, 66, 67, 68),
    *(72, 73, 78, 79, 80, 82, 83, 93, 94, 95, 96, 98, 99, 100, 101, 102, 103, 113, 114, 115, 123),
    *(124, 128, 132, 133, 134, 135, 136, 137, 139, 141, 153, 155, 156, 158, 160, 163, 165, 166),
    *(168, 169, 172, 173, 174, 175, 176, 177, 178, 179, 204, 207, 209, 210, 214, 215, 216, 222),
    *(223, 226, 227, 233, 260, 278, 283, 291, 293, 439),
  ),
}
# Those that change files: truncate, mkdir, rename, unlink and their relatives.
_WRITING = {
  'x86_64': (40, 76, 77, 82, 83, 84, 85, 87, 258, 263, 264, 285, 316, 326),
  'aarch64': (34, 35, 38, 45, 46, 47, 71, 276, 285),
}
_NAMED = {
  'x86_64': dict(open=2, openat=257, ioctl=16, fcntl=72, clone=56, clone3=435, tgkill=234)
  | dict(prlimit64=302, socketpair=53, sendto=44),
  'aarch64': dict(openat=56, ioctl=29, fcntl=25, clone=220, clone3=435, tgkill=131)
  | dict(prlimit64=261, socketpair=199, sendto=206),
}
_ARCHITECTURE = {'x86_64': 0xC000003E, 'aarch64': 0xC00000B7}
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_THREAD, _UNIX, _CHANGES = (
  0x10000,
  1,
  0o1 | 0o2 | 0o100 | 0o1000,
)  # write, read-write, create, trunc
_TERMINAL = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)  # what opening a file asks, and (non)blocking
_OWNER = (8, 10, 15)  # fcntl: whom to send signals to


def seccomp(process: int, writes: bool) -> bool:
  """All system calls are refused (EPERM) but those that a program of its own needs.

  There are no new processes and programs, no sockets but pairs, no signals to other processes, no
  change of owners and modes, and nothing of the administrator's.

  Args:
    process: the id of this process as it sees it, which may send signals to itself.
    writes: whether files may be opened for writing. Where Landlock does not say which, none are.
  """
  if _MACHINE not in _ARCHITECTURE or sys.maxsize < 1 << 32:
    return False
  code = _filter(process, writes)
  buffer = ctypes.create_string_buffer(code)
  program = struct.pack('HxxxxxxQ', len(code) // 8, ctypes.addressof(buffer))
  return _call('prctl', _PR_SET_SECCOMP, 2, program, 0, 0) == 0


def _filter(process: int, writes: bool) -> bytes:
  """The program of seccomp, in classic BPF."""
  named = _NAMED[_MACHINE]
  op = lambda code, value, yes=0, no=0: struct.pack('HBBI', code, yes, no, value)
  low = lambda argument: op(_LOAD, 16 + 8 * argument)
  high = lambda argument: op(_LOAD, 20 + 8 * argument)
  leave = lambda what: op(_RETURN, what)
  one_of = lambda values: [x for v in values for x in (op(_EQUAL, v, 0, 1), leave(_ALLOW))]
  none_of = lambda values: [
    *(x for v in values for x in (op(_EQUAL, v, 0, 1), leave(_EPERM))),
    leave(_ALLOW),
  ]
  null = [op(_EQUAL, 0, 1, 0), leave(_EPERM)]
  opening = [leave(_ALLOW)] if writes else [op(_ANY_BIT, _CHANGES, 1, 0), leave(_ALLOW)]
  rules = {
    'openat': [low(2), *opening],
    'open': [low(1), *opening],
    'ioctl': [low(1), *one_of(_TERMINAL)],
    'fcntl': [low(1), *none_of(_OWNER)],
    'clone': [low(0), op(_ANY_BIT, _THREAD, 0, 1), leave(_ALLOW)],
    'clone3': [leave(_ENOSYS)],  # the C library then uses clone, whose flags can be read
    'tgkill': [low(0), *one_of([process])],
    'prlimit64': [low(0), *one_of([0, process])],
    'socketpair': [low(0), *one_of([_UNIX])],
    'sendto': [low(4), *null, high(4), *null, leave(_ALLOW)],  # to nobody but its pair
  }
  lines = [op(_LOAD, 4), op(_EQUAL, _ARCHITECTURE[_MACHINE], 1, 0), leave(_KILL), op(_LOAD, 0)]
  lines += one_of(_HARMLESS[_MACHINE] + (_WRITING[_MACHINE] if writes else ()))
  for name, number in named.items():
    body = [*rules[name], leave(_EPERM)]
    lines += [op(_EQUAL, number, 0, len(body)), *body]
  return b''.join([*lines, leave(_EPERM)])

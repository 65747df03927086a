"""A lock on a folder: one process at a time writes there."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from llm_jax import storage
from llm_jax.lease import Lease
from llm_jax.store import Busy, Lost

LOCK = '.lock'


_held: set[str] = set()  # folders that this process has locked


@contextlib.contextmanager
def locked(folder: str | Path, *, take: bool = True) -> Iterator[Callable[[], None]]:
  """While in this context, other processes that want the folder are refused.

  The lock belongs to the operating system (`fcntl.lockf` on the file `.lock`, which says who has
  it), so it ends with its process, however that ends. It holds between machines that share the
  folder where their file system has such locks, as NFS 4 does; where there are none, nothing is
  locked. A process may enter twice. A folder that was made for the lock and stayed empty is removed
  again. Of the copy of a URL, the folder in the store is locked besides (`lease.py`), and gets what
  has changed here before the lock ends.

  Args:
    folder: made if it is missing.
    take: False, for all hosts of a job but the first, takes no lock.

  Returns:
    A function that raises BadInput once the folder was deleted or replaced. An error that comes out
    of the context meanwhile is replaced by that one, since it follows from it.

  Raises:
    Busy: another process has the lock.
  """
  folder = Path(folder)
  key = os.path.realpath(folder)
  if not take or key in _held:
    yield lambda: None
    return
  is_new = not folder.exists()
  file = _acquire(folder)

  def check() -> None:
    if not _is_at(file, folder / LOCK):
      raise Lost(
        f'{folder} was deleted or replaced while this command was at work there; give it again'
      )

  _held.add(key)
  try:
    with leased(folder, check) as check_lease:

      def check_both() -> None:
        check()
        check_lease()

      yield check_both
  except Exception:
    check()
    raise
  finally:
    _held.discard(key)
    if _is_at(file, folder / LOCK):
      (folder / LOCK).unlink()
      if is_new and not any(folder.iterdir()):
        folder.rmdir()
    file.close()


@contextlib.contextmanager
def leased(
  folder: Path, is_there: Callable[[], None] = lambda: None
) -> Iterator[Callable[[], None]]:
  """Has the lease of the URL that a folder is a copy of, if it is one.

  Args:
    folder: of this machine.
    is_there: raises `Lost` where the folder is not what it was; then nothing more is pushed.

  Returns:
    A function that raises `Lost` once the lease is lost.

  Raises:
    Busy: another process has it.
  """
  url = storage.url_of(folder)
  if url is None:
    yield lambda: None
    return
  lease = Lease(url)

  def confirm() -> None:
    is_there()
    lease.confirm()

  try:
    with storage.guarded(folder, confirm):
      try:
        yield lease.check
      finally:
        storage.push()
  finally:
    lease.release()


def _acquire(folder: Path) -> IO[bytes]:
  while True:
    folder.mkdir(parents=True, exist_ok=True)
    try:
      file = open(folder / LOCK, 'ab+', buffering=0)  # noqa: SIM115, closing it ends the lock
    except FileNotFoundError:  # its owner removed the folder between our two calls
      continue
    try:
      fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in (errno.EACCES, errno.EAGAIN):
        owner = _owner(file)
        file.close()
        raise Busy(
          f'{folder}: {owner} is at work there; wait until it ends, stop it, or choose another '
          '--config.workdir'
        ) from None
      if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
        raise
    if _is_at(file, folder / LOCK):
      break
    file.close()  # its owner removed it between our two calls
  owner = {'host': socket.gethostname(), 'pid': os.getpid(), 'since': time.time()}
  with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
    file.truncate(0)
    file.write(json.dumps(owner).encode())
  return file


def _owner(file: IO[bytes]) -> str:
  """Who wrote the file of a lock, and how long ago."""
  try:
    file.seek(0)
    said = json.load(file)
    minutes = (time.time() - said['since']) / 60
    return f'process {int(said["pid"])} on {said["host"]!r}, for {minutes:.0f} minutes now,'
  except (ValueError, KeyError, TypeError):
    return 'another process'


def _is_at(file: IO[bytes], path: Path) -> bool:
  """Whether the open file is the one that a path leads to."""
  try:
    return os.path.samestat(os.fstat(file.fileno()), path.stat())
  except FileNotFoundError:
    return False

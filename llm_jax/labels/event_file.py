"""The SQLite file of what people did; job `label` and the chat page's server open it alike."""

import contextlib
import datetime
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from llm_jax.types import BadInput

BUSY = 30.0  # seconds to wait for another process
EVENTS = """
create table if not exists events (
  seq integer primary key autoincrement, at text not null, annotator text not null,
  item text not null, kind text not null, client text not null unique,
  conversation text not null, event text not null);
create index if not exists by_conversation on events (conversation);
"""
# File systems on which locks of SQLite's log in shared memory do not hold.
_REMOTE = ('nfs', 'nfs4', 'cifs', 'smb3', 'smbfs', 'afs', 'ceph', 'lustre', 'glusterfs')


def opened(path: Path, tables: str, *, where: str) -> sqlite3.Connection:
  """The file at a path with `EVENTS` and other tables, made if it is not there.

  Processes may write to it at once, by `writing`; threads that share the connection take turns.

  Args:
    path: of the file.
    tables: statements that make the others.
    where: the job or field that errors begin with.

  Raises:
    BadInput: it lies on a drive of the network, or cannot be opened.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind := file_system(path.parent):
      raise BadInput(
        f'{where} {str(path)!r} is on a drive of the network ({kind}), where two writers can '
        'destroy it; choose a folder on a disk of this machine'
      )
    made = sqlite3.connect(path, timeout=BUSY, check_same_thread=False, isolation_level=None)
    made.execute('pragma journal_mode=wal')
    made.executescript(EVENTS + tables)
  except (sqlite3.Error, OSError) as error:
    raise BadInput(f'{where} {str(path)!r} cannot be opened: {error}') from None
  return made


@contextlib.contextmanager
def writing(file: sqlite3.Connection, synchronous: str = 'full') -> Iterator[None]:
  """A short transaction, which no other writer is inside of; 'full': on the disk at its end."""
  file.execute(f'pragma synchronous={synchronous}')
  file.execute('begin immediate')
  try:
    yield
  except BaseException:
    file.execute('rollback')
    raise
  file.execute('commit')


def now() -> str:
  """The time of an event, in UTC, as ISO 8601 has it, to the millisecond."""
  at = datetime.datetime.now(datetime.UTC)
  return f'{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z'


def file_system(folder: Path) -> str:
  """The kind of file system of a folder if it is one of the network, else ''; knows Linux alone."""
  mounts = Path('/proc/self/mounts')
  if not mounts.is_file():
    return ''
  best, kind = '', ''
  for entry in mounts.read_text(errors='replace').splitlines():
    where, name = entry.split(' ')[1:3]
    where = where.replace('\\040', ' ')
    if len(where) >= len(best) and folder.resolve().is_relative_to(where):
      best, kind = where, name
  return kind if kind in _REMOTE or kind.startswith('fuse.sshfs') else ''

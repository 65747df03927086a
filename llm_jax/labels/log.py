"""The events of all annotators in one SQLite file.

The file can be used by several processes at once. An event is on the disk before `add` returns, and
one that is sent twice is kept once, by the `client` that its page gave it. Its table is that of the
feedback of served chats, so that one file can hold both. Every 100 events they are also written to
a file of JSON lines beside it, which can be read without this program.
"""

import contextlib
import fcntl
import itertools
import json
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.labels import event as events
from llm_jax.labels import event_file
from llm_jax.labels.candidates import Item, item
from llm_jax.labels.tasks import Task, Tasks, hold, labels_of
from llm_jax.types import BadInput

_NOTHING = 0, ''  # the last event of an empty file
EACH = 100  # events between two times that the JSON lines grow
_TABLES = """
create index if not exists by_annotator on events (annotator, kind);
create table if not exists items (
  place integer primary key autoincrement, item text not null unique, gold integer not null,
  labels integer not null default 0, record text not null);
create index if not exists by_labels on items (gold, labels, place);
create table if not exists done (
  item text not null, annotator text not null, labels integer not null, ordinal integer not null,
  again integer not null default 0, primary key (item, annotator)) without rowid;
create table if not exists leases (
  item text not null, annotator text not null, until real not null,
  primary key (item, annotator)) without rowid;
create table if not exists identity (one integer primary key check (one = 1), id text not null);
insert or ignore into identity values (1, lower(hex(randomblob(8))));
"""


class Log:
  """The events in a file, and the items that they are about.

  Args:
    path: of the SQLite file, which is made if it is not there.
    overlap: annotators who label each item.
    seed: of which items come again.
    again: the share of items that come again.

  Raises:
    BadInput: it lies on a drive of the network, or cannot be opened.
  """

  def __init__(
    self, path: str | Path, *, overlap: int = 1, seed: int = 0, again: float = 0.05
  ) -> None:
    self._path, self._lock = Path(path), threading.Lock()
    self._overlap, self._tasks = overlap, Tasks(overlap, seed, again)
    self._open = event_file.opened(self._path, _TABLES, where='label:')

  @property
  def id(self) -> str:
    """What tells this log from every other, however many items it gets."""
    with self._lock:
      return self._open.execute('select id from identity').fetchone()[0]

  # --- items -------------------------------------------------------------------------------------

  def put(self, found: Sequence[Item]) -> int:
    """Adds items that are not there; how many are new."""
    rows = [(one.id, bool(one.gold), json.dumps(one.record())) for one in found]
    with self._writing() as write:
      before = write.execute('select count(*) from items').fetchone()[0]
      write.executemany('insert or ignore into items (item, gold, record) values (?, ?, ?)', rows)
      return write.execute('select count(*) from items').fetchone()[0] - before

  def items(self) -> dict[str, Item]:
    """All items by id, in the order in which they came."""
    with self._lock:
      rows = self._open.execute('select record from items order by place').fetchall()
    made = [item(json.loads(text)) for (text,) in rows]
    return {one.id: one for one in made}

  def item(self, name: str) -> Item:
    """One item.

    Raises:
      BadInput: there is none.
    """
    with self._lock:
      row = self._open.execute('select record from items where item = ?', (name,)).fetchone()
    if row is None:
      raise BadInput(f'label: there is no item {name[:80]!r}')
    return item(json.loads(row[0]))

  def names(self) -> list[str]:
    """The ids of all items that were not made as gold, in their order."""
    with self._lock:
      rows = self._open.execute('select item from items where gold = 0 order by place').fetchall()
    return [name for (name,) in rows]

  # --- events ------------------------------------------------------------------------------------

  def add(self, found: Any, annotator: str) -> dict[str, Any]:
    """Keeps an event; it is on the disk when this returns.

    Args:
      found: what a page sent, see `event.event`.
      annotator: who did it.

    Returns:
      `seq` of the event, and whether it is `new`.

    Raises:
      BadInput: naming what is wrong with it.
    """
    name = found.get('item') if isinstance(found, Mapping) else None
    made = events.event(found, self.item(name if isinstance(name, str) else ''))
    with self._writing() as write:
      known = write.execute(
        'select seq, annotator from events where client = ?', (made['client'],)
      ).fetchone()
      if known:
        if known[1] != annotator:
          raise BadInput('event: client is that of an event of somebody else; give a new one')
        return {'seq': known[0], 'new': False}
      if made.get('replaces'):
        made['replaces'] = _seq_of(write, made['replaces'], annotator)
      client = made.pop('client')
      row = (event_file.now(), annotator, made['item'], made['kind'], client, json.dumps(made))
      seq = write.execute(
        'insert into events (at, annotator, item, kind, client, conversation, event) '
        "values (?, ?, ?, ?, ?, '', ?)",
        row,
      ).lastrowid
      self._count(write, made, annotator)
    if seq and seq % EACH == 0:
      with contextlib.suppress(OSError):  # the event is kept; the next hundred try it again
        self.save()
    return {'seq': seq, 'new': True}

  def events(self, after: int = 0) -> list[dict[str, Any]]:
    """The events of labelling behind number `after`, the oldest first."""
    with self._lock:
      rows = self._open.execute(
        'select seq, at, annotator, client, event from events '
        "where seq > ? and kind != 'chat' order by seq",
        (after,),
      ).fetchall()
    names = ('seq', 'at', 'annotator', 'client')
    return [{**dict(zip(names, row[:4], strict=True)), **json.loads(row[4])} for row in rows]

  def last(self, annotator: str) -> dict[str, Any] | None:
    """The newest event of an annotator that an undo can take back; None if there is none."""
    with self._lock:
      rows = self._open.execute(
        'select client, event, seq from events '
        "where annotator = ? and kind != 'chat' order by seq desc limit 1000",
        (annotator,),
      ).fetchall()
    made = [({**json.loads(text), 'client': client}, seq) for client, text, seq in rows]
    undone = {one['replaces'] for one, _ in made if one['kind'] == 'undo'}
    left = (one for one, seq in made if one['kind'] != 'undo' and seq not in undone)
    return next(left, None)

  # --- who works on what -------------------------------------------------------------------------

  def tasks(
    self,
    annotator: str,
    count: int,
    held: Collection[str] = (),
    *,
    now: float | None = None,
  ) -> list[Task]:
    """Items for an annotator, leased, those with the fewest labels first.

    Args:
      annotator: who asks.
      count: most of them.
      held: items that the page has already; their leases are renewed. Others that the annotator
        leased before, and lost in a reload, come first.
      now: seconds; for tests.
    """
    now = time.time() if now is None else now
    with self._writing(synchronous='normal') as write:  # a lease that a dead machine forgets may go
      return self._tasks.lease(write, annotator, count, held, now)

  def progress(self, annotator: str) -> dict[str, int]:
    """How many items an annotator has done, how many labels there are, and how many are wanted."""
    with self._lock:
      ask = lambda text, *values: self._open.execute(text, values).fetchone()[0]
      return {
        'done': ask('select count(*) from done where annotator = ?', annotator),
        'labels': ask('select coalesce(sum(labels), 0) from items where gold = 0'),
        'wanted': ask('select count(*) from items where gold = 0') * self._overlap,
      }

  # --- files -------------------------------------------------------------------------------------

  def save(self) -> Path:
    """Adds the events that are missing there to the JSON lines; the path of this file.

    A file that does not go on from an event of this log, such as one that was left by another log,
    is moved aside to `labels.1.jsonl` or the next free number, and a new one is written.
    """
    path = self._path.with_suffix('.jsonl')
    while True:
      with path.open('a+b') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
          continue  # another process has moved it aside
        whole, last = _end(file)
        if last != _NOTHING and not self._has(*last):
          numbered = (path.with_suffix(f'.{n}.jsonl') for n in itertools.count(1))
          path.rename(next(place for place in numbered if not place.exists()))
          continue
        file.truncate(whole)  # of what a kill has cut short
        file.write(b''.join(line(one) for one in self.events(last[0])))
        file.flush()
        os.fsync(file.fileno())
        return path

  def _has(self, seq: Any, client: Any) -> bool:
    """Whether this log has an event of this number that was sent with this id."""
    if type(seq) is not int or not isinstance(client, str) or seq >= 1 << 63:
      return False
    with self._lock:
      row = self._open.execute('select client from events where seq = ?', (seq,)).fetchone()
    return row == (client,)

  def backup(self, path: Path) -> None:
    """A copy of the whole file at `path`, which is replaced."""
    if path.exists() and path.samefile(self._path):
      raise BadInput(f'label: {str(path)!r} is the log itself; choose another place for the copy')
    partial = path.with_name(f'{path.name}.partial')
    partial.unlink(missing_ok=True)
    with self._lock:
      self._open.execute('vacuum into ?', (str(partial),))
    os.replace(partial, path)

  def close(self) -> None:
    """Writes what is missing to the JSON lines, and closes the file."""
    self.save()
    with self._lock:
      self._open.close()

  # --- inside ------------------------------------------------------------------------------------

  @contextlib.contextmanager
  def _writing(self, synchronous: str = 'full') -> Iterator[sqlite3.Connection]:
    """A short transaction, which no other writer is inside of; 'full': on the disk at its end."""
    with self._lock, event_file.writing(self._open, synchronous):
      yield self._open

  def _count(self, write: sqlite3.Connection, made: Mapping[str, Any], annotator: str) -> None:
    """What an event changes of who has done what; see the tables."""
    name, kind = made['item'], made['kind']
    if kind == 'undo':
      self._recount(write, name, annotator)
    elif kind in events.ENDS:
      ordinal = labels_of(write, annotator)
      is_again = bool(made.get('again'))
      write.execute(
        'insert into done (item, annotator, labels, ordinal, again) values (?, ?, ?, ?, ?) '
        'on conflict do update set labels = max(labels, excluded.labels), '
        'again = max(again, excluded.again)',
        (name, annotator, kind in events.LABELS, ordinal, is_again),
      )
      write.execute('delete from leases where item = ? and annotator = ?', (name, annotator))
      self._sum(write, name)

  def _recount(self, write: sqlite3.Connection, name: str, annotator: str) -> None:
    """After an undo: whether the annotator has still done the item."""
    rows = write.execute(
      'select seq, kind, event from events where item = ? and annotator = ?', (name, annotator)
    ).fetchall()
    made = [(seq, kind, json.loads(text)) for seq, kind, text in rows]
    undone = {one['replaces'] for _, kind, one in made if kind == 'undo'}
    left = [(kind, one) for seq, kind, one in made if seq not in undone and kind in events.ENDS]
    first = [kind for kind, one in left if not one.get('again')]
    if first:
      write.execute(
        'update done set labels = ?, again = ? where item = ? and annotator = ?',
        (any(kind in events.LABELS for kind in first), len(first) < len(left), name, annotator),
      )
    else:
      write.execute('delete from done where item = ? and annotator = ?', (name, annotator))
      hold(write, annotator, name, time.time())  # it is on the page again
    self._sum(write, name)

  @staticmethod
  def _sum(write: sqlite3.Connection, name: str) -> None:
    write.execute(
      'update items set labels = (select coalesce(sum(labels), 0) from done where item = ?) '
      'where item = ?',
      (name, name),
    )


def line(made: Mapping[str, Any]) -> bytes:
  """An event as a line of JSON."""
  return json.dumps(made, sort_keys=True).encode() + b'\n'


def _end(file: Any) -> tuple[int, tuple[Any, Any]]:
  """Where the last whole line of a file ends, and the `seq` and `client` that it has.

  Those of a file without a whole line are `_NOTHING`, and None both of a line that is no event.
  """
  size = file.seek(0, os.SEEK_END)
  tail, start = b'', size
  lines: list[bytes] = []
  while start and not lines:
    step = min(start, 1 << 16)
    start -= step
    file.seek(start)
    tail = file.read(step) + tail
    whole = tail[: tail.rfind(b'\n') + 1].split(b'\n')
    lines = [one for one in (whole[1:] if start else whole) if one.strip()]
  if not lines:
    return 0, _NOTHING
  try:
    last = json.loads(lines[-1])
    return start + tail.rfind(b'\n') + 1, (last['seq'], last['client'])
  except (ValueError, TypeError, KeyError, RecursionError):
    return size, (None, None)


def _seq_of(write: sqlite3.Connection, client: str, annotator: str) -> int:
  row = write.execute(
    'select seq from events where client = ? and annotator = ?', (client, annotator)
  ).fetchone()
  if row is None:
    raise BadInput('event: replaces an event that is not there')
  return row[0]


def read(path: Path) -> tuple[dict[str, Item], list[dict[str, Any]]]:
  """Items and events of a file.

  Raises:
    BadInput: there is none, or no event is in it.
  """
  if not path.is_file():
    raise BadInput(f'label: there is no {str(path)!r}; label something first')
  log = Log(path)
  try:
    found = log.items(), log.events()
  finally:
    log.close()
  if not found[1]:
    raise BadInput(f'label: {str(path)!r} has no label yet; label something first')
  return found

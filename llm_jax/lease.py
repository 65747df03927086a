"""A lease on a folder in a store: one process at a time writes there, whatever machine it is on."""

import datetime
import json
import os
import socket
import threading
import time
import uuid
from typing import Any

from llm_jax import copies
from llm_jax.store import ATOMIC, Busy, Lost, Store
from llm_jax.types import BadInput

LOCK = '.lock'
REFRESH = 30.0  # seconds between two signs of life
EXPIRES = 180.0  # seconds without one, after which others may take the lease
SETTLE = 1.0  # seconds until a process that wrote at the same moment has written


class Lease:
  """The object `.lock` below a URL, which says who works there and is refreshed.

  What holds: a process that finds the lease of another is refused, unless its owner has not
  refreshed it for `EXPIRES` seconds, or was a process of this machine that has ended (however: the
  operating system tells). Where the store creates an object only if there is none (`store.ATOMIC`),
  one of two processes that come at once gets a free lease. Elsewhere, and where both take over the
  lease of a dead one, each writes, waits `SETTLE` seconds and reads what is there; a process that
  needed longer than that between reading and writing could still pass. It is found at the next
  refresh, or before the next push, by whoever is not named there any more, and stops. Clocks of
  machines have to agree within `EXPIRES`.

  Args:
    url: the folder.

  Raises:
    Busy: another process has it.
    BadInput: the store does not let us write.
  """

  def __init__(self, url: str) -> None:
    self.url = url
    self._store = Store(url)
    self._about = {
      'owner': f'{copies.owner()} {uuid.uuid4()}',
      'process': os.getpid(),
      'host': socket.gethostname(),
      'since': time.time(),
    }
    self._lost: str | None = None
    self._over, self._guard = threading.Event(), threading.Lock()
    self._take()
    self._seen = time.time()
    self._thread = threading.Thread(target=self._live, daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Raises `Lost` once the lease is known to be lost."""
    if self._lost is not None:
      raise Lost(self._lost)

  def confirm(self) -> None:
    """The same, and asks the store if it has not answered for long."""
    if self._lost is None and time.time() - self._seen > EXPIRES / 2:
      self._refresh()
    self.check()

  def release(self) -> None:
    """Ends the lease, if it is still ours."""
    self._over.set()
    self._thread.join()
    if self._lost is None and self._is_mine(self._read()):
      self._store.remove(LOCK)

  def _take(self) -> None:
    while not self._store.write(LOCK, self._record(), new=True):
      if (theirs := self._read()) is None:
        continue  # released meanwhile
      if theirs == {}:  # not written to its end yet, or never
        time.sleep(SETTLE)
        theirs = self._read()
      if theirs and not _is_dead(theirs):
        raise Busy(self._held(theirs))
      self._store.write(LOCK, self._record())
      time.sleep(SETTLE)
      break
    else:
      if self._store.scheme not in ATOMIC:
        time.sleep(SETTLE)
    if not self._is_mine(now := self._read()):
      raise Busy(self._held(now or {}))

  def _live(self) -> None:
    while self._lost is None and not self._over.wait(REFRESH):
      try:
        self._refresh()
      except BadInput:
        continue  # the store does not answer; the next refresh or push asks again

  def _refresh(self) -> None:
    with self._guard:
      now = self._read()
      if not self._is_mine(now):
        taken = f'{_owner(now)} is at work there' if now else 'its .lock was removed'
        self._lost = (
          f'storage: {self.url!r}: {taken} since this command began, so nothing more is brought '
          'there; give it again when the other has ended'
        )
        return
      self._store.write(LOCK, self._record())
      self._seen = time.time()

  def _record(self) -> bytes:
    return json.dumps({**self._about, 'refreshed': time.time()}).encode()

  def _read(self) -> dict[str, Any] | None:
    """What the lease says: {} where it cannot be read, None where there is none."""
    data = self._store.read(LOCK)
    if data is None:
      return None
    try:
      said = json.loads(data)
      return {**said, 'since': float(said['since']), 'refreshed': float(said['refreshed'])}
    except (ValueError, TypeError, KeyError):
      return {}

  def _is_mine(self, said: dict[str, Any] | None) -> bool:
    return bool(said) and said.get('owner') == self._about['owner']

  def _held(self, said: dict[str, Any]) -> str:
    left = EXPIRES - (time.time() - said.get('refreshed', time.time()))
    return (
      f'{self.url}: {_owner(said)} is at work there; wait until it ends, stop it, or choose '
      f'another --config.workdir; if it is dead, its lock ends in {max(left, 0):.0f} s, or at once '
      f'when you delete {self.url}/{LOCK}'
    )


def _owner(said: dict[str, Any]) -> str:
  """Who wrote a lease, and when it was heard of."""
  if not said:
    return 'another process'
  moment = lambda name: datetime.datetime.fromtimestamp(said[name]).isoformat(' ', 'seconds')
  return (
    f'process {said.get("process")} on {said.get("host")!r}, since {moment("since")} and last '
    f'heard of at {moment("refreshed")},'
  )


def _is_dead(said: dict[str, Any]) -> bool:
  """Whether the owner of a lease ended on this machine, or has been silent for too long."""
  owner = str(said.get('owner')).partition(' ')[0]
  return time.time() - said['refreshed'] > EXPIRES or copies.has_ended(owner)

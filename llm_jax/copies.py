"""The copy of a URL on this machine: what of it is here, and what was equal to the store when.

A copy lies under `root()`, which one process has at a time. It remembers how each file looked when
both sides were last equal, so that what one side has changed since is known without reading it.
"""

import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from llm_jax.files import read_json, write_json
from llm_jax.store import UNFINISHED, Store, below
from llm_jax.types import BadInput

# What vouches for the files beside and below it, and is pushed after them; what comes later here
# vouches for what comes before.
VOUCHES = (
  r'shard-\d+\.json',
  r'(manifest|artifact|tokenize|summary|report|rows)\.json',
)

_locks: list[Any] = []  # open files, whose locks end with the process
_owner = str(uuid.uuid4())  # of this process


@functools.cache
def root() -> Path:
  """Where this process keeps copies, alone: a folder of $LLM_JAX_STORAGE or of the user's cache.

  Processes that run one after another use the same one, and fetch only what is new.
  """
  cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
  base = Path(os.environ.get('LLM_JAX_STORAGE') or Path(cache) / 'llm_jax' / 'storage').absolute()
  for number in itertools.count():
    folder = base / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    if lock := _locked(folder):
      past = lock.read().split()[-99:]  # owners before, of whom `has_ended` is asked
      lock.truncate(0)
      lock.write('\n'.join([*past, _owner]))
      lock.flush()
      _locks.append(lock)
      return folder
  raise AssertionError('unreachable')


def _vouches(name: str) -> int:
  """0 where a file vouches for nothing; of those that do, a larger number is pushed later.

  >>> [_vouches(name) for name in ('a/tokens-00001.npy', 'a/shard-00001.json', 'tokenize.json')]
  [0, 1, 2]
  """
  last = PurePosixPath(name).name
  return max((rank for rank, one in enumerate(VOUCHES, 1) if re.fullmatch(one, last)), default=0)


def _locked(folder: Path) -> Any:
  """The open and locked file of a folder of copies; None if a process that lives has it."""
  lock = open(folder / '.lock', 'a+')  # noqa: SIM115, closing it ends the lock
  lock.seek(0)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    lock.close()
    return None
  return lock


def owner() -> str:
  """A name of this process, which `has_ended` knows in other processes of this machine."""
  root()
  return _owner


def has_ended(owner: str) -> bool:
  """Whether a process that kept its copies where this one does is known to have ended."""
  for folder in root().parent.iterdir():
    path = folder / '.lock'
    past = path.read_text().split() if path.is_file() else []
    if owner in past:
      if owner != past[-1]:
        return True  # a later process has its folder
      lock = None if owner == _owner else _locked(folder)
      if lock:
        lock.close()
      return bool(lock)
  return False


class _File(NamedTuple):
  """How a file looked when its two copies were last equal."""

  theirs: str  # what tells its version in the store from others
  ours: tuple[int, int] | None  # size and time of change, in ns; None: on another host's disk


class Copy:
  """What this machine has of a URL.

  Args:
    url: of a folder or a file.
    here: where the copy is.
    without: names of folders directly below the URL that are not wanted.
  """

  def __init__(self, url: str, here: Path, without: Collection[str] = ()) -> None:
    self.url, self.here, self.without = url, here, frozenset(without)
    self._files: dict[str, _File] = {}  # by name below the URL; '' is the URL itself
    self._sent: set[str] = set()  # names that were pushed, and not seen in the store since

  def open(self, wanted: Callable[[str], bool]) -> None:
    """Makes the copy that an earlier process may have left equal to the store."""
    self._files = _recorded(self.url)
    self.pull(wanted)
    self._files = {name: file for name, file in self._files.items() if wanted(name)}

  def pull(self, wanted: Callable[[str], bool], *, mirror: bool = True) -> None:
    """Makes the copy equal to the store, which is the truth: what only the copy has is deleted.

    Args:
      wanted: whether a name below the URL is to be brought.
      mirror: False: what is here stays as it is, and only what is missing is brought.
    """
    store = Store(self.url)
    found, ours = store.listed(), _files(self.here)
    for name in filter(wanted, found):
      place, version = found[name]
      if name in ours and (not mirror or self._files.get(name) == (version, ours[name])):
        continue
      target = _at(self.here, name)
      store.get(place, target)
      self._files[name] = _File(version, _look(target))
    if mirror:
      for name in filter(wanted, ours.keys() - found.keys()):
        _at(self.here, name).unlink()
      for name in filter(wanted, self._files.keys() - found.keys()):
        del self._files[name]
    self._record()

  def push(self, mine: Callable[[str], bool]) -> None:
    """Brings what is new here and whole to the store, and deletes there what is gone here.

    Args:
      mine: whether a name below the URL belongs to this copy.

    Raises:
      BadInput: an object is there in another version than was last seen. It is left alone, as is
        what vouches for it; all else is pushed.
    """
    here, files, sent = self.here, self._files, self._sent
    if not here.exists():  # whoever empties the disk does not mean the store
      return
    ours = {k: v for k, v in _files(here).items() if mine(k)}
    changed = [k for k in ours if _whole(here, k) and (k not in files or files[k].ours != ours[k])]
    gone = [name for name in files if name not in ours and self._went(name)]
    if not changed and not gone:
      return
    store = Store(self.url)
    theirs = {
      name
      for name, (_, version) in store.listed().items()
      if name not in sent and (name not in files or files[name].theirs != version)
    }.intersection((*changed, *gone))
    held = lambda name: (
      name in theirs
      or (_vouches(name) and any(other.startswith(name.rpartition('/')[0]) for other in theirs))
    )
    pushed = list(itertools.filterfalse(held, changed))
    last = lambda name: (_vouches(name), -name.count('/'), name)
    for name in sorted(pushed, key=last):
      sent.add(name)
      store.put(_at(here, name), name)
    # The new is there before the old goes, and what vouches for others goes before them.
    for name in sorted(() if theirs else gone, key=last, reverse=True):
      store.remove(name)
      del files[name]
    listed = store.listed()  # an object asked for alone may be described in another way
    # Where a file changed after we looked at it, its time will differ, and it goes with the next.
    files |= {name: _File(listed[name][1], ours[name]) for name in pushed if name in listed}
    sent.clear()
    self._record()
    if theirs:
      raise BadInput(
        f'storage: {below(self.url, min(theirs))!r} was changed there by somebody else since this '
        'command read or wrote it, so it is not overwritten; rename or remove it there, or stop '
        'this command: the next one takes what is there'
      )

  def give(self, names: Iterable[str]) -> dict[str, str]:
    """Brings files to the store, whole or not, and returns their versions there."""
    store, names = Store(self.url), list(names)
    for name in names:
      store.put(self.here / name, name)
    found = store.listed() if names else {}
    versions = {name: found[name][1] for name in names}
    self._files |= {name: _File(v, _look(self.here / name)) for name, v in versions.items()}
    return versions

  def given(self, versions: Mapping[str, str]) -> None:
    """Takes note of what another host gave: it goes when its folder goes here."""
    self._files |= {name: _File(version, None) for name, version in versions.items()}

  def changed(self, wanted: Callable[[str], bool]) -> str | None:
    """The URL of an object that is not in the store as it was last seen there, if there is one."""
    there = {name: version for name, (_, version) in Store(self.url).listed().items()}
    seen = {name: file.theirs for name, file in self._files.items()}
    names = filter(wanted, (there.keys() | seen.keys()) - self._sent)
    found = [name for name in names if there.get(name) != seen.get(name)]
    return below(self.url, min(found)) if found else None

  def _went(self, name: str) -> bool:
    """Whether a file that is not here should go from the store, too."""
    return self._files[name].ours is not None or not _at(self.here, name).parent.is_dir()

  def _record(self) -> None:
    path = _record_path(self.url)
    path.parent.mkdir(exist_ok=True)
    write_json(path, self._files)


def _at(here: Path, name: str) -> Path:
  return here / name if name else here


def _whole(here: Path, name: str) -> bool:
  """Whether a file may be seen by others: what it belongs to is not still being made."""
  *folders, _ = PurePosixPath(name).parts or ('',)
  for depth, part in enumerate(folders):
    folder = here.joinpath(*folders[: depth + 1])
    if folder.parent.name == 'checkpoints' and not (folder / 'manifest.json').is_file():
      return False
    if part == 'params' and not (folder.parent / 'artifact.json').is_file():
      return False
    if part.endswith('.orbax-checkpoint-tmp'):
      return False
  return True


def _files(here: Path) -> dict[str, tuple[int, int]]:
  """Name -> size and time of change, of what nobody is writing; '' is the path itself."""
  if here.is_file():
    return {'': _look(here)}
  found = {}
  for folder, _, names in os.walk(here):
    for name in names:
      path = Path(folder, name)
      if not name.endswith(UNFINISHED):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
          found[path.relative_to(here).as_posix()] = _look(path)
  return found


def _look(path: Path) -> tuple[int, int]:
  status = path.stat()
  return status.st_size, status.st_mtime_ns


# --- what was equal when a process ended, and need not be fetched by the next one -----------------


def _record_path(url: str) -> Path:
  return root() / 'known' / (hashlib.sha256(url.encode()).hexdigest() + '.json')


def _recorded(url: str) -> dict[str, _File]:
  try:
    known = read_json(_record_path(url), '')
    return {k: _File(theirs, ours and (ours[0], ours[1])) for k, (theirs, ours) in known.items()}
  except (OSError, ValueError, TypeError, AttributeError, IndexError):
    return {}  # then everything is fetched again

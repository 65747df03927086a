"""Folders anywhere: a URL is worked on in a copy on this machine, which is kept equal to it.

Every path that a user gives may be a URL that fsspec knows, such as gs://, s3:// or memory://.
`local` brings what is there to a copy under `root()` and gives its path; everything else in the
package sees files on a disk, so numbers cannot depend on where a folder lies. `push` brings back
what has changed, and `pushing` does that in the background while a job runs.

What is pushed is whole: a file that is still being written, a checkpoint without its manifest and
parameters without `artifact.json` stay here until they are finished, and what vouches for others
goes last. So a machine that dies leaves nothing half-written, and the next one goes on from there.
"""

import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
import re
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from llm_jax.files import read_json, write_json
from llm_jax.types import BadInput

SECONDS = 30.0  # between pushes in the background
# The package that fsspec needs for a scheme, and the extra of ours that brings it.
EXTRAS = {'gs': 'gcs', 'gcs': 'gcs', 's3': 's3', 's3a': 's3'}
# What vouches for the files beside and below it, and is pushed after them.
VOUCHES = ('manifest.json', 'artifact.json', 'tokenize.json', 'summary.json', 'report.json')
# Not for others: what is half-written, who works here, how far this copy has been converted.
UNFINISHED = ('.partial', '.lock', 'converted.json')
MAKING = (
  'checkpoints',
  'reference',
  'tensorboard',
)  # folders of a run that its readers do not need
ELSEWHERE = ('http', 'https', 'ftp', 'file')  # schemes of addresses, and of this machine


class _File(NamedTuple):
  """How a file looked when its two copies were last equal."""

  theirs: str  # what tells its version in the store from others
  ours: tuple[int, int]  # size and time of change, in ns


class _Copy(NamedTuple):
  """What this process has of a URL."""

  here: Path
  without: frozenset[str]
  files: dict[str, _File]  # by name below the URL; '' is the URL itself


_copies: dict[str, _Copy] = {}  # by URL
_guard = threading.RLock()
_locks: list[Any] = []  # open files, whose locks end with the process


def is_url(path: str | os.PathLike) -> bool:
  """Whether a path names a place in some store.

  >>> is_url('gs://bucket/runs'), is_url('runs/tiny')
  (True, False)
  """
  return '://' in os.fspath(path)


@functools.cache
def root() -> Path:
  """Where this process keeps copies, alone: a folder of $LLM_JAX_STORAGE or of the user's cache.

  Processes that run one after another use the same one, and fetch only what is new.
  """
  cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
  base = Path(os.environ.get('LLM_JAX_STORAGE') or Path(cache) / 'llm_jax' / 'storage')
  for number in itertools.count():
    folder = base / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / '.lock', 'w')  # noqa: SIM115, held until the process ends
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      lock.close()
      continue
    _locks.append(lock)
    return folder
  raise AssertionError('unreachable')


def local(path: str | os.PathLike, *, without: Collection[str] = ()) -> Path:
  """The path on this machine; of a URL the copy, brought up to date once in this process.

  >>> local('runs/tiny')
  PosixPath('runs/tiny')

  Args:
    path: of a file or folder, which need not exist yet.
    without: names of folders directly below a URL that are not needed.

  Raises:
    BadInput: an unknown scheme, a package that is missing, or a store that refuses.
  """
  if not is_url(path):
    return Path(path)
  url = os.fspath(path).rstrip('/')
  scheme, _, place = url.partition('://')
  inner = PurePosixPath(place.lstrip('/'))
  if '..' in inner.parts or not inner.parts:
    raise BadInput(f'storage: {url!r} names no folder; write one, such as {scheme}://bucket/runs')
  here = root() / scheme / inner
  with _guard:
    if not any(_covers(known, url, without) for known in _copies):
      _pull(url, here, frozenset(without))
  return here


def _covers(known: str, url: str, without: Collection[str]) -> bool:
  """Whether what was brought here of one URL is all that is needed of another."""
  lacks = _copies[known].without
  if url == known:
    return lacks <= set(without)
  return url.startswith(f'{known}/') and url[len(known) + 1 :].partition('/')[0] not in lacks


def localized(config: Any) -> bool:
  """Puts the path of a copy in the place of every URL of a config, and says whether there was one.

  Of `workdir` everything is brought here; of what is only read, not what belongs to its making. A
  URL with wildcards brings what it matches. A text that is no path, such as the address of a web
  service, stays as it is.

  Args:
    config: a ConfigDict, which is changed.
  """
  found = False
  with config.unlocked(), config.ignore_type():
    for name in sorted(config, key=lambda name: name != 'workdir'):  # others may be derived from it
      value = config[name]
      if hasattr(value, 'unlocked'):
        found |= localized(value)
      elif (here := _put(value, () if name == 'workdir' else MAKING)) != value:
        config[name], found = here, True
  return found


def _put(value: Any, without: Collection[str]) -> Any:
  if isinstance(value, (list, tuple)):
    return type(value)(_put(item, without) for item in value)
  if dataset := re.fullmatch(r'(tfds:(\w+)[^@]*@)(\w+://[^?]+)(.*)', str(value)):
    before, name, folder, options = dataset.groups()
    one = local(f'{folder.rstrip("/")}/{name}', without=without)  # there may be others beside it
    return f'{before}{one.parent}{options}'
  scheme, divider, place = value.partition('://') if isinstance(value, str) else ('', '', '')
  if not divider or scheme in ELSEWHERE or not scheme.isalnum() or place.split() != [place]:
    return value
  url, options = parted(value)
  if set(url) & set('*?['):
    with _refused(url):
      for match in _store(url).glob(url):
        local(f'{scheme}://{"/" * place.startswith("/")}{match.lstrip("/")}')
    here = root() / scheme / parted(place)[0].lstrip('/')
  else:
    here = local(url, without=without)
  return f'{here}?{options}' if options else str(here)


def parted(spec: str) -> tuple[str, str]:
  """A specification without its options, and these, which are for whoever reads what it names.

  >>> parted('gs://bucket/part-?.jsonl?prompt=question&answer=final')
  ('gs://bucket/part-?.jsonl', 'prompt=question&answer=final')
  >>> parted('part-?.jsonl')
  ('part-?.jsonl', '')
  """
  match = re.fullmatch(r'(.+)\?([\w-]+=[^?]*)', spec, re.DOTALL)
  return (match[1], match[2]) if match else (spec, '')


def named(value: Any) -> Any:
  """The same with URLs in the place of their copies: in a text, or in all texts of a config."""
  if isinstance(value, Mapping):
    return {named(name): named(item) for name, item in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(named(item) for item in value)
  if not _copies or not isinstance(value, str):
    return value
  return re.sub(re.escape(f'{root()}/') + '([A-Za-z0-9]+)/', _url, value)


def _url(match: re.Match[str]) -> str:
  scheme = match[1]
  rooted = any(url.startswith(f'{scheme}:///') for url in _copies)  # as those of memory:// may be
  return f'{scheme}://{"/" * rooted}'


def push() -> None:
  """Brings every change in the copies of this process to their stores.

  Raises:
    BadInput: a store that refuses.
  """
  with _guard:
    for url in _copies:
      _push(url)


@contextlib.contextmanager
def pushing(seconds: float = SECONDS) -> Iterator[None]:
  """Pushes every so often while the block runs, and once more when it ends, however it ends."""
  over = threading.Event()

  def work() -> None:
    while not over.wait(seconds):
      try:
        push()
      except BadInput as error:  # the store may answer again; if not, the last push raises it
        warnings.warn(str(error), stacklevel=1)

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()
    push()


def forget() -> None:
  """The next `local` of each URL looks at its store again."""
  with _guard:
    _copies.clear()


# --- one URL -------------------------------------------------------------------------------------


def _pull(url: str, here: Path, without: frozenset[str]) -> None:
  """Makes the copy equal to the store, which is the truth: what only the copy has is deleted."""
  with _refused(url):
    store, files = _store(url), {}
    found, ours, before = _listed(store, url), _files(here), _recorded(url)
    elsewhere = _elsewhere(url)
    wanted = lambda name: name.partition('/')[0] not in without and not elsewhere(name)
    for name in filter(wanted, found):
      place, version = found[name]
      target, kept = _at(here, name), before.get(name)
      if name not in ours or kept is None or kept != (version, ours[name]):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f'{target.name}.partial')
        store.get_file(place, str(partial))
        os.replace(partial, target)
      files[name] = _File(version, _look(target))
    for name in filter(wanted, ours.keys() - found.keys()):
      _at(here, name).unlink()
    _copies[url] = _Copy(here, without, files)
    _record(url)


def _push(url: str) -> None:
  """Brings what is new here and whole to the store, and deletes there what is gone here."""
  here, _, files = _copies[url]
  elsewhere = _elsewhere(url)
  ours = {k: v for k, v in _files(here).items() if not elsewhere(k)}
  changed = [k for k in ours if _whole(here, k) and (k not in files or files[k].ours != ours[k])]
  gone = [name for name in files if name not in ours]
  if not changed and not gone:
    return
  with _refused(url):
    store = _store(url)
    last = lambda name: (PurePosixPath(name).name in VOUCHES, -name.count('/'), name)
    for name in sorted(changed, key=last):
      place = _named(url, name)
      store.makedirs(os.path.dirname(place), exist_ok=True)
      store.put_file(str(_at(here, name)), place)
    # The new is there before the old goes, and what vouches for others goes before them.
    for name in sorted(gone, key=last, reverse=True):
      with contextlib.suppress(FileNotFoundError):
        store.rm_file(_named(url, name))
      del files[name]
    store.invalidate_cache()
    listed = _listed(store, url)  # an object asked for alone may be described in another way
    # Where a file changed after we looked at it, its time will differ, and it goes with the next.
    files |= {name: _File(listed[name][1], ours[name]) for name in changed if name in listed}
    _record(url)


def _elsewhere(url: str) -> Callable[[str], bool]:
  """Whether a name below the URL belongs to another copy."""
  others = tuple(f'{other[len(url) + 1 :]}/' for other in _copies if other.startswith(f'{url}/'))
  return lambda name: f'{name}/'.startswith(others)


def _at(here: Path, name: str) -> Path:
  return here / name if name else here


def _named(url: str, name: str) -> str:
  return f'{url}/{name}' if name else url


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


def _record(url: str) -> None:
  path = _record_path(url)
  path.parent.mkdir(exist_ok=True)
  write_json(path, _copies[url].files)


def _recorded(url: str) -> dict[str, _File]:
  try:
    known = read_json(_record_path(url), '')
    return {name: _File(theirs, (ours[0], ours[1])) for name, (theirs, ours) in known.items()}
  except (OSError, ValueError, TypeError, AttributeError, IndexError):
    return {}  # then everything is fetched again


# --- the store -----------------------------------------------------------------------------------


def _store(url: str) -> Any:
  """The file system of a URL.

  Raises:
    BadInput: nobody knows the scheme, or its package is missing.
  """
  import fsspec

  scheme = url.partition('://')[0]
  try:
    store = fsspec.filesystem(scheme)
  except ImportError as error:
    extra = f"pip install 'llm_jax[{EXTRAS[scheme]}]'" if scheme in EXTRAS else str(error)
    raise BadInput(f'storage: {url!r}: a package for {scheme}:// is missing; {extra}') from None
  except ValueError:
    raise BadInput(
      f'storage: {url!r}: no store {scheme}:// is known; gs://, s3:// and the others of fsspec are'
    ) from None
  store.invalidate_cache()
  return store


def _listed(store: Any, url: str) -> dict[str, tuple[str, str]]:
  """Name below the URL -> its place in the store and its version."""
  if store.isfile(url):
    return {'': (url, _version(store.info(url)))}
  base, found = store._strip_protocol(url), {}
  for place, info in store.find(url, detail=True).items():
    name = place.removeprefix(base).lstrip('/')
    if '..' not in name.split('/'):
      found[name] = (place, _version(info))
  return found


def _version(info: Mapping[str, Any]) -> str:
  """What tells two versions of an object apart, whatever its store calls it."""
  names = ('etag', 'ETag', 'md5Hash', 'generation', 'mtime', 'LastModified', 'created', 'size')
  return repr([info.get(name) for name in names])


@contextlib.contextmanager
def _refused(url: str) -> Iterator[None]:
  """What a store answers, in one line; each has exceptions of its own."""
  try:
    yield
  except BadInput:
    raise
  except Exception as error:
    said = ' '.join(str(error).split()) or type(error).__name__
    why = 'no permission: ' if isinstance(error, PermissionError) else ''
    raise BadInput(f'storage: {url!r}: {why}{said}') from error

"""Folders anywhere: a URL is worked on in a copy on this machine, which is kept equal to it.

Every path that a user gives may be a URL that fsspec knows, such as gs://, s3:// or memory://.
`local` brings what is there to a copy under `root()` and gives its path; everything else in the
package sees files on a disk, so numbers cannot depend on where a folder lies. `push` brings back
what has changed, and `pushing` does that in the background while a job runs.

What is pushed is whole: a file that is still being written, a checkpoint without its manifest and
parameters without `artifact.json` stay here until they are finished, and what vouches for others
goes last. So a machine that dies leaves nothing half-written, and the next one goes on from there.

Each of several hosts has a copy of its own. The first one pushes; the others `give` what only they
have, which are their parts of a checkpoint, and `pull` what the first has brought.
"""

import contextlib
import os
import re
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from llm_jax.copies import Copy, root
from llm_jax.store import Busy, Lost, Store, below
from llm_jax.types import BadInput

SECONDS = 30.0  # between pushes in the background
# Folders of a run that readers do not need.
MAKING = ('checkpoints', 'reference', 'tensorboard', 'profile', 'wandb')
ELSEWHERE = ('http', 'https', 'ftp', 'file')  # schemes of addresses, and of this machine

_copies: dict[str, Copy] = {}  # by URL
_guard = threading.RLock()
_checks: dict[str, Callable[[], None]] = {}  # by URL, what raises once it is no longer ours
_lost: set[str] = set()  # URLs that are no longer ours, to which nothing is pushed any more
_leads = _alone = True  # whether this is the first, or the only, host


def is_url(path: str | os.PathLike) -> bool:
  """Whether a path names a place in some store.

  >>> is_url('gs://bucket/runs'), is_url('runs/tiny')
  (True, False)
  """
  return '://' in os.fspath(path)


def join(*, host: int, hosts: int) -> None:
  """Says which of how many hosts this process is; before that it is the only one."""
  global _leads, _alone
  _leads, _alone = host == 0, hosts == 1


def local(path: str | os.PathLike, *, without: Collection[str] = ()) -> Path:
  """The path on this machine; of a URL the copy, brought up to date once in this process.

  >>> local('runs/tiny')
  PosixPath('runs/tiny')

  Args:
    path: of a file or folder, which need not exist yet.
    without: names of folders directly below a URL that are not needed.

  Raises:
    BadInput: an unknown scheme or one of the web, a package that is missing, or a store that
      refuses.
  """
  if not is_url(path):
    return Path(path)
  url = os.fspath(path).rstrip('/')
  scheme, _, place = url.partition('://')
  inner = PurePosixPath(place.lstrip('/'))
  if scheme in ELSEWHERE:
    raise BadInput(
      f'storage: {url!r} is no folder of this machine or of a store such as gs://; copy it here '
      'and give its path'
    )
  if '..' in inner.parts or not inner.parts:
    raise BadInput(f'storage: {url!r} names no folder; write one, such as {scheme}://bucket/runs')
  if scheme == 'memory' and not _alone:
    raise BadInput(f'storage: {url!r} is in the memory of one process, and there are several hosts')
  here = _place(url)
  with _guard:
    if not any(_covers(known, url, without) for known in _copies):
      copy = Copy(url, here, without)
      copy.open(_wanted(copy))
      _copies[url] = copy
  return here


def _covers(known: str, url: str, without: Collection[str]) -> bool:
  """Whether what was brought here of one URL is all that is needed of another."""
  lacks = _copies[known].without
  if url == known:
    return lacks <= set(without)
  return url.startswith(f'{known}/') and url[len(known) + 1 :].partition('/')[0] not in lacks


def localized(
  config: Any,
  *,
  idle: Collection[str] = (),
  reads: bool = True,
  left: Callable[[Any], Collection[str]] = lambda config: (),
  where: str = 'config',
) -> bool:
  """Puts the path of a copy in the place of every URL of a config, and says whether there was one.

  Of `workdir` everything is brought here; of what is only read, not what belongs to its making. A
  URL with wildcards brings what it matches. A text that is no path, such as the address of a web
  service, stays as it is.

  Args:
    config: a ConfigDict, which is changed.
    idle: jobs that this host does not do, for whose configs nothing but their `workdir` is brought.
    reads: whether what the config reads is brought here.
    left: the names of fields, of a config or a group of one, that stay as they are.
    where: what the config is called in messages.

  Raises:
    BadInput: what lies at a URL cannot be brought here; it names the field.
  """
  stays = left(config)
  found, reads = False, reads and config.get('job') not in idle
  with config.unlocked(), config.ignore_type():
    for name in sorted(config, key=lambda name: name != 'workdir'):  # others may be derived from it
      value = config[name]
      if name in stays:
        continue
      if hasattr(value, 'unlocked'):
        at = f'{where}.{name}'
        found |= localized(value, idle=idle, reads=reads or 'job' in value, left=left, where=at)
        continue
      try:
        here = _put(value, (), True) if name == 'workdir' else _put(value, MAKING, reads)
      except BadInput as error:
        raise BadInput(f'{where}.{name}: {error}') from error
      if here != value:
        config[name], found = here, True
  return found


def _put(value: Any, without: Collection[str], reads: bool) -> Any:
  if isinstance(value, (list, tuple)):
    return type(value)(_put(item, without, reads) for item in value)
  if dataset := re.fullmatch(r'(tfds:(\w+)[^@]*@)(\w+://[^?]+)(.*)', str(value)):
    before, name, folder, options = dataset.groups()
    # There may be others beside it.
    one = _brought(f'{folder.rstrip("/")}/{name}', without, reads)
    return f'{before}{one.parent}{options}'
  scheme, divider, place = value.partition('://') if isinstance(value, str) else ('', '', '')
  if not divider or scheme in ELSEWHERE or not scheme.isalnum() or place.split() != [place]:
    return value
  url, options = parted(value)
  here = _brought(url, without, reads)
  return f'{here}?{options}' if options else str(here)


def _brought(url: str, without: Collection[str], reads: bool) -> Path:
  """Where the copy of a URL, or of what a pattern matches, is; it is made if it is to be read."""
  if reads and not set(url) & set('*?['):
    return local(url, without=without)
  for match in Store(url).matches() if reads else ():
    local(match)
  return _place(url)


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


def url_of(path: Path) -> str | None:
  """The URL that a path of a copy stands for; None of any other path."""
  found = _home(path)
  return found and below(found[0].url, found[1])


def push() -> None:
  """Brings every change in the copies of this process to their stores, if it is the first host.

  Raises:
    BadInput: a store that refuses, an object that somebody else has changed, or a folder that is
      no longer ours.
  """
  with _guard:
    for url, copy in _copies.items() if _leads else ():
      for guarded_url, check in _checks.items():
        if f'{guarded_url}/'.startswith(f'{url}/') or url.startswith(f'{guarded_url}/'):
          try:
            check()
          except Lost:
            _lost.add(url)
            raise
      if url not in _lost:
        copy.push(_wanted(copy))


def pull(folder: Path | None = None, *, without: Collection[str] = ()) -> None:
  """Brings here what other hosts brought to the stores of the copies.

  The copy of the first host stays as it is, and gets what it lacks. Those of others become equal to
  the store.

  Args:
    folder: of a copy, if not all of every copy is wanted.
    without: names of folders directly below it, or below each URL, that are not needed.
  """
  with _guard:
    for copy, inner in [_at(folder)] if folder else [(copy, '') for copy in _copies.values()]:
      copy.pull(_wanted(copy, inner, without), mirror=not _leads)


def refresh(folder: Path | None = None, *, without: Collection[str] = ()) -> None:
  """Makes copies and their stores equal, between two pieces of work of this process.

  Args:
    folder: of which alone everything is brought here, if it is part of a copy; None for all copies.
    without: names of folders, at any depth, that are not brought.
  """
  if not _copies or (folder and not _home(folder)):
    return
  push()
  with _guard:
    for copy, inner in [_at(folder)] if folder else [(copy, '') for copy in _copies.values()]:
      wanted = _wanted(copy, inner)
      copy.pull(lambda name, wanted=wanted: wanted(name) and not {*name.split('/')} & {*without})


def give(folder: Path, names: Iterable[str]) -> dict[str, str]:
  """Brings files of a host that is not the first to the store, and returns their versions there.

  Args:
    folder: of a copy.
    names: of files below it.
  """
  copy, inner = _at(folder)
  with _guard:
    versions = copy.give(below(inner, name) for name in names)
  return {name[len(inner) :].lstrip('/'): version for name, version in versions.items()}


def given(folder: Path, versions: Mapping[str, str]) -> None:
  """Takes note, on the first host, of what another one gave: it goes when its folder goes here."""
  copy, inner = _at(folder)
  with _guard:
    copy.given({below(inner, name): version for name, version in versions.items()})


@contextlib.contextmanager
def guarded(folder: Path, check: Callable[[], None]) -> Iterator[None]:
  """In the block, `check`, which may raise BadInput, is asked before anything of it is pushed.

  Args:
    folder: of a copy.
    check: whether it is still ours.

  Raises:
    Busy: the folder was changed in its store after it was read.
  """
  copy, inner = _at(folder)
  url = below(copy.url, inner)
  with _guard:
    if changed := copy.changed(_wanted(copy, inner)):
      raise Busy(
        f'storage: {changed!r} was changed by somebody else after it was read; give the same '
        'command again'
      )
    _checks[url] = check
  try:
    yield
  finally:
    del _checks[url]


@contextlib.contextmanager
def pushing() -> Iterator[None]:
  """Pushes every `SECONDS` while the block runs, and once more when it ends, however it ends."""
  over = threading.Event()

  def work() -> None:
    while not over.wait(SECONDS):
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
    _lost.clear()


def _place(url: str) -> Path:
  """Where the copy of a URL is."""
  scheme, _, place = url.partition('://')
  return root() / scheme / place.lstrip('/')


def _home(path: Path) -> tuple[Copy, str] | None:
  """The innermost copy that a path is in, and its name there."""
  path = Path(path).absolute()
  found = [copy for copy in _copies.values() if path.is_relative_to(copy.here)]
  if not found:
    return None
  copy = max(found, key=lambda copy: len(copy.url))
  return copy, path.relative_to(copy.here).as_posix().removeprefix('.')


def _at(path: Path) -> tuple[Copy, str]:
  found = _home(path)
  assert found is not None, f'{path} is in no copy'
  return found


def _wanted(copy: Copy, inner: str = '', without: Collection[str] = ()) -> Callable[[str], bool]:
  """Whether a name below a URL belongs to its copy, and is in a folder of it."""
  url = copy.url
  others = tuple(f'{other[len(url) + 1 :]}/' for other in _copies if other.startswith(f'{url}/'))
  left_out = tuple(f'{below(inner, name)}/' for name in without)
  left_out += tuple(f'{name}/' for name in copy.without)
  return lambda name: (
    not f'{name}/'.startswith((*others, *left_out)) and f'{name}/'.startswith(inner and f'{inner}/')
  )

"""A store behind a URL, as fsspec sees it: what is there, in which version, and why not."""

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_jax.types import BadInput

# The package that fsspec needs for a scheme, and the extra of ours that brings it.
EXTRAS = {'gs': 'gcs', 'gcs': 'gcs', 's3': 's3', 's3a': 's3'}
# Stores of objects in buckets, without folders: to make a folder there would make the bucket.
BUCKETS = (*EXTRAS, 'az', 'abfs', 'abfss', 'adl', 'oss', 'cos', 'oci', 'r2')
# Where an object is created only if there is none, in one step of the store. S3 does so, too, but
# not everything that speaks its protocol.
ATOMIC = ('gs', 'gcs', 'memory', 'local')
# Not for others: what is half-written, who works here, how far this copy has been converted.
UNFINISHED = ('.partial', '.lock', 'converted.json')


class Busy(BadInput):
  """Another process is at work in a folder, or has been since this one has read it."""


class Lost(BadInput):
  """A folder is no longer ours to write to."""


def below(*names: str) -> str:
  """The names that are not empty, as one path.

  >>> below('gs://bucket/run', 'params'), below('gs://bucket/run', '')
  ('gs://bucket/run/params', 'gs://bucket/run')
  """
  return '/'.join(filter(None, names))


class Store:
  """The store of a URL; every method raises BadInput, in one line, where it refuses.

  Args:
    url: of a folder, a file or a pattern.
  """

  def __init__(self, url: str) -> None:
    import fsspec

    self.url, self.scheme = url, url.partition('://')[0]
    try:
      self._files: Any = fsspec.filesystem(self.scheme)
    except ImportError as error:
      extra = EXTRAS.get(self.scheme)
      cure = f"pip install 'llm_jax[{extra}]'" if extra else str(error)
      raise BadInput(
        f'storage: {url!r}: a package for {self.scheme}:// is missing; {cure}'
      ) from None
    except ValueError:
      raise BadInput(
        f'storage: {url!r}: no store {self.scheme}:// is known; gs://, s3:// and the others of '
        'fsspec are'
      ) from None
    except Exception as error:  # of credentials, for instance
      raise self._refused(error) from error
    self._files.invalidate_cache()

  def listed(self) -> dict[str, tuple[str, str]]:
    """Name below the URL -> its place in the store and its version; '' is the URL itself."""
    with self._asked():
      self._files.invalidate_cache()
      if self._files.isfile(self.url):
        return {'': (self.url, _version(self._files.info(self.url)))}
      base, found = self._files._strip_protocol(self.url), {}
      for place, info in self._files.find(self.url, detail=True).items():
        name = place.removeprefix(base).lstrip('/')
        if '..' not in name.split('/') and not name.endswith(UNFINISHED):
          found[name] = (place, _version(info))
      return found

  def matches(self) -> list[str]:
    """The URLs that the pattern matches."""
    rooted = '/' * self.url.startswith(f'{self.scheme}:///')
    with self._asked():
      found = self._files.glob(self.url)
    return [f'{self.scheme}://{rooted}{place.lstrip("/")}' for place in found]

  def get(self, place: str, target: Path) -> None:
    """Brings an object here, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f'{target.name}.partial')
    with self._asked():
      self._files.get_file(place, str(partial))
    os.replace(partial, target)

  def put(self, path: Path, name: str) -> None:
    """Writes a file to a name below the URL, whole or not at all."""
    with self._asked(), self._replacing(name) as place:
      self._files.put_file(str(path), place)

  def remove(self, name: str) -> None:
    """Removes an object, if it is there."""
    with self._asked(), contextlib.suppress(FileNotFoundError):
      self._files.rm_file(below(self.url, name))

  def read(self, name: str) -> bytes | None:
    """An object; None if there is none."""
    with self._asked():
      self._files.invalidate_cache()
      try:
        return self._files.cat_file(below(self.url, name))
      except FileNotFoundError:
        return None

  def write(self, name: str, data: bytes, *, new: bool = False) -> bool:
    """Writes an object; one that is to be `new` only if there is none, and says whether it did.

    That is one step of the store where `ATOMIC` names its scheme. Elsewhere two processes may both
    be told that they did.
    """
    with self._asked():
      if not new:
        with self._replacing(name) as place:
          self._files.pipe_file(place, data)
        return True
      self._make_room(name)
      try:
        if self.scheme == 'local':  # whose pipe_file looks first and writes then
          with self._files.open(below(self.url, name), 'xb') as file:
            file.write(data)
        else:
          self._files.pipe_file(below(self.url, name), data, mode='create')
      except FileExistsError:
        return False
    return True

  def _make_room(self, name: str) -> None:
    if self.scheme not in BUCKETS:
      self._files.makedirs(os.path.dirname(below(self.url, name)), exist_ok=True)

  @contextlib.contextmanager
  def _replacing(self, name: str) -> Iterator[str]:
    """Where to write what then appears at a name; objects appear when they are complete."""
    self._make_room(name)
    place = below(self.url, name)
    if self.scheme != 'local':
      yield place
      return
    partial = f'{place}.{uuid.uuid4().hex[:8]}.partial'
    yield partial
    self._files.mv(partial, place)

  @contextlib.contextmanager
  def _asked(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      raise self._refused(error) from error

  def _refused(self, error: Exception) -> BadInput:
    """What a store answers, in one line; each has exceptions of its own."""
    said = ' '.join(str(error).split()) or type(error).__name__
    why = cure = ''
    if isinstance(error, PermissionError):
      why, cure = 'no permission: ', '; allow it to the account of this machine, or name another'
    elif isinstance(error, FileNotFoundError) and self.scheme in BUCKETS:
      why, cure = 'not found: ', '; look at the name of the bucket, or make it'
    return BadInput(f'storage: {self.url!r}: {why}{said}{cure}')


def _version(info: Mapping[str, Any]) -> str:
  """What tells two versions of an object apart, whatever its store calls it."""
  names = ('etag', 'ETag', 'md5Hash', 'generation', 'mtime', 'LastModified', 'created', 'size')
  return repr([info.get(name) for name in names])
